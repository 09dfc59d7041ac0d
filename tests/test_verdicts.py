"""A green that was earned: no pass without judgement, no exit code but of our verdicts, no part taken for the whole."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from pytest_kvmcheck.gather import bundle
from pytest_kvmcheck.proofs import TOGETHER, of_peers
from pytest_kvmcheck.reports import json_report
from pytest_kvmcheck.targets import Target
from tests import casefile

AT = "2026-06-01T12:00:00+00:00"
PROFILE = """
name: site
checks:
  KVM-KSM-002: {params: {ksm_policy: "off"}}
  KVM-KSM-005: {severity: critical}
  KVM-KSM-001: {severity: low}
  KVM-NUM-001:
  KVM-CLU-002:
"""

#: What stands between pytest and a check, by the name of a plugin module.
PLUGINS = {
    "swallow": "@pytest.hookimpl(tryfirst=True)\ndef pytest_pyfunc_call(pyfuncitem):\n    return True\n",
    "swallow_protocol": "@pytest.hookimpl(tryfirst=True)\ndef pytest_runtest_protocol(item, nextitem):\n    return True\n",
    "swallow_report": """
@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(item, call):
    return pytest.TestReport(item.nodeid, item.location, {}, 'passed', None, call.when)
""",
    "whitewash": """
@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item, call):
    report = yield
    report.outcome, report.longrepr = 'passed', None
    return report
""",
    "catch": """
@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem):
    try:
        return (yield)
    except BaseException:
        return True
""",
    "xfail": "def pytest_collection_modifyitems(items):\n    for i in items: i.add_marker(pytest.mark.xfail(reason='known'))\n",
    "xfail_unrun": "def pytest_collection_modifyitems(items):\n    for i in items: i.add_marker(pytest.mark.xfail(run=False))\n",
    "skip": "def pytest_collection_modifyitems(items):\n    for i in items: i.add_marker(pytest.mark.skip(reason='later'))\n",
    "drop": "def pytest_collection_modifyitems(items):\n    del items[1:]\n",
    "green": "@pytest.hookimpl(trylast=True)\ndef pytest_sessionfinish(session):\n    session.exitstatus = 0\n",
    "backwards": "@pytest.hookimpl(trylast=True)\ndef pytest_collection_modifyitems(items):\n    items.reverse()\n",
}
#: Those that keep checks from being run at all.
UNRUN = ("swallow", "xfail_unrun", "skip")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("verdicts")
    (place / "site.yaml").write_text(PROFILE)
    for name, text in PLUGINS.items():
        (place / f"{name}.py").write_text(f"import pytest\n{text}")
    ksm = {"files": {"/sys/kernel/mm/ksm/run": "1", "/sys/kernel/mm/ksm/merge_across_nodes": "1"}}
    off = {"files": {"/sys/kernel/mm/ksm/run": "0", "/sys/kernel/mm/ksm/merge_across_nodes": "1"}}
    parts = {"bad": {"evidence": {"ksm": ksm}, "domains": []}, "good": {"evidence": {"ksm": off}, "domains": []}}
    targets = [Target(name, f"ssh://{name}", cluster="run") for name in parts]
    evidence = [casefile.evidence(name, part) for name, part in parts.items()]
    bundle.write(place / "both", bundle.Manifest("t", AT, AT, tuple(targets)), evidence)
    for target, one in zip(targets, evidence, strict=True):
        bundle.write(place / target.name, bundle.Manifest("t", AT, AT, (target,)), [one])
    return place


Runs = Callable[..., tuple[int, str, dict[str, Any]]]


@pytest.fixture
def run(place: Path, tmp_path: Path) -> Runs:
    def inner(*args: str, hosts: str = "bundle:both") -> tuple[int, str, dict[str, Any]]:
        out = tmp_path / "out.json"
        command = [sys.executable, "-m", "pytest", "--kvmcheck", "-p", "no:cacheprovider", "--kvmcheck-profile=site.yaml"]
        done = subprocess.run(
            [*command, f"--hosts={hosts}", f"--kvmcheck-json={out}", *args],
            cwd=place, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        text = done.stdout + done.stderr
        assert "INTERNALERROR" not in text, text
        body = json.loads(out.read_text()) if out.exists() else {}
        if "results" in body:
            jsonschema.validate(body, json_report.schema())
        return done.returncode, text, body

    return inner


@pytest.fixture
def honest(run: Runs) -> dict[str, Any]:
    code, text, body = run()
    assert code == 1, text
    assert body["complete"] is True
    assert body["planned"] == len(body["results"]) == sum(body["totals"].values())
    assert body["totals"]["fail"] >= 1
    assert body["totals"]["pass"] >= 1
    return body


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "xdist"])
@pytest.mark.parametrize("plugin", sorted(set(PLUGINS) - {"backwards"}))
def test_no_plugin_makes_a_verdict(run: Runs, honest: dict[str, Any], plugin: str, workers: tuple[str, ...]) -> None:
    code, text, body = run("-p", plugin, *workers)
    if plugin in UNRUN:
        assert {result["outcome"] for result in body["results"]} == {"unknown"}, text
        assert {result["cause"] for result in body["results"]} == {"not judged"}
        assert code == 1, text
    elif plugin in ("swallow_protocol", "drop"):
        assert code != 0, text
        assert not body["complete"]
        assert body["score"] is None
        assert body["lost"] == body["planned"] - len(body["results"]) > 0
    else:
        assert code == 1, text
        assert body["results"] == honest["results"], text


def test_a_debugger_without_a_terminal(run: Runs) -> None:
    code, text, body = run("--trace")
    assert code == 1, text
    assert {result["outcome"] for result in body["results"]} == {"unknown"}


def test_stripped_assertions_are_refused(place: Path) -> None:
    command = [sys.executable, "-O", "-m", "pytest", "--kvmcheck", "--assert=plain", "--hosts=bundle:both"]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 4, done.stdout
    assert "no assertion would be run" in done.stderr


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "xdist"])
@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        (("-k", "KVM-KSM-002 and good"), 1, "without any verdict: bad"),
        (("-k", "KVM-KSM-002"), 1, "of 9 planned verdicts were selected by -k KVM-KSM-002"),
        (("-k", "KVM-NUM-001"), 1, "no score for a part"),
        (("-m", "kvmcheck(severity='critical')"), 1, "2 of 9 planned verdicts were selected"),
        (("--deselect", "test_ksm.py"), 1, "no score for a part"),
    ],
)
def test_a_part_is_told_as_a_part(run: Runs, options: tuple[str, ...], code: int, told: str, workers: tuple[str, ...]) -> None:
    found, text, body = run(*options, *workers)
    assert found == code, text
    if options[0] != "--deselect":
        assert told in " ".join(text.split()), text
        assert not body["complete"]
        assert body["score"] is None
        assert body["score_with_waivers"] is None
        assert body["selection"]
        assert 0 < body["deselected"] == body["planned"] - len(body["results"])


def test_severity_by_the_profile_selects(run: Runs) -> None:
    """The profile makes KSM-005 critical and KSM-001 low; by its own word it is neither."""
    _, _, body = run("-m", "kvmcheck(severity='critical')")
    assert {result["check"] for result in body["results"]} == {"KVM-KSM-005"}
    _, _, body = run("-m", "kvmcheck(severity='low')")
    assert {result["check"] for result in body["results"]} == {"KVM-KSM-001"}


@pytest.mark.parametrize(
    ("option", "told"), [("--collect-only", ""), ("--setup-only", ""), ("--setup-plan", "--setup-only, --setup-plan")]
)
def test_nothing_judged_is_never_green(run: Runs, option: str, told: str) -> None:
    code, text, body = run(option)
    assert code == 5, text
    assert f"nothing was judged by {told or option}" in " ".join(text.split())
    assert body["complete"] is False
    assert body["score"] is None
    assert body["results"] == []


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_files_that_the_ini_drops_are_lost(run: Runs, workers: tuple[str, ...]) -> None:
    code, text, body = run("-o", "python_files=test_num*.py", *workers, hosts="bundle:good")
    assert code == 1, text
    assert body["lost"] > 0
    assert "KVM-KSM-002" in text
    assert "python_files" in text


def test_a_stopped_run_is_no_whole(run: Runs) -> None:
    code, text, body = run("-x")
    assert code == 1
    assert body["lost"] > 0
    assert "the run was stopped (stopping after 1 failures)" in " ".join(text.split()), text


def test_running_again_adds_no_verdict(run: Runs, honest: dict[str, Any]) -> None:
    code, text, body = run("--reruns", "2")
    assert code == 1, text
    assert body["results"] == honest["results"]
    assert body["totals"] == honest["totals"]


def test_without_the_junit_plugin(run: Runs, honest: dict[str, Any]) -> None:
    code, _, body = run("-p", "no:junitxml")
    assert (code, body["results"]) == (1, honest["results"])


def test_a_report_of_an_earlier_run_goes(run: Runs, honest: dict[str, Any], tmp_path: Path) -> None:
    assert (tmp_path / "out.json").exists()
    code, text, body = run("--kvmcheck-waivers=nowhere.yaml")
    assert (code, body) == (4, {}), text
    other = tmp_path / "out.json"
    other.write_text('{"mine": 1}\n')
    code, _, body = run("--kvmcheck-waivers=nowhere.yaml")
    assert (code, body) == (4, {"mine": 1})


def test_hosts_judged_apart_were_not_compared(run: Runs, place: Path, tmp_path: Path) -> None:
    parts = []
    for name in ("bad", "good"):
        _, _, body = run(hosts=f"bundle:{name}")
        assert body["complete"], "one host of no inventory is whole by itself"
        part = tmp_path / f"{name}.json"
        part.write_text((tmp_path / "out.json").read_text())
        parts.append(str(part))
    merge = [sys.executable, "-m", "pytest_kvmcheck.cli", "merge", *parts, "--output", str(tmp_path / "all.json")]
    done = subprocess.run(merge, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout
    assert "cluster run was judged in parts and its hosts not compared" in done.stderr
    merged = json.loads((tmp_path / "all.json").read_text())
    jsonschema.validate(merged, json_report.schema())
    assert (merged["complete"], merged["score"]) == (False, None)


def test_parts_of_one_selection_make_a_whole(run: Runs, honest: dict[str, Any], tmp_path: Path) -> None:
    parts = []
    for number, selection in enumerate(("KSM", "not KSM")):
        run("-k", selection)
        part = tmp_path / f"{number}.json"
        part.write_text((tmp_path / "out.json").read_text())
        parts.append(str(part))
    merge = [sys.executable, "-m", "pytest_kvmcheck.cli", "merge", *parts, "--output", str(tmp_path / "all.json")]
    assert subprocess.run(merge, check=False).returncode == 0
    merged = json.loads((tmp_path / "all.json").read_text())
    assert (merged["complete"], merged["score"]) == (True, honest["score"])
    assert merged["results"] == honest["results"]
    part = subprocess.run([*merge[:4], parts[0], *merge[-2:]], check=False)
    assert part.returncode == 1
    assert json.loads((tmp_path / "all.json").read_text())["complete"] is False


def _rich(place: Path) -> str:
    """A bundle of many hosts with domains, two clusters among them, from the cases."""
    targets, evidence = [], []
    for case in casefile.all_cases():
        if case.outcome in ("pass", "na") and case.scenario[0] in "abcdefgh" and "role" not in case.data:
            for host, part in case.hosts.items():
                targets.append(Target(host, f"ssh://{host}", cluster=f"c{len(case.hosts) % 3}"))
                evidence.append(casefile.evidence(host, part))
    step = max(1, len(targets) // 12)
    targets, evidence = targets[::step], evidence[::step]
    assert len(targets) > 10
    bundle.write(place / "rich", bundle.Manifest("t", AT, AT, tuple(targets)), evidence)
    return f"bundle:{place / 'rich'}"


def test_every_verdict_names_its_evidence_in_any_order(run: Runs, tmp_path: Path) -> None:
    """Serial, backwards and under xdist: the same verdicts, and the same proofs; none that was judged is without."""
    hosts = _rich(tmp_path)
    options = ("--kvmcheck-profile=production", "-q")
    _, _, body = run(*options, hosts=hosts)
    assert len(body["results"]) > 1000
    bare = [result for result in body["results"] if not result["evidence"] and result["outcome"] != "unknown"]
    assert not bare, {(r["check"], r["subject"].partition(".")[2], r["outcome"], r["message"]) for r in bare}
    for order in (("-p", "backwards"), ("-n", "2")):
        _, _, other = run(*options, *order, hosts=hosts)
        assert other["results"] == body["results"], order


def test_many_answers_are_named_together(run: Runs, tmp_path: Path) -> None:
    """The report grows with the domains, not with their square."""
    sizes = []
    for count in (TOGETHER * 2, TOGETHER * 8):
        xml = "<domain type='kvm'><name>d{0}</name><memory>1024</memory><os><type arch='x86_64'>hvm</type></os></domain>"
        domains = [{"xml": xml.format(number), "running": True, "autostart": True} for number in range(count)]
        bundle.write(
            tmp_path / f"n{count}",
            bundle.Manifest("t", AT, AT, (Target("a", "ssh://a"),)),
            [casefile.evidence("a", {"domains": domains})],
        )
        _, _, body = run("--kvmcheck-profile=production", "-q", hosts=f"bundle:{tmp_path / f'n{count}'}")
        proofs = [proof for result in body["results"] for proof in result["evidence"]]
        assert any(proof["probe"] == "domain:*/saved" and proof["answers"] == count for proof in proofs)
        assert max(len(result["evidence"]) for result in body["results"]) < 4 * TOGETHER
        sizes.append((tmp_path / "out.json").stat().st_size)
    assert sizes[1] < 5 * sizes[0]


def test_a_cluster_of_which_a_part_was_asked(run: Runs, place: Path, tmp_path: Path) -> None:
    """One host of it is compared with nobody, and the header says so; of two out of three, what the third could tell is unknown."""
    two = "hosts:\n  bad: {target: 'bundle:bad', cluster: prod}\n  good: {target: 'bundle:good', cluster: prod}\n"
    (place / "three.yaml").write_text(f"{two}  third: {{target: 'ssh://third', cluster: prod}}\n")
    _, text, body = run("--kvmcheck-inventory=three.yaml", hosts="good")
    assert "cluster prod: bad, third are not in this run; nothing is compared" in " ".join(text.split()), text
    assert not [result for result in body["results"] if result["host"] == "cluster:prod"]
    assert [cluster["absent"] for cluster in body["clusters"]] == [["bad", "third"]]
    _, text, body = run("--kvmcheck-inventory=three.yaml", hosts="good,bad")
    assert "cluster prod: third is not in this run" in " ".join(text.split()), text
    assert {result["outcome"] for result in body["results"] if result["host"] == "cluster:prod"} == {"unknown"}


def test_what_many_peers_answered_is_named_together() -> None:
    """Guests have names of their own on each host: they are of one kind all the same."""
    found = [[{"host": f"h{n}", "probe": f"domain:u{n}/saved", "sha256": "0" * 64}] for n in range(TOGETHER + 1)]
    assert [(proof["host"], proof["probe"], proof["answers"]) for proof in of_peers(found, "cluster:c")] == [
        ("cluster:c", "domain:*/saved", TOGETHER + 1)
    ]
    assert of_peers(found[:3], "cluster:c") == [proof for proofs in found[:3] for proof in proofs]
