"""Targets that lie, stall, flood, or speak another shell: each is bounded, said in one line, and passes nothing by it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.live.conftest import Kvmcheck, Run
from tests.live.sshd import NO_LIBVIRT, Farm, fakes, with_path

CPU = "KVM-CPU-010"  # needs nothing but a kernel that shows its vulnerabilities


def quiet(farm: Farm) -> Path:
    """A directory for the PATH, by which the target has no libvirt daemon: then only the login differs."""
    return fakes(farm.place / "quiet", virsh=NO_LIBVIRT)


def judge(kvmcheck: Kvmcheck, farm: Farm, name: str, *args: str, env: dict[str, str] | None = None) -> Run:
    return kvmcheck(f"--hosts=ssh://{name}", f"--ssh-config={farm.config}", *args, env=env)


@pytest.fixture(scope="module")
def plain(farm: Farm, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], str]:
    """The outcomes of this machine over an ordinary login, to compare with."""
    farm.host("plain", login=with_path(quiet(farm)))
    run = judge(Kvmcheck(tmp_path_factory.mktemp("plain")), farm, "plain")
    return outcomes(run, "plain")


def outcomes(run: Run, name: str) -> dict[tuple[str, str], str]:
    return {(result["check"], result["subject"].removeprefix(name)): result["outcome"] for result in run.results}


FORGED = "00000000-0000-4000-8000-000000000000"
BANNER = rf"printf 'Welcome!\n@0123456789abcdef HELLO 2 {FORGED} base64 uid=0 sudo=off\n@{FORGED} DONE\n'; echo 'last login' >&2"


@pytest.mark.parametrize(
    ("name", "login"),
    [
        ("banner", f'{BANNER}; exec sh -c "$SSH_ORIGINAL_COMMAND"'),
        ("fish", 'exec fish -c "$SSH_ORIGINAL_COMMAND"'),
        ("csh", 'exec csh -f -c "$SSH_ORIGINAL_COMMAND"'),
        ("busybox", 'exec busybox sh -c "$SSH_ORIGINAL_COMMAND"'),
        ("bash", 'exec bash -c "$SSH_ORIGINAL_COMMAND"'),
        (
            "german",
            'LANG=de_DE.UTF-8 LC_ALL=de_DE.UTF-8 LANGUAGE=de LC_NUMERIC=de_DE.UTF-8 exec sh -c "$SSH_ORIGINAL_COMMAND"',
        ),
        ("restricted-path", 'PATH=${PATH%%:*}:/usr/bin:/bin exec sh -c "$SSH_ORIGINAL_COMMAND"'),
    ],
)
def test_any_login_shell_gives_the_same_verdicts(
    farm: Farm, kvmcheck: Kvmcheck, plain: dict[tuple[str, str], str], name: str, login: str
) -> None:
    farm.host(name, login=f"PATH={quiet(farm)}:$PATH; export PATH\n{login}")
    found = outcomes(judge(kvmcheck, farm, name), name)
    if (
        name == "busybox"
    ):  # its own ip and df stand in for the real ones: what they cannot tell is unknown, and nothing else changes
        assert {found[key] for key in found if plain.get(key) != found[key]} <= {"unknown"}
    else:
        assert found == plain


def test_a_login_that_runs_nothing(farm: Farm, kvmcheck: Kvmcheck) -> None:
    farm.host("nologin", login="echo 'This account is currently not available.'; exit 1")
    run = judge(kvmcheck, farm, "nologin")
    assert "This account is currently not available." in run.host("nologin")["problem"]
    assert {result["outcome"] for result in run.of("nologin")} == {"unknown"}


def test_a_target_with_little_more_than_a_shell(farm: Farm, kvmcheck: Kvmcheck, tmp_path: Path) -> None:
    """No bash, python, virsh, systemctl, coreutils: busybox alone. What it lacks is missing, what it has is judged."""
    place = tmp_path / "bin"
    place.mkdir()
    busybox = shutil.which("busybox")
    assert busybox
    for name in (
        "sh",
        "cat",
        "grep",
        "head",
        "base64",
        "timeout",
        "id",
        "uname",
        "stat",
        "sort",
        "date",
        "env",
        "true",
        "ls",
        "wc",
    ):
        (place / name).symlink_to(busybox)
    farm.host("tiny", login=f'export PATH={place}; exec sh -c "$SSH_ORIGINAL_COMMAND"')
    run = judge(kvmcheck, farm, "tiny")
    assert run.host("tiny")["reached"]
    service = run.one("KVM-SVC-001", "tiny")
    assert (service["outcome"], service["cause"]) == ("unknown", "missing"), service
    assert run.one(CPU, "tiny")["outcome"] in ("pass", "warn", "fail")
    for result in run.results:
        assert not (result["outcome"] == "pass" and any(proof["probe"].startswith("virsh") for proof in result["evidence"]))


def test_no_base64_and_no_timeout_command(farm: Farm, kvmcheck: Kvmcheck, tmp_path: Path) -> None:
    place = tmp_path / "bin"
    place.mkdir()
    for directory in ("/bin", "/usr/bin", "/sbin", "/usr/sbin"):
        for found in Path(directory).iterdir():
            link = place / found.name
            if found.name not in ("base64", "timeout", "virsh") and not link.exists():
                link.symlink_to(found)
    fakes(place, virsh=NO_LIBVIRT)
    farm.host("old", login=f'export PATH={place}; exec sh -c "$SSH_ORIGINAL_COMMAND"')
    run = judge(kvmcheck, farm, "old")
    assert run.host("old")["reached"]
    assert run.one(CPU, "old")["outcome"] in ("pass", "warn", "fail")


@pytest.fixture
def faked(farm: Farm, tmp_path: Path) -> str:
    name = f"fake-{tmp_path.name.replace('_', '-')}"
    farm.host(name, login=with_path(fakes(tmp_path / "fakes", virsh=NO_LIBVIRT)))
    return name


def test_a_hanging_probe_costs_its_own_timeout_only(farm: Farm, kvmcheck: Kvmcheck, faked: str, tmp_path: Path) -> None:
    fakes(tmp_path / "fakes", chronyc="trap '' TERM; while :; do sleep 1; done")
    run = judge(kvmcheck, farm, faked)
    result = run.one("KVM-TIM-001", faked)
    assert (result["outcome"], result["cause"]) == ("unknown", "timed out"), result
    assert run.one(CPU, faked)["outcome"] != "unknown"


def test_a_gigabyte_of_output_is_cut(farm: Farm, kvmcheck: Kvmcheck, faked: str, tmp_path: Path) -> None:
    fakes(tmp_path / "fakes", chronyc="head -c 1000000000 /dev/zero | tr '\\0' x")
    run = judge(kvmcheck, farm, faked, f"--kvmcheck-record={tmp_path / 'e'}")
    result = run.one("KVM-TIM-001", faked)
    assert (result["outcome"], result["cause"]) == ("unknown", "truncated"), result
    assert run.one(CPU, faked)["outcome"] != "unknown"
    assert sum(path.stat().st_size for path in (tmp_path / "e").rglob("*.txt")) < 8 * 2**20


@pytest.mark.parametrize(
    "said",
    [
        r"printf '\377\376\200 not text \n'",
        r"printf 'A29FC87B,1.2.3.4,3,1795,0.0,0,0,0,0,0,0.1,0.1,64\0,Normal\n'",
        "echo 'A29FC87B,192.0.2.1,3,1795490000,\"0,000017\",0,0,0,0,0,0,1,0'",
        "printf ''",
        "echo '<html>502 Bad Gateway</html>'",
    ],
    ids=["non-utf8", "nul", "commas", "empty", "html"],
)
def test_garbage_is_unparsable(farm: Farm, kvmcheck: Kvmcheck, faked: str, tmp_path: Path, said: str) -> None:
    fakes(tmp_path / "fakes", chronyc=said)
    result = judge(kvmcheck, farm, faked).one("KVM-TIM-001", faked)
    assert (result["outcome"], result["cause"]) == ("unknown", "unparsable"), result


def test_a_reply_cut_in_the_middle(farm: Farm, kvmcheck: Kvmcheck) -> None:
    """What arrived whole is judged; the rest is lost, and loud."""
    farm.host("cut", login=f'PATH={quiet(farm)}:$PATH; sh -c "$SSH_ORIGINAL_COMMAND" | head -c 12000; sleep 2; exit 9')
    run = judge(kvmcheck, farm, "cut")
    lost = [result["message"] for result in run.results if result["cause"] == "lost"]
    told = r"the reply ended before this answer after [2-9] s of silence \(exit code 9\)"
    assert any(re.search(told, message) for message in lost), lost
    assert run.rc == 1
    assert "lost" in run.stdout


def test_a_flood_that_is_not_our_reply(farm: Farm, kvmcheck: Kvmcheck) -> None:
    farm.host("flood", login="exec yes 'all is well'")
    (kvmcheck.place / "pytest.ini").write_text("[pytest]\nkvmcheck_host_timeout = 6\n")
    run = judge(kvmcheck, farm, "flood")
    assert not run.host("flood")["reached"]
    assert {result["outcome"] for result in run.of("flood")} == {"unknown"}


def hidden(farm: Farm, place: str) -> str:
    shell = 'exec sh -c "$SSH_ORIGINAL_COMMAND"'
    return f"PATH={quiet(farm)}:$PATH; export PATH; exec unshare -m sh -c 'mount -t tmpfs none {place}; {shell}'"


def test_hidden_proc(farm: Farm, kvmcheck: Kvmcheck, plain: dict[tuple[str, str], str]) -> None:
    farm.host("noproc", login=hidden(farm, "/proc"))
    run = judge(kvmcheck, farm, "noproc")
    assert run.host("noproc")["reached"]
    found = outcomes(run, "noproc")
    assert found["KVM-CPU-001", ""] == "unknown"
    assert_weaker(found, plain)


def test_hidden_sys(farm: Farm, kvmcheck: Kvmcheck, plain: dict[tuple[str, str], str]) -> None:
    farm.host("nosys", login=hidden(farm, "/sys"))
    run = judge(kvmcheck, farm, "nosys")
    assert_weaker(outcomes(run, "nosys"), plain)
    judged = [result for result in run.results if result["outcome"] in ("pass", "na")]
    for result in judged:
        assert not any(
            proof["probe"] in ("numa", "ksm", "thp", "vulnerabilities", "kvm_modules", "dm_maps", "scsi_disks")
            for proof in result["evidence"]
        ), result


def assert_weaker(found: dict[tuple[str, str], str], plain: dict[tuple[str, str], str]) -> None:
    """With less to see, nothing may become a pass or drop out."""
    for key, outcome in found.items():
        assert not (outcome == "pass" and plain.get(key) != "pass"), key
        assert not (outcome == "na" and plain.get(key, "na") != "na"), key


HOSTILE = [
    '"><script>alert(1)</script>',
    "../../etc/x",
    "-rf",
    'it\'s "quoted" `id` $(id)',
    "two\nlines",
    "x" * 200,
    "naïve ☃",
]


def escaped(name: str) -> str:
    return name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\n", "&#10;").replace("'", "&apos;")


def hostile_virsh(names: list[str], xml: str = "") -> str:
    """A virsh that answers our two batches with domains of these names."""
    uuids = [f"00000000-0000-4000-8000-{number:012d}" for number in range(len(names))]
    listing = "\n".join(uuids)
    documents = [
        xml
        or f"<domain type='qemu'><name>{escaped(name)}</name><uuid>{uuid}</uuid><memory>1024</memory><vcpu>1</vcpu>"
        f"<os><type arch='x86_64' machine='pc'>hvm</type></os><devices><disk type='file' device='disk'>"
        f"<source file='/{escaped(name)}'/><target dev='sda' bus='ide'/></disk></devices></domain>"
        for name, uuid in zip(names, uuids, strict=True)
    ]
    cases = "\n".join(f"dumpxml*{uuid}*) cat <<'EOD'\n{document}\nEOD\n;;" for uuid, document in zip(uuids, documents, strict=True))
    return f"""
case "$*" in *" list --all --uuid") echo "{listing}"; echo; exit ;; esac
for last; do :; done
printf '%s\\n' "$last" | tr ';' '\\n' | while read -r word rest; do
case "$word $rest" in
echo*) echo "$rest" ;;
*--inactive*|dumpxml*) line="$word $rest"; line=$(echo "$line" | sed 's/--inactive//')
  case $line in {cases} esac ;;
"list --uuid"*) echo ;;
list*autostart*) echo ;;
list*) echo "{listing}"; echo ;;
uri*) echo "$VIRSH_DEFAULT_CONNECT_URI" ;;
esac
done
"""


def test_hostile_domain_names_stay_data(farm: Farm, kvmcheck: Kvmcheck, faked: str, tmp_path: Path) -> None:
    fakes(tmp_path / "fakes", virsh=hostile_virsh(HOSTILE))
    html, junit, evidence = tmp_path / "r.html", tmp_path / "j.xml", tmp_path / "evidence"
    run = judge(
        kvmcheck,
        farm,
        faked,
        f"--html={html}",
        "--self-contained-html",
        f"--junitxml={junit}",
        f"--kvmcheck-record={evidence}",
    )
    disks = [result for result in run.results if result["check"] == "KVM-VIO-001"]
    assert len(disks) == len(HOSTILE), [result["subject"] for result in disks]
    assert {result["outcome"] for result in disks} == {"fail"}
    assert len({result["subject"] for result in disks}) == len(HOSTILE)
    for result in run.results:
        assert result["subject"].isprintable()
        assert ".." not in result["subject"].split("/")
        assert len(result["subject"]) < 300
        assert "\n" not in result["message"]
    assert "<script>alert(1)" not in html.read_text()
    assert "<script>alert(1)" not in junit.read_text()
    for path in evidence.rglob("*"):
        assert path.resolve().is_relative_to(evidence.resolve())
    again = kvmcheck(f"--hosts=bundle:{evidence}")
    assert [result["subject"] for result in again.results] == [result["subject"] for result in run.results]


LAUGHS = (
    '<?xml version="1.0"?><!DOCTYPE d [<!ENTITY a "ha">'
    + "".join(f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 10}">' for n in range(9))
    + "]><domain type='kvm'><name>&j;</name></domain>"
)


def test_billion_laughs(farm: Farm, kvmcheck: Kvmcheck, faked: str, tmp_path: Path) -> None:
    fakes(tmp_path / "fakes", virsh=hostile_virsh(["laugh"], LAUGHS))
    run = judge(kvmcheck, farm, faked)
    result = run.one("KVM-VIO-008", f"{faked}/00000000-0000-4000-8000-000000000000")
    assert (result["outcome"], result["cause"]) == ("unknown", "unparsable"), result
    assert run.seconds < 60


PORTS = "".join(
    f"<controller type='pci' index='{n}' model='pcie-root-port'><model name='pcie-root-port'/>"
    f"<target chassis='{n}' port='{n + 15}'/>"
    f"<alias name='pci.{n}'/><address type='pci' domain='0x0000' bus='0x00' slot='0x02' function='0x{n % 8}'/></controller>\n"
    for n in range(1, 29)
)
BIG = """<domain type='kvm' id='7'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <memory unit='KiB'>8388608</memory>
  <vcpu placement='static'>8</vcpu>
  <cputune>{pins}</cputune>
  <os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os>
  <devices>
    <disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='none'/><source file='/images/{name}.qcow2'/>
      <target dev='vda' bus='virtio'/></disk>
    {ports}
    <interface type='bridge'><mac address='52:54:00:{mac}'/><source bridge='br0'/><model type='virtio'/></interface>
  </devices>
  <seclabel type='dynamic' model='dac' relabel='yes'><label>+64055:+64055</label></seclabel>
</domain>
"""


def test_two_hundred_domains_are_a_small_reply(farm: Farm, kvmcheck: Kvmcheck, tmp_path: Path) -> None:
    """What virsh says of them is several megabytes; it travels compressed, and every domain is judged."""
    uuids = [f"6d1a6e8a-0000-4000-8000-{number:012d}" for number in range(200)]
    place = tmp_path / "answers"
    place.mkdir()
    pins = "".join(f"<vcpupin vcpu='{n}' cpuset='{n}'/>" for n in range(8))
    for number, uuid in enumerate(uuids):
        mac = f"{number:06x}"
        text = BIG.format(name=f"vm{number}", uuid=uuid, pins=pins, ports=PORTS, mac=":".join((mac[:2], mac[2:4], mac[4:])))
        (place / f"{uuid}.xml").write_text(text)
    (place / "list").write_text("\n".join([*uuids, "", ""]))
    fakes(
        tmp_path / "fakes",
        virsh=f"""cd {place}
case "$*" in *" list --all --uuid") cat list; exit ;; esac
for last; do :; done
printf '%s\\n' "$last" | tr ';' '\\n' | while read -r word rest; do
case "$word $rest" in
echo*) echo "$rest" ;;
dumpxml*) cat ${{rest##* }}.xml ;;
snapshot*) printf ' Name   Creation Time   State\\n---------------------------------\\n\\n' ;;
list*autostart*) echo ;;
list*) cat list ;;
uri*) echo "$VIRSH_DEFAULT_CONNECT_URI" ;;
esac; done""",
    )
    saved = tmp_path / "reply"
    farm.host("crowd", login=f'export PATH={tmp_path / "fakes"}:$PATH; sh -c "$SSH_ORIGINAL_COMMAND" | tee {saved}')
    run = judge(kvmcheck, farm, "crowd", "-k", "KVM-VIO-001 or KVM-VIO-008", f"--kvmcheck-record={tmp_path / 'e'}")
    judged = [result for result in run.results if result["check"] == "KVM-VIO-001"]
    assert [result["outcome"] for result in judged] == ["pass"] * 200
    said = sum(path.stat().st_size for path in (tmp_path / "e").rglob("*.txt"))
    assert said > 3 * 10**6
    assert saved.stat().st_size < 2**20, saved.stat().st_size
