"""Hosts that hang, however many: the others' evidence is there as soon as it would be without them."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_kvmcheck import plan
from pytest_kvmcheck.gather import budget
from pytest_kvmcheck.gather.transport import Connection
from pytest_kvmcheck.settings import Settings
from tests.live.sshd import Farm


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a listener that accepts and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=4000) as listener:
        yield listener.getsockname()[1]


def hung(farm: Farm, port: int, count: int) -> list[str]:
    with farm.config.open("a") as file:
        file.write(f"Host hung*-{port}\n HostName 127.0.0.1\n Port {port}\n")
    return [f"ssh://hung{number:04d}-{port}" for number in range(count)]


def gathered(farm: Farm, specs: list[str], deadline_s: float = 60, connect_s: int = 10) -> tuple[list[str], plan.Plan]:
    """The names of the hosts that answered, and of those that were given up, in the order in which they were done."""
    connection = Connection(ssh_config=str(farm.config), deadline_s=deadline_s, connect_timeout_s=connect_s)
    made = plan.make(Settings(), ",".join(specs), connection)
    order: list[str] = []
    plan.gather(made, lambda target, evidence, _: order.append(f"{'dead' if evidence.failure else 'good'} {target.name}"))
    return order, made


def stamping(farm: Farm, name: str) -> Path:
    """A good host that notes when it was asked."""
    stamp = farm.place / f"{name}.asked"
    farm.host(name, login=f'date +%s.%N >{stamp}; exec sh -c "$SSH_ORIGINAL_COMMAND"')
    return stamp


@pytest.fixture(autouse=True)
def own_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


@pytest.mark.parametrize("count", [0, 65, 200])
def test_silent_hosts_delay_nobody(farm: Farm, silent: int, count: int) -> None:
    """All of them are still waited for when the good one, the last by name, has long been there."""
    stamp = stamping(farm, f"zgood{count}")
    begin = time.time()
    order, _ = gathered(farm, [f"ssh://zgood{count}", *hung(farm, silent, count)], 150, connect_s=60)
    print(f"beside {count} hung hosts the good one was asked after {float(stamp.read_text()) - begin:.2f} s")
    assert order[0] == f"good zgood{count}"
    assert float(stamp.read_text()) - begin < 15


def test_logins_that_sleep_delay_nobody(farm: Farm) -> None:
    farm.host("zgood2")
    farm.host("sleepy", login="sleep 600")
    alias = farm.config.read_text().split("Host sleepy\n")[1].split("Host ")[0]
    with farm.config.open("a") as file:
        file.write("Host sleepy??\n" + alias)
    order, made = gathered(farm, ["ssh://zgood2", *(f"ssh://sleepy{number:02d}" for number in range(8))], 40)
    assert order[0] == "good zgood2"
    problems = {host.evidence.failure.detail for host in made.hosts if host.evidence.failure}
    assert problems == {"no answer within 40 s"}


def test_when_all_places_are_taken_the_most_silent_gives_way(farm: Farm, silent: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the machine has room for is less than what hangs: those who say nothing make room, and it is told."""
    monkeypatch.setattr(budget, "WAITING", 8)
    monkeypatch.setattr(budget, "SILENT_S", 1.0)
    farm.host("zgood3")
    order, made = gathered(farm, ["ssh://zgood3", *hung(farm, silent, 24)], connect_s=60)
    assert "good zgood3" in order
    details = [host.evidence.failure.detail for host in made.hosts if host.evidence.failure]
    assert any(detail == "silent for 1 s while other hosts waited for its place" for detail in details), details


def test_one_that_floods_is_cut_and_the_others_are_not(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answers of all together have a budget; whoever holds most of it is the one to go."""
    monkeypatch.setattr(budget, "HELD_BYTES", 8 * 2**20)
    farm.host("flood", login="exec yes all is well")
    farm.host("zgood4")
    order, made = gathered(farm, ["ssh://zgood4", "ssh://flood"])
    assert "good zgood4" in order
    [failure] = [host.evidence.failure for host in made.hosts if host.evidence.failure]
    assert "its own was the largest" in failure.detail


def test_what_cannot_be_waited_for_is_given_up(farm: Farm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A collector that never comes back (a file on a server that is gone) holds nobody up, and the run ends."""
    monkeypatch.setattr(budget, "OVERTIME_S", 1.0)
    monkeypatch.setattr(plan.recorded, "from_reply", lambda target: time.sleep(20))
    (tmp_path / "gone").write_text("")
    made = plan.make(Settings(), f"reply:{tmp_path / 'gone'}", Connection(deadline_s=1))
    begin = time.monotonic()
    plan.gather(made, lambda *_: None)
    assert time.monotonic() - begin < 5
    failure = made.hosts[0].evidence.failure
    assert failure and "given up" in failure.detail


def test_no_process_is_left(farm: Farm, silent: int) -> None:
    def left() -> tuple[int, str]:
        done = subprocess.run(["pgrep", "-c", "-f", f"hung[0-9]*-{silent}"], capture_output=True, text=True, check=False)
        return done.returncode, done.stdout

    before = left()
    made = plan.make(Settings(), ",".join(hung(farm, silent, 3)), Connection(ssh_config=str(farm.config), deadline_s=2))
    plan.gather(made, lambda *_: None)
    assert (before, left()) == ((1, "0\n"), (1, "0\n"))  # pgrep ends with 1 when it finds none


def test_one_gathering_after_the_other(farm: Farm) -> None:
    """What ends all of one run does not end what is started after it."""
    from pytest_kvmcheck.gather.transport import bounded

    made = plan.make(Settings(), "ssh://nobody", Connection(ssh_config=str(farm.config), deadline_s=5))
    plan.gather(made, lambda *_: None)
    answer = bounded(["/bin/sh", "-c", "sleep 0.2; echo there"], 10)
    assert (answer.stdout, answer.rc, answer.stopped) == (b"there\n", 0, None)
