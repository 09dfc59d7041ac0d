"""Hosts over a real ssh: one trip, dead and refusing hosts, replay, xdist."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from tests.live.conftest import Kvmcheck, Run
from tests.live.sshd import Farm

TIMES = ("started_at", "finished_at")


def timeless(report: dict[str, Any]) -> str:
    return json.dumps({key: value for key, value in report.items() if key not in TIMES}, sort_keys=True)


def assert_no_pass(results: list[dict[str, Any]]) -> None:
    assert results
    assert {result["outcome"] for result in results} == {"unknown"}


@pytest.fixture(scope="module")
def fleet(farm: Farm) -> str:
    farm.host("a")
    farm.host("b")
    farm.host("dead", listening=False)
    return "ssh://a,ssh://b,ssh://dead"


@pytest.fixture(scope="module")
def live(farm: Farm, fleet: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    place = tmp_path_factory.mktemp("live")
    run = Kvmcheck(place)(
        f"--hosts={fleet}",
        f"--ssh-config={farm.config}",
        "--kvmcheck-profile=production",
        f"--kvmcheck-record={place / 'evidence'}",
        f"--junitxml={place / 'j.xml'}",
        f"--html={place / 'r.html'}",
        "--self-contained-html",
    )
    return run, place


def test_living_hosts_are_judged_in_full_beside_a_dead_one(live: tuple[Run, Path]) -> None:
    run, _ = live
    assert run.rc == 1
    assert {result["check"] for result in run.of("a")} == {result["check"] for result in run.of("b")}
    assert {result["outcome"] for result in run.of("a")} >= {"pass"}
    outcomes = [
        [(result["check"], result["outcome"]) for result in run.of(name) if result["subject"].startswith(name)]
        for name in ("a", "b")
    ]
    assert outcomes[0] == outcomes[1]  # the same machine, asked twice


def test_a_dead_host_is_one_line_and_never_passes(live: tuple[Run, Path]) -> None:
    run, _ = live
    assert_no_pass(run.of("dead"))
    assert {result["cause"] for result in run.of("dead")} == {"unreachable"}
    folded = [line for line in run.stdout.splitlines() if line.startswith("UNKNOWN") and " dead: unreachable" in line]
    assert len(folded) == 1, run.stdout
    assert "Connection refused" in run.host("dead")["problem"]


def test_one_connection_and_one_command_per_host(farm: Farm, live: tuple[Run, Path]) -> None:
    """The server's own log says so."""
    assert (farm.connections("a"), farm.commands("a")) == (1, 1)


def test_replay_gives_the_same_json(live: tuple[Run, Path], kvmcheck: Kvmcheck) -> None:
    run, place = live
    again = kvmcheck(f"--hosts=bundle:{place / 'evidence'}", "--kvmcheck-profile=production")
    assert run.report and again.report
    assert timeless(again.report) == timeless(run.report)


def test_replay_of_an_archive_takes_the_recorded_profile(live: tuple[Run, Path], kvmcheck: Kvmcheck, tmp_path: Path) -> None:
    run, place = live
    subprocess.run(["tar", "-czf", tmp_path / "e.tar.gz", "-C", place, "evidence"], check=True)
    again = kvmcheck(f"--hosts=bundle:{tmp_path / 'e.tar.gz'}")
    assert run.report and again.report
    assert again.report["profile"] == "production"
    assert timeless(again.report) == timeless(run.report)


def test_xdist_gathers_once_and_judges_the_same(farm: Farm, live: tuple[Run, Path], kvmcheck: Kvmcheck) -> None:
    run, place = live
    again = kvmcheck(f"--hosts=bundle:{place / 'evidence'}", "--kvmcheck-profile=production", "-n", "2")
    assert run.report and again.report
    assert timeless(again.report) == timeless(run.report)
    before = farm.connections("b")
    record = kvmcheck.place / "e"
    split = kvmcheck("--hosts=ssh://b,ssh://dead", f"--ssh-config={farm.config}", "-n", "2", f"--kvmcheck-record={record}")
    assert farm.connections("b") == before + 1
    one = kvmcheck(f"--hosts=bundle:{record}")
    assert split.report and one.report
    assert timeless(split.report) == timeless(one.report)


def test_bundle_is_what_sha256sum_says(live: tuple[Run, Path]) -> None:
    _, place = live
    done = subprocess.run(["sha256sum", "--strict", "--quiet", "-c", "SHA256SUMS"], cwd=place / "evidence", check=False)
    assert done.returncode == 0


def test_junit_has_every_verdict(live: tuple[Run, Path]) -> None:
    run, place = live
    suite = ET.parse(place / "j.xml").getroot().find("testsuite")
    assert suite is not None
    assert len(suite.findall("testcase")) == len(run.results)
    unknown = sum(result["outcome"] == "unknown" for result in run.results)
    assert len(suite.findall("testcase/error")) == unknown
    failed = sum(result["outcome"] == "fail" for result in run.results)
    assert len(suite.findall("testcase/failure")) == failed


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("refused", {"key": "stranger"}, "its sshd refused our key"),
        ("changed", {"known": "other"}, "its SSH host key has changed"),
        ("unknown", {"known": "nothing"}, "its SSH host key is unknown"),
        ("closed", {"listening": False}, "Connection refused"),
    ],
)
def test_refusals_are_one_clear_line(farm: Farm, kvmcheck: Kvmcheck, name: str, options: dict[str, Any], said: str) -> None:
    if options.get("key") == "stranger":
        options = {"key": farm.stranger}
    farm.host(name, **options)
    farm.host(f"good-{name}")
    run = kvmcheck(f"--hosts=ssh://{name},ssh://good-{name}", f"--ssh-config={farm.config}")
    assert run.rc == 1
    assert said in run.host(name)["problem"]
    assert_no_pass(run.of(name))
    assert any(result["outcome"] == "pass" for result in run.of(f"good-{name}"))


@pytest.mark.parametrize(
    "setting",
    ["NoHostAuthenticationForLocalhost yes", "StrictHostKeyChecking no", "VerifyHostKeyDNS yes", "UpdateHostKeys yes"],
)
def test_no_setting_of_ssh_trusts_an_unknown_key(farm: Farm, kvmcheck: Kvmcheck, setting: str) -> None:
    """Nor one of --ssh-extra-args; and nothing is written into known_hosts."""
    name = f"lax-{setting.split()[0].lower()}"
    farm.host(name, known="nothing")
    with farm.config.open("a") as file:
        file.write(f"Host {name}\n {setting}\n")
    extra = "--ssh-extra-args=-o " + setting.replace(" ", "=") + " -o PermitLocalCommand=yes"
    run = kvmcheck(f"--hosts=ssh://{name}", f"--ssh-config={farm.config}", extra, "-k", "KVM-CPU")
    assert "its SSH host key is unknown" in run.host(name)["problem"]
    assert_no_pass(run.of(name))
    assert (farm.place / f"{name}.known_hosts").read_text() == ""


def test_what_ssh_config_adds_is_left_out(farm: Farm, kvmcheck: Kvmcheck) -> None:
    """A command, a tunnel, a local command: none of them is part of asking; the host is reached all the same."""
    farm.host("busy")
    ran = farm.place / "local-command-ran"
    with farm.config.open("a") as file:
        file.write(f"Host busy\n RemoteCommand touch {ran}\n PermitLocalCommand yes\n LocalCommand touch {ran}\n Tunnel yes\n")
        file.write(" ForwardAgent yes\n GSSAPIDelegateCredentials yes\n RequestTTY force\n")
    run = kvmcheck("--hosts=ssh://busy", f"--ssh-config={farm.config}", "-k", "KVM-CPU")
    assert run.host("busy")["reached"], run.host("busy")
    assert not ran.exists()


def test_unresolvable_host(farm: Farm, kvmcheck: Kvmcheck) -> None:
    run = kvmcheck("--hosts=ssh://no-such-host.invalid", f"--ssh-config={farm.config}")
    assert run.rc == 1
    assert "no-such-host.invalid" in run.host("no-such-host.invalid")["problem"]
    assert_no_pass(run.of("no-such-host.invalid"))


def test_black_hole_ends_at_the_deadline_and_delays_nobody(farm: Farm, kvmcheck: Kvmcheck) -> None:
    farm.host("hung", login="sleep 600")
    farm.host("quick")
    ini = kvmcheck.place / "pytest.ini"
    ini.write_text("[pytest]\nkvmcheck_host_timeout = 4\n")
    run = kvmcheck("--hosts=ssh://hung,ssh://quick", f"--ssh-config={farm.config}")
    assert run.host("hung")["problem"] == "no answer within 4 s"
    assert_no_pass(run.of("hung"))
    assert any(result["outcome"] == "pass" for result in run.of("quick"))
    assert run.seconds < 40


def test_without_root_things_are_not_permitted_and_sudo_is_the_way_out(farm: Farm, kvmcheck: Kvmcheck) -> None:
    login = 'exec setpriv --reuid 65534 --regid 65534 --clear-groups sh -c "$SSH_ORIGINAL_COMMAND"'
    farm.host("plain", login=login)
    run = kvmcheck("--hosts=ssh://plain", f"--ssh-config={farm.config}")
    result = run.one("KVM-SVC-009", "plain")
    assert (result["outcome"], result["cause"]) == ("unknown", "not permitted")
    assert "kvmcheck commands --sudoers" in " ".join(run.stdout.split())
    denied = kvmcheck("--hosts=ssh://plain", f"--ssh-config={farm.config}", "--sudo")
    assert denied.one("KVM-SVC-009", "plain")["cause"] == "not permitted"
    assert denied.host("plain")["sudo"] == "denied"
    assert "sudo refused without a password" in denied.stdout


#: ansible-inventory is asked by testinfra; it is installed beside pytest.
ANSIBLE = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def ansible_hosts(farm: Farm, place: Path, *names: str, more: str = "") -> str:
    """An inventory of ansible's. Its hosts are reached as our ssh_config says."""
    path = place / "hosts.ini"
    path.write_text("[kvm]\n" + "".join(f"{name} {more}\n" for name in names) + "[other]\nelsewhere\n")
    return f"--ansible-inventory={path}"


def test_ansible_inventory(farm: Farm, kvmcheck: Kvmcheck, tmp_path: Path) -> None:
    """A group becomes its hosts, reached in one trip by ssh and with our options: an unknown host key is refused as ever."""
    farm.host("ans1")
    farm.host("ans2")
    farm.host("ans3", known="nothing")
    more = "ansible_ssh_common_args='-o StrictHostKeyChecking=no'"
    inventory = ansible_hosts(farm, tmp_path, "ans1", "ans2", "ans3", more=more)
    run = kvmcheck("--hosts=ansible://kvm", inventory, f"--ssh-config={farm.config}", "-k", "KVM-CPU", env=ANSIBLE)
    assert {host["name"] for host in run.report["hosts"]} == {"ans1", "ans2", "ans3"}  # type: ignore[index]
    for name in ("ans1", "ans2"):
        assert run.host(name)["reached"], run.host(name)
        assert (farm.connections(name), farm.commands(name)) == (1, 1)
        assert any(result["outcome"] != "unknown" for result in run.of(name))
    assert "its SSH host key is unknown" in run.host("ans3")["problem"]
    assert_no_pass(run.of("ans3"))


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ("ansible_user=root ansible_ssh_pass=hunter2", "a password would stand on a command line"),
        ("ansible_connection=paramiko_ssh", "paramiko accepts unknown SSH host keys"),
        ("ansible_connection=winrm", "ansible itself would write files to it"),
    ],
)
def test_ansible_connections_that_are_refused(farm: Farm, kvmcheck: Kvmcheck, tmp_path: Path, variables: str, said: str) -> None:
    inventory = ansible_hosts(farm, tmp_path, "refused-one", more=variables)
    run = kvmcheck("--hosts=ansible://kvm", inventory, "-k", "KVM-CPU", env=ANSIBLE)
    assert said in run.host("refused-one")["problem"]
    assert_no_pass(run.of("refused-one"))
    assert "hunter2" not in run.stdout + run.stderr + json.dumps(run.report)


@pytest.mark.parametrize(
    ("hosts", "inventory", "said"),
    [("ansible://nobody", "hosts.ini", "names no such host"), ("ansible://kvm", "none.ini", "No inventory was parsed")],
)
def test_ansible_inventory_mistakes(farm: Farm, kvmcheck: Kvmcheck, tmp_path: Path, hosts: str, inventory: str, said: str) -> None:
    ansible_hosts(farm, tmp_path, "ans1")
    run = kvmcheck(f"--hosts={hosts}", f"--ansible-inventory={tmp_path / inventory}", env=ANSIBLE)
    assert run.rc == 4
    assert said in run.stderr
    assert len(run.stderr.strip().splitlines()) == 1
