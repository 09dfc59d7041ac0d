"""Who is asked, and by what each is judged: one name has one source, every target has a check, no profile is dropped in silence."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_kvmcheck import __version__, plan, provenance
from pytest_kvmcheck.errors import KvmcheckError
from pytest_kvmcheck.evidence import Evidence
from pytest_kvmcheck.gather import bundle
from pytest_kvmcheck.gather.transport import Connection
from pytest_kvmcheck.plan import Plan
from pytest_kvmcheck.profiles import Level
from pytest_kvmcheck.settings import Settings
from pytest_kvmcheck.subjects import list_subjects
from pytest_kvmcheck.targets import Target
from pytest_kvmcheck.views.host import Host
from tests import casefile

AT = "2025-11-01T04:45:00+00:00"
OFF = "name: ksm-off\nchecks:\n  KVM-KSM-002: {params: {ksm_policy: 'off'}}\n"


def record(place: str, *targets: str | Target, run: str = "0", at: str = AT, **meta: Any) -> None:
    ksm = {"files": {"/sys/kernel/mm/ksm/run": run, "/sys/kernel/mm/ksm/merge_across_nodes": "1"}}
    found = [Target(one, f"ssh://{one}") if isinstance(one, str) else one for one in targets]
    evidence = [casefile.evidence(one.name, {"evidence": {"ksm": ksm}, "domains": []}) for one in found]
    bundle.write(Path(place), bundle.Manifest(f"pytest-kvmcheck {__version__}", at, at, tuple(found), meta), evidence)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("off.yaml").write_text(OFF)
    return tmp_path


def make(hosts: str | None, inventory: str = "", **settings: Any) -> Plan:
    if inventory:
        Path("inventory.yaml").write_text(inventory)
    profile = settings.pop("profile", None)
    settings |= {"profile": profile} if profile else {}
    wanted = Settings(
        inventory=Path("inventory.yaml") if inventory else None,
        sources={"profile": "option" if profile else "default"},
        **settings,
    )
    return plan.make(wanted, hosts, Connection())


def refused(*args: Any, **settings: Any) -> str:
    with pytest.raises(KvmcheckError) as caught:
        make(*args, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- one name, one source --------------------------------------------------------------------------------------------------


@pytest.fixture
def two(place: Path) -> None:
    record("good", "k")
    record("bad", "k", run="1")
    record("shouting", "K.")


INVENTORY = "hosts:\n  k: {target: 'ssh://root@k', profile: production}\n  other: {target: 'ssh://other'}\n"


@pytest.mark.parametrize(
    ("hosts", "inventory", "said"),
    [
        ("bundle:bad,bundle:good", "", "two targets are called k: bundle:bad and bundle:good; judge them in two runs"),
        ("bundle:good,bundle:bad", "", "two targets are called k: bundle:good and bundle:bad; judge them in two runs"),
        ("ssh://k,bundle:good", "", "two targets are called k: ssh://k and bundle:good; judge them in two runs"),
        ("bundle:good,ssh://k", "", "two targets are called k: ssh://k and bundle:good; judge them in two runs"),
        ("bundle:good,bundle:shouting", "", "two targets are called k and K. (one name): bundle:good and bundle:shouting"),
        ("ssh://k,ssh://root@k", "", "two targets are called k: ssh://k and ssh://root@k; ask for one of them"),
        ("ssh://kvm01,ssh://KVM01", "", "two targets are called kvm01 and KVM01 (one name): ssh://kvm01 and ssh://KVM01"),
        ("ssh://kvm01.,ssh://kvm01", "", "two targets are called kvm01. and kvm01 (one name): "),
        ("ssh://b\u00fccher,ssh://xn--bcher-kva", "", "two targets are called b\u00fccher and xn--bcher-kva (one name): "),
        ("docker://k,ssh://k", "", "two targets are called k: docker://k and ssh://k"),
        ("bundle:good,bundle:./good", "", "bundle:good and bundle:./good are one bundle: name it once"),
        ("k,bundle:good", INVENTORY, "two targets are called k: ssh://root@k and bundle:good"),
        ("ssh://root@k,bundle:good", INVENTORY, "two targets are called k: ssh://root@k and bundle:good"),
        ("ssh://k", INVENTORY, "--hosts: ssh://k: the inventory reaches k by ssh://root@k; ask for it by its name: --hosts=k"),
        ("ssh://K", INVENTORY, "--hosts: ssh://K: the inventory reaches k by ssh://root@k; ask for it by its name: --hosts=k"),
        (None, "hosts:\n  k:\n  K:\n", "inventory.yaml:3: hosts.K: two targets are called K: another one is called k, which"),
        (None, "hosts:\n  k:\nguests:\n  k.:\n", "inventory.yaml:4: guests.k.: two targets are called k.: "),
        (
            None,
            "hosts:\n  a: {target: 'bundle:good'}\n",
            "inventory.yaml:2: hosts.a.target: bundle:good has no host called a (it has k)",
        ),
        (
            "k,bundle:good",
            "hosts:\n  k: {target: 'bundle:good'}\n",
            "--hosts: bundle:good is asked for as a whole, and as a target",
        ),
    ],
)
def test_one_host_with_two_sources(two: None, hosts: str | None, inventory: str, said: str) -> None:
    assert refused(hosts, inventory).startswith(said)


def test_a_manifest_that_names_a_host_twice(place: Path) -> None:
    record("twice", "k", "a")
    path = Path("twice/manifest.json")
    body = json.loads(path.read_text())
    body["targets"].append(next(target for target in body["targets"] if target["name"] == "k"))
    reseal(path, body)
    assert refused("bundle:twice") == "twice: manifest.json names k twice; kvmcheck verify tells all"


def reseal(path: Path, body: object) -> None:
    import hashlib

    path.write_text(json.dumps(body))
    sums = path.parent / "SHA256SUMS"
    lines = [line for line in sums.read_text().splitlines() if not line.endswith("  manifest.json")]
    sums.write_text("\n".join([*lines, f"{hashlib.sha256(path.read_bytes()).hexdigest()}  manifest.json\n"]))


@pytest.mark.parametrize("hosts", ["ssh://k,ssh://k", "ssh://k", "ssh://k, ssh://k ,ssh://k"])
def test_a_host_that_is_named_twice_by_one_source_is_asked_once(hosts: str) -> None:
    assert [target.spec for target in make(hosts).targets] == ["ssh://k"]


def test_an_inventory_describes_the_hosts_of_a_bundle_by_name(two: None) -> None:
    """Which is how old evidence is judged by today's profiles."""
    made = make("bundle:good", INVENTORY)
    assert [(target.name, target.profile, target.spec) for target in made.targets] == [("k", "production", "ssh://k")]
    assert set(made.bundled) == {"k"}


def test_a_target_of_the_inventory_may_be_recorded(two: None) -> None:
    made = make(None, "hosts:\n  k: {target: 'bundle:bad', profile: production}\n  b: {target: 'ssh://b'}\n")
    assert [(target.name, target.name in made.bundled) for target in made.targets] == [("b", False), ("k", True)]
    assert "run:1" in made.bundled["k"].records["ksm"].stdout
    assert not made.started_at, "one host is still to be asked"


@pytest.mark.parametrize("at", ["", "yesterday", "2025-11-01", "2025-11-01T04:45:00", 20251101])
def test_a_recording_of_no_known_time(place: Path, at: Any) -> None:
    record("odd", "k", at=at)
    assert refused("bundle:odd").startswith("odd: manifest.json is not a manifest: ")


def test_recordings_are_as_old_as_the_oldest(place: Path) -> None:
    record("one", "a", at="2025-11-01T02:45:00Z")
    record("two", "b", at="2025-11-01T03:45:00+00:00")
    made = make("bundle:one,bundle:two")
    assert made.at == dt.datetime(2025, 11, 1, 2, 45, tzinfo=dt.UTC)
    assert made.finished_at == "2025-11-01T03:45:00+00:00"


# -- everybody is judged ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inventory", "profile", "said"),
    [
        (
            "guests:\n  web: {target: 'ssh://dead'}\n",
            "production",
            "guest web: profile production is for hosts; give it a profile in the inventory (guest-linux)",
        ),
        (
            "hosts:\n  k:\nguests:\n  web: {profile: baseline}\n",
            "production",
            "guest web: profile baseline has no check for guests",
        ),
        ("hosts:\n  k: {profile: guest-linux}\n", "production", "host k: profile guest-linux has no check for hosts"),
        (
            "hosts:\n  k:\n",
            "guest-linux",
            "host k: profile guest-linux has no check for hosts; give it a profile in the inventory (baseline, ",
        ),
        ("hosts:\n  k:\n", "nothing.yaml", "host k: profile nothing has no check for hosts"),
        ("hosts:\n  k:\n", "clusters.yaml", "host k: profile clusters has no check for hosts"),
        ("guests:\n  web: {cluster: c}\n", "clusters.yaml", "guest web: profile clusters has no check for guests"),
    ],
)
def test_a_target_that_nothing_judges(inventory: str, profile: str, said: str) -> None:
    Path("nothing.yaml").write_text("name: nothing\nchecks:\n  KVM-KSM-002: {level: none}\n")
    Path("clusters.yaml").write_text("name: clusters\nchecks:\n  KVM-CLU-001:\n")
    assert refused(None, inventory, profile=profile).startswith(said)


def test_hosts_may_be_judged_as_a_cluster_only() -> None:
    Path("clusters.yaml").write_text("name: clusters\nchecks:\n  KVM-CLU-001:\n")
    assert len(make("ssh://a,ssh://b", profile="clusters.yaml").targets) == 2


# -- clusters --------------------------------------------------------------------------------------------------------------


def judged(made: Plan, cluster: str) -> Any:
    """By what the subject of a cluster is judged, as the session finds it."""
    made.hosts = [Host(target, Evidence(target.name)) for target in made.targets]
    (subject,) = [one for one in list_subjects("cluster", made.hosts) if one.host == f"cluster:{cluster}"]
    return made.profile_of(subject.profile)


def hosts(*profiles: str, more: str = "") -> str:
    rows = "".join(
        f"  k{number}: {{cluster: prod{f', profile: {profile}' if profile else ''}}}\n" for number, profile in enumerate(profiles)
    )
    return f"hosts:\n{rows}{more}"


def test_hosts_that_agree() -> None:
    made = make(None, hosts("production", "production"))
    assert judged(made, "prod").name == "production"
    assert provenance.profile_lines(made) == ["profile production: k0, k1, cluster:prod"]
    assert not provenance.mixed_clusters(made)


def test_hosts_that_agree_with_the_run() -> None:
    made = make(None, hosts("production", ""), profile="production")
    assert judged(made, "prod").name == "production"
    assert provenance.lines(made) == []


@pytest.mark.parametrize("profiles", [("production", "database"), ("database", ""), ("", "production")])
def test_hosts_that_do_not_agree_are_judged_by_the_strictest(profiles: tuple[str, str]) -> None:
    made = make(None, hosts(*profiles))
    found = judged(made, "prod")
    names = {name or "baseline" for name in profiles}
    assert found.name == "+".join(sorted(names))
    assert found.setting("KVM-CLU-008").level is Level.FAIL
    assert found.params(made.checks["KVM-CLU-002"]).max_minor_skew == 0
    (line,) = provenance.mixed_clusters(made)
    assert line.startswith(f"cluster prod: its hosts have the profiles {' and '.join(sorted(names))}; together they are judged by")
    assert made.meta()["profiles"][found.name] == found.digest


def test_the_stricter_level_severity_and_parameter_count() -> None:
    head = "extends: production\nchecks:\n"
    Path("one.yaml").write_text(
        f"name: one\n{head}  KVM-CLU-008: {{level: warn, severity: low, params: {{managed_by: ovirt}}}}\n"
        "  KVM-CLU-010: {params: {n_minus: 2, reserve_pct: 5, max_ratio_degraded: 3}}\n  KVM-CLU-001: {level: none}\n"
    )
    Path("two.yaml").write_text(
        f"name: two\n{head}  KVM-CLU-008: {{severity: critical}}\n"
        "  KVM-CLU-010: {level: warn, params: {n_minus: 1, reserve_pct: 20, max_ratio_degraded: 2.5}}\n"
    )
    made = make(None, hosts("one.yaml", "two.yaml"))
    found, checks = judged(made, "prod"), made.checks
    assert (found.setting("KVM-CLU-008").level, found.severity(checks["KVM-CLU-008"])) == (Level.FAIL, "critical")
    assert found.params(checks["KVM-CLU-008"]).managed_by is None
    assert dict(found.params(checks["KVM-CLU-010"])) == {"n_minus": 2, "reserve_pct": 20, "max_ratio_degraded": 2.5}
    assert found.setting("KVM-CLU-010").level is Level.FAIL
    assert found.setting("KVM-CLU-001"), "one of them asks for it"
    assert not found.setting("KVM-KSM-002"), "hosts are judged by their own profiles"


def test_values_of_which_none_is_the_strictest() -> None:
    for name in ("ovirt", "pacemaker"):
        Path(f"{name}.yaml").write_text(
            f"name: {name}-site\nextends: production\nchecks:\n  KVM-CLU-008: {{params: {{managed_by: {name}}}}}\n"
        )
    said = refused(None, hosts("ovirt.yaml", "pacemaker.yaml"))
    assert said == (
        "cluster prod: the profiles of its hosts do not agree on KVM-CLU-008 managed_by: 'ovirt' (ovirt-site), 'pacemaker'"
        " (pacemaker-site); give the cluster a profile in the inventory (clusters: {prod: {profile: NAME}})"
    )
    assert judged(make(None, hosts("ovirt.yaml", "pacemaker.yaml", more="clusters:\n  prod: {profile: ovirt.yaml}\n")), "prod").name


def test_a_cluster_with_a_profile_of_its_own() -> None:
    made = make(None, hosts("production", "database", more="clusters:\n  prod: {profile: consolidation}\n"))
    assert judged(made, "prod").name == "consolidation"
    assert not provenance.mixed_clusters(made)
    assert provenance.profile_lines(made) == [
        "profile consolidation: cluster:prod",
        "profile database: k1",
        "profile production: k0",
    ]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            "clusters:\n  prd: {profile: production}\n",
            "inventory.yaml:5: clusters.prd: no host is in this cluster; did you mean prod?",
        ),
        (
            "clusters:\n  prod: {profile: prodution}\n",
            "inventory.yaml:5: clusters.prod.profile: profile prodution: unknown; did you",
        ),
        (
            "clusters:\n  prod: {profile: guest-linux}\n",
            "inventory.yaml:5: clusters.prod.profile: profile guest-linux has no check",
        ),
        ("clusters:\n  prod: production\n", "inventory.yaml:5: clusters.prod: expected keys and values, given: 'production'"),
        ("clusters:\n  prod: {}\n", "inventory.yaml:5: clusters.prod.profile: is missing"),
        ("  k2: {cluster: Prod}\n", "inventory.yaml:4: hosts.k2.cluster: Prod: another cluster is called prod; write one name"),
        ("  k2: {cluster: pr\u043ed}\n", "inventory.yaml:4: hosts.k2.cluster: the name mixes letters"),
        (
            "  k2: {profile: prodution}\n",
            "inventory.yaml:4: hosts.k2.profile: profile prodution: unknown; did you mean production?",
        ),
        ("guests:\n  g: {cluster: g}\nclusters:\n  g: {profile: production}\n", "inventory.yaml:7: clusters.g: no host is in this"),
    ],
)
def test_mistakes_about_clusters_and_profiles(more: str, said: str) -> None:
    assert refused(None, hosts("production", "production", more=more)).startswith(said)


# -- recorded profiles -----------------------------------------------------------------------------------------------------


def resealed(source: Plan, place: str) -> None:
    """Record what *source* judges, as a run does."""
    plan.gather(source, lambda *_: None)
    plan.seal(source, Path(place))


def test_several_recordings_by_one_profile(place: Path) -> None:
    for name in "ab":
        record(f"raw-{name}", name)
        resealed(make(f"bundle:raw-{name}", profile="production"), name)
    made = make("bundle:a,bundle:b")
    assert (made.profile.name, made.settings.sources["profile"]) == ("production", "bundle")


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        ({"profile": "production"}, {"profile": "database"}, "profile production, bundle:b with database: say by which to judge:"),
        ({"profile": "production"}, {}, "profile production, bundle:b with none: "),
        (
            {"profile": "production", "profiles": {"production": "1" * 64}},
            {"profile": "production", "profiles": {"production": "2" * 64}},
            "profile production, bundle:b with another version of it: say by which to judge: --kvmcheck-profile",
        ),
    ],
)
def test_recordings_by_several_profiles(one: dict[str, Any], other: dict[str, Any], said: str) -> None:
    record("a", "a", **one)
    record("b", "b", **other)
    assert refused("bundle:a,bundle:b").startswith(f"bundle:a was recorded with {said}")
    assert make("bundle:a,bundle:b", profile="production").profile.name == "production"


def test_evidence_is_judged_elsewhere_by_the_profile_of_its_day(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("site.yaml").write_text("name: site\nextends: off.yaml\nchecks:\n  KVM-KSM-005:\n")
    record("raw", "k")
    first = make("bundle:raw", profile="site.yaml")
    resealed(first, "sealed")
    Path("site.yaml").write_text("name: site\nextends: off.yaml\nchecks:\n  KVM-KSM-002: {level: none}\n  KVM-KSM-005:\n")
    again = make("bundle:sealed")
    assert again.profile.digest == first.profile.digest
    assert again.profile.setting("KVM-KSM-002")
    assert provenance.differences(again, again.recordings[0].manifest) == []
    today = make("bundle:sealed", profile="site.yaml")
    assert not today.profile.setting("KVM-KSM-002")
    assert provenance.differences(today, today.recordings[0].manifest) == ["profile site differs from the recorded one"]
    (place / "elsewhere").mkdir()
    monkeypatch.chdir(place / "elsewhere")
    assert make("bundle:../sealed").profile.digest == first.profile.digest
    resealed(make("bundle:../sealed"), "copy")
    assert make("bundle:copy").profile.digest == first.profile.digest


def test_profiles_of_hosts_and_clusters_are_recorded(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("clu.yaml").write_text("name: clu\nchecks:\n  KVM-CLU-001:\n")
    record("raw", "k0", "k1")
    resealed(make("bundle:raw", hosts("off.yaml", "production", more="clusters:\n  prod: {profile: clu.yaml}\n")), "sealed")
    (place / "elsewhere").mkdir()
    monkeypatch.chdir(place / "elsewhere")
    made = make("bundle:../sealed")
    assert {made.profile_of(target.profile).name for target in made.targets} == {"ksm-off", "production"}
    assert judged(made, "prod").name == "clu"
    assert made.cluster_references == {"prod": "clu.yaml"}


def test_recordings_that_mean_two_profiles_by_one_name(place: Path) -> None:
    for name, policy in (("a", "off"), ("b", "on")):
        Path("site.yaml").write_text(f"name: site\nchecks:\n  KVM-KSM-002: {{params: {{ksm_policy: '{policy}'}}}}\n")
        record(f"raw-{name}", Target(name, f"ssh://{name}", profile="site.yaml"))
        resealed(make(f"bundle:raw-{name}", profile="production"), name)
    assert refused("bundle:a,bundle:b").startswith("two profiles are called site: site.yaml and site.yaml; rename one of them")


@pytest.mark.parametrize("files", [[], "x", {"off.yaml": "x"}, {"off.yaml": [1]}, {"off.yaml": [["a"]]}, {"off.yaml": [[1, 2]]}])
def test_recorded_files_that_are_damaged(files: Any) -> None:
    record("odd", "k", profile="off.yaml", profile_files=files)
    assert refused("bundle:odd") == "bundle:odd: manifest.json: profile_files is damaged"


def test_recorded_files_that_lead_to_a_file_of_this_machine() -> None:
    text = "name: site\nextends: /etc/passwd\n"
    record("odd", "k", profile="site.yaml", profile_files={"site.yaml": [["site.yaml", text]]})
    said = refused("bundle:odd")
    assert said.startswith("site.yaml (recorded):2: extends: profile /etc/passwd: was not recorded, and none is shipped")


def test_the_header_tells_what_judges_otherwise_now(place: Path) -> None:
    meta = {"profile": "production", "profiles": {"production": "1" * 64}, "catalogue_sha256": "2" * 64}
    record("old", "k", **meta)
    path = Path("old/manifest.json")
    reseal(path, {**json.loads(path.read_text()), "tool": "pytest-kvmcheck 0.0.9"})
    made = make("bundle:old")
    assert provenance.lines(made) == [
        f"evidence of 2025-11-01 04:45 UTC, by 0.0.9; judged by {__version__}; profile production differs from the recorded one;"
        " catalogue differs"
    ]
    (told,) = provenance.as_json(made)
    assert told["differences"][1:] == ["profile production differs from the recorded one", "catalogue differs"]
    assert json.dumps(told)
    assert "profile database instead of the recorded production" in provenance.lines(make("bundle:old", profile="database"))[0]


def test_recordings_that_say_the_same_are_told_once(place: Path) -> None:
    record("a", "a")
    record("b", "b")
    record("c", "c", at="2024-01-01T00:00:00+00:00")
    assert provenance.evidence_lines(make("bundle:a,bundle:b")) == [f"evidence of 2025-11-01 04:45 UTC, by {__version__}"]
    assert provenance.evidence_lines(make("bundle:a,bundle:b,bundle:c")) == [
        f"evidence of 2025-11-01 04:45 UTC, by {__version__} (bundle:a, bundle:b)",
        f"evidence of 2024-01-01 00:00 UTC, by {__version__} (bundle:c)",
    ]


def test_a_place_that_answers_for_two_is_told() -> None:
    made = make(None, "hosts:\n  a: {target: 'ssh://a'}\n  b: {target: 'ssh://a'}\n")
    assert provenance.shared_sources(made) == ["one place answers for a, b: ssh://a"]


# -- names of profiles -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("production", "production is that of a shipped profile: call it otherwise"),
        ("Production", "Production looks like that of the shipped profile production: call it otherwise"),
        ("pr0duction", "pr0duction looks like that of the shipped profile production: call it otherwise"),
        ("guest_linux", "guest_linux looks like that of the shipped profile guest-linux: call it otherwise"),
        ('"produ\u0441tion"', "the name mixes letters of CYRILLIC and LATIN, which look alike"),
        ('"production\\u200b"', "the name has a character that is not seen (U+200B)"),
        ('" production"', "expected a name of 1 to 200 characters, given: ' production'"),
        ('""', "expected a name of 1 to 200 characters, given: ''"),
    ],
)
def test_an_own_profile_does_not_go_by_the_name_of_a_shipped_one(name: str, said: str) -> None:
    Path("p13.yaml").write_text(f"name: {name}\nextends: production\n", "utf-8")
    assert refused("ssh://k", profile="p13.yaml") == f"p13.yaml:1: name: {said}"
    Path("site.yaml").write_text("name: site\nextends: p13.yaml\n", "utf-8")
    assert refused("ssh://k", profile="site.yaml") == f"p13.yaml:1: name: {said}"


def test_two_files_that_go_by_one_name(place: Path) -> None:
    for number, name in enumerate(("site", "site", "Site")):
        (place / str(number)).mkdir()
        Path(f"{number}/site.yaml").write_text(f"name: {name}\nextends: baseline\ntitle: '{number}'\n")
    Path("0/copy.yaml").write_text(Path("0/site.yaml").read_text())
    assert refused(None, hosts("0/site.yaml", "1/site.yaml")) == (
        "two profiles are called site: 0/site.yaml and 1/site.yaml; rename one of them"
    )
    assert "site and Site (one name)" in refused(None, hosts("0/site.yaml", "2/site.yaml"))
    assert "two profiles are called site" in refused(None, hosts("0/site.yaml", ""), profile="1/site.yaml")
    assert make(None, hosts("0/site.yaml", "0/site.yaml"))


# -- what can be known before a connection ---------------------------------------------------------------------------------


def test_files_of_ssh_that_are_not_there(place: Path) -> None:
    def said(**given: str) -> str:
        with pytest.raises(KvmcheckError) as caught:
            plan.make(Settings(), "ssh://k", Connection(**given))
        return str(caught.value)

    assert said(ssh_config="/nope") == "--ssh-config: /nope: No such file or directory"
    assert said(ssh_config="~/.ssh/config") == "--ssh-config: ~/.ssh/config: No such file or directory"
    assert said(ssh_identity_file="/nope") == "--ssh-identity-file: /nope: No such file or directory"
    assert said(ssh_config=str(place)).endswith(": Is a directory")
    assert plan.make(Settings(), "ssh://k", Connection(ssh_config="none"))


@pytest.mark.parametrize(
    ("option", "path", "said"),
    [
        ("json", "folder", "--kvmcheck-json: folder is a directory"),
        ("json", "/dev/null", "--kvmcheck-json: /dev/null is no plain file"),
        ("json", "off.yaml/out.json", "--kvmcheck-json: off.yaml/out.json cannot be written: Not a directory in "),
        ("record", "off.yaml/ev", "--kvmcheck-record: off.yaml/ev cannot be written: Not a directory in "),
        ("json", "x" * 300, "--kvmcheck-json: "),
        (
            "json",
            "/proc/nope/out.json",
            "--kvmcheck-json: /proc/nope/out.json cannot be written: No such file or directory in /proc",
        ),
        ("record", "folder", "--kvmcheck-record: folder exists and is not empty: evidence is never overwritten"),
        ("json", "off.yaml", "--kvmcheck-json: off.yaml is read by this run: it would be overwritten"),
    ],
)
def test_what_cannot_be_written_is_told_at_once(place: Path, option: str, path: str, said: str) -> None:
    (place / "folder").mkdir()
    (place / "folder" / "x").touch()
    assert refused("ssh://k", profile="off.yaml", **{option: Path(path)}).startswith(said)


def test_a_report_within_the_sealed_evidence(place: Path) -> None:
    said = refused("ssh://k", json=Path("ev/out.json"), record=Path("ev"))
    assert said == "--kvmcheck-json: ev/out.json is within the evidence (ev), which is sealed"


SECRET = "hunter2"


@pytest.mark.parametrize(
    "spec",
    [
        *(
            "ssh://root:{}@k",
            "ssh://root:{}/b@k",
            "ssh://root%3A{}@k",
            "ssh://root%3a{}@k",
            "ssh://root%253A{}@k",
            "ssh://root:{}@b@k",
        ),
        *("ssh://root\uff1a{}@k", "ssh://root\ua789{}@k", "ssh://root {}@k", "ssh://root;{}@k", "ssh://root:{},b@k", "ssh://:{}@k"),
        *("ssh://root:a,{}@k", "ssh://root:22,{}x@k:22", "ssh://root:{}?x@k", "ssh://root:{}#x@k", "ssh://k?password={}"),
        *("ssh://k?x=1&passwd={}", "ssh://k?TOKEN={}", "//root:{}@k", "root:{}@k", "ssh:/root:{}@k", "ansible://root:{}@k"),
        *("docker://root:{}@k", "paramiko://root:{}@k", "nope://root:{}@k", "libvirt+qemu+ssh://root:{}@k/system"),
        *("libvirt+qemu+ssh://root%3A{}@k/system", "libvirt+esx://k/?password={}", "libvirt+qemu+ssh://k/system?x=1&secret={}"),
    ],
)
@pytest.mark.parametrize("where", ["hosts", "inventory"])
def test_a_password_in_a_spec_is_refused_and_not_shown(spec: str, where: str) -> None:
    full = spec.format(SECRET)
    said = refused(full) if where == "hosts" else refused(None, f"hosts:\n  k: {{target: '{full}'}}\n")
    assert SECRET not in said
    assert "***" in said


@pytest.mark.parametrize(
    "spec",
    [
        *("ssh://root@k", "ssh://root@k:22", "ssh://CORP\\anna@k", "ssh://anna@CORP@k", "ssh://[fe80::1]:22", "ssh://root@[::1]"),
        *("docker://web", "kubectl://pod?container=c&namespace=n", "ssh://k?sudo=true", "ssh://root@k?sudo=true"),
    ],
)
def test_specs_without_a_password(spec: str) -> None:
    assert [target.spec for target in make(spec).targets] == [spec]


@pytest.mark.parametrize(
    "spec", ["ssh://k\u200b1", "ssh://kvm\u043e1", "ssh://k%0a", "ssh://k\t1", "ssh://k 1", "ssh://-k", "ssh://a@-k"]
)
def test_names_that_cannot_be_read(spec: str) -> None:
    assert refused(spec).startswith("--hosts: ")


def test_waivers_are_held_to_the_longest_term(place: Path) -> None:
    far = dt.datetime.now(dt.UTC).date() + dt.timedelta(days=400)
    Path("waivers.yaml").write_text(
        f"- {{check: KVM-KSM-002, subject: k, reason: x, owner: anna, approver: bert, expires: {far}}}\n"
    )
    wanted = Settings(waivers=Path("waivers.yaml"))
    with pytest.raises(KvmcheckError, match=r"waivers.yaml:1: waiver 1.expires: is too far away: at the latest \d{4}-"):
        plan.make(wanted, "ssh://k", Connection())
    (waiver,) = plan.make(replace(wanted, waiver_days=500), "ssh://k", Connection()).waivers
    assert waiver.until == str(far)
