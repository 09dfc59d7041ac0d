"""Files that people write: each mistake is one line with file, line, key path and what was probably meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_kvmcheck import asked, catalog, inventory, profiles, waivers
from pytest_kvmcheck.errors import KvmcheckError
from pytest_kvmcheck.gather.transport import Connection

CHECKS = catalog.load()


def complaint(kind: str, text: str | bytes, place: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(place)
    path = Path("site.yaml")
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    load = {
        "profile": lambda: profiles.load("./site.yaml", CHECKS),
        "waivers": lambda: waivers.load(path, CHECKS),
        "inventory": lambda: inventory.load(path),
    }[kind]
    with pytest.raises(KvmcheckError) as caught:
        load()
    said = str(caught.value)
    assert "\n" not in said
    return said


NOT_EVEN_YAML = [
    ("", "site.yaml: is empty"),
    ("- a\n- b\n", "site.yaml:1: "),
    ("name: [x\n", "site.yaml:2: not YAML: "),
    ("name: x\nname: y\n", "site.yaml:2: name: the same key twice"),
    ("name: \tx: y\n", "site.yaml:1: not YAML: "),
    ("? [a, b]\n: c\n", "site.yaml:1: a key has to be a plain word"),
    ("a: " + "[" * 40 + "]" * 40 + "\n", "site.yaml:1: "),
    ("a: &a [x, x]\nb: &b [*a, *a, *a, *a]\nc: [*b, *b, *b]\n", "site.yaml:"),
    (b"\xff\xfe\x00n", "site.yaml: is not UTF-8 text"),
    (b"name: a\0b\n", "site.yaml: not YAML: "),
    ("name: 2026-13-45\n", "site.yaml:1: "),
    ("# " + "x" * (4 * 2**20) + "\n", "site.yaml: larger than "),
]


@pytest.mark.parametrize("kind", ["profile", "inventory"])
@pytest.mark.parametrize(("text", "said"), NOT_EVEN_YAML, ids=lambda value: ascii(value)[:24])
def test_what_is_hardly_yaml(kind: str, text: str | bytes, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert complaint(kind, text, tmp_path, monkeypatch).startswith(said)


def profile(checks: str) -> str:
    return f"name: site\nextends: baseline\nchecks:\n  {checks}\n"


PROFILES = [
    (profile("KVM-MEM-01:"), "site.yaml:4: checks.KVM-MEM-01: unknown check id; did you mean KVM-MEM-001?"),
    (profile("KVM-KSM-002: {level: wrn}"), "site.yaml:4: checks.KVM-KSM-002.level: "),
    (profile("KVM-KSM-002: {severity: hihg}"), "site.yaml:4: checks.KVM-KSM-002.severity: "),
    (profile("KVM-KSM-002: {levl: warn}"), "site.yaml:4: checks.KVM-KSM-002.levl: unknown key; did you mean level?"),
    (
        profile("KVM-KSM-002: {params: {ksm_polic: x}}"),
        "site.yaml:4: checks.KVM-KSM-002.params.ksm_polic: unknown parameter; did you mean ksm_policy?",
    ),
    (
        profile("KVM-KSM-002: {params: {ksm_policy: off}}"),
        "site.yaml:4: checks.KVM-KSM-002.params.ksm_policy: expected one of any, off, on, auto, given: False (YAML reads a bare",
    ),
    (profile("KVM-KSM-002: warn"), "site.yaml:4: checks.KVM-KSM-002: "),
    ("extends: baseline\n", "site.yaml:1: name: is missing"),
    ("name: site\nexends: baseline\n", "site.yaml:2: exends: unknown key; did you mean extends?"),
    ("name: site\nextends: baselin\n", "site.yaml:2: extends: profile baselin: unknown; did you mean baseline?"),
    ("name: site\nextends: ./none.yaml\n", "site.yaml:2: extends: profile ./none.yaml: there is no such file"),
    ("name: site\nextends: ./site.yaml\n", "site.yaml:2: extends: site.yaml is extended by itself"),
    ("name: site\nrole: gest\n", "site.yaml:2: role: "),
]


@pytest.mark.parametrize(("text", "said"), PROFILES, ids=lambda value: ascii(value)[:40])
def test_profiles(text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert complaint("profile", text, tmp_path, monkeypatch).startswith(said)


GOOD = {
    "check": "KVM-KSM-002",
    "subject": "kvm01",
    "reason": "P2V",
    "owner": "anna",
    "approver": "bert",
    "expires": "2026-12-31",
}


def waiver(**changes: str | None) -> str:
    return "- " + "\n  ".join(f"{key}: {value}" for key, value in {**GOOD, **changes}.items() if value is not None) + "\n"


#: Numbers that were once read as seconds or milliseconds since 1970, and other things that are no date.
NO_DATES = ["20200131235959", "1767225600", "1.7e9", "'20261231'", "2026-W05-7", "'2026-12-31T24'", "true", "''", "[2026-12-31]"]
NO_DATES += ["2026-1-5", "'\u0662\u0660\u0662\u0666-12-31'", "2026:12:31", "P1Y", "tomorrow", "2026-12", "'2026-12-31 12:00 CET'"]
TOO_FAR = ["2999-01-01", "9999-12-31", "9999-12-31T23:59:59-12:00", "'2999-01-01T00:00:00+00:00'"]

#: Anna Lind once more.
ONE = ["anna lind", "Lind, Anna", "LIND Anna", "anna.lind", "Ann\u00e1 Lind", "\uff21nna Lind", "Anna", "anna_lind", "Anna  Lind"]
ONE += ["'Anna-Lind '", "Anna L1nd", "Anna Lind (ops)"]

#: Names that look like others, or whose end is not seen.
FORGED = ["\u0410nna Lind", "Ann\u0251 Lind", "\u13aanna Lind"]
UNSEEN = ["Anna\u200bB", "'Anna Lind\u2060'", "b\u00aderta", "bert\u202e", "bert\ufe0f", '"bert\\u200b"']
NOBODY = ['""', '" "', '"-"', '"\\u200b"', '"\u3164"', "'\u2800'", "'...'"]
EVERYBODY = ["'*'", "'**'", "'?*'", "'[!x]*'", "'*/*'", "'[a-z]*'", "' '"]
HIDDEN = ["\u200b", "\u202e", "\\x07", "\u2066", "\ufeff", "\\e"]

WAIVERS = [
    (waiver(expires=None), "site.yaml:1: waiver 1.expires: is missing"),
    (waiver(approver=None), "site.yaml:1: waiver 1.approver: is missing"),
    (waiver(owner=None), "site.yaml:1: waiver 1.owner: is missing"),
    (waiver(reason='""'), "site.yaml:3: waiver 1.reason: is empty"),
    (waiver(approver="Anna"), "site.yaml:5: waiver 1.approver: the approver has to be someone else than the owner"),
    (waiver(check="KVM-KSM-02"), "site.yaml:1: waiver 1.check: unknown check id; did you mean KVM-KSM-002?"),
    (waiver(expires="never"), "site.yaml:6: waiver 1.expires: expected a date such as 2027-01-31, or a time such as 2027-01-31T18"),
    (waiver(expires="31.12.2026"), "site.yaml:6: waiver 1.expires: expected a date such as "),
    *((waiver(expires=given), "site.yaml:6: waiver 1.expires: expected a date such as ") for given in NO_DATES),
    *((waiver(expires=given), "site.yaml:6: waiver 1.expires: is too far away: at the latest ") for given in TOO_FAR),
    *((waiver(owner="Anna Lind", approver=name), "site.yaml:5: waiver 1.approver: the approver has to be someone") for name in ONE),
    *((waiver(owner="Anna Lind", approver=name), "site.yaml:5: waiver 1.approver: the name ") for name in FORGED),
    *((waiver(owner="Anna Lind", approver=name), "site.yaml:5: waiver 1.approver: has a character that is not") for name in UNSEEN),
    (
        waiver(owner="\u0410\u043d\u043d\u0430"),
        "site.yaml:5: waiver 1.approver: owner and approver are written in CYRILLIC and LATIN",
    ),
    *((waiver(approver=name), "site.yaml:5: waiver 1.approver: ") for name in NOBODY),
    *((waiver(subject=glob), "site.yaml:2: waiver 1.subject: ") for glob in EVERYBODY),
    *((waiver(reason=f'"x{char}y"'), "site.yaml:3: waiver 1.reason: has a character that is not seen (U+") for char in HIDDEN),
    (waiver() + waiver(), "site.yaml:7: waiver 2: the same waiver twice"),
    (waiver(owner="yes"), "site.yaml:4: waiver 1.owner: expected a text, given: True (YAML reads a bare yes"),
    (waiver(owner="7"), "site.yaml:4: waiver 1.owner: expected a text, given: 7"),
    (waiver(owner="[anna]"), "site.yaml:4: waiver 1.owner: expected a text, given: a list"),
    (waiver(reason=""), "site.yaml:3: waiver 1.reason: expected a text, and nothing is given"),
    (waiver(expires="2026-02-30"), "site.yaml:6: "),
    (waiver() + waiver(until="2026-12-31", expires=None), "site.yaml:"),
    ("waivers:\n  - KVM-KSM-002\n", "site.yaml:2: waiver 1: expected keys and values, given: 'KVM-KSM-002'"),
    ("waiver: []\n", "site.yaml:1: waiver: unknown key; did you mean waivers?"),
]


@pytest.mark.parametrize(("text", "said"), WAIVERS, ids=lambda value: ascii(value)[:40])
def test_waivers(text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert complaint("waivers", text, tmp_path, monkeypatch).startswith(said)


INVENTORIES = [
    ("hosts: {}\n", "no host to check: site.yaml names 0 hosts"),
    ("host:\n  kvm01:\n", "site.yaml:1: host: unknown key; did you mean hosts?"),
    ("hosts:\n  kvm01: {taget: x}\n", "site.yaml:2: hosts.kvm01.taget: unknown key; did you mean target?"),
    ("hosts:\n  kvm01: {target: kvm01}\n", "site.yaml:2: hosts.kvm01.target: target: kvm01: say how to reach it; did you mean"),
    (
        "hosts:\n  kvm01: {target: 'ssh://root:pw@kvm01'}\n",
        "site.yaml:2: hosts.kvm01.target: target: ssh://root:***@kvm01: a",
    ),
    ("hosts:\n  kvm01: {sudo: maybe}\n", "site.yaml:2: hosts.kvm01.sudo: "),
    (
        "hosts:\n  kvm01:\nguests:\n  kvm01: {target: 'ssh://other'}\n",
        "site.yaml:4: guests.kvm01: two targets are called kvm01: another one is called the same",
    ),
    (
        "hosts:\n  kvm01:\ndomains:\n  'sql*': [critcal]\n",
        "site.yaml:4: domains.sql*.item 1: expected one of critical, database, ",
    ),
    ("hosts:\n  - kvm01\n", "site.yaml:1: hosts: "),
    ("hosts:\n  -oProxyCommand=id:\n", "site.yaml:2: hosts.-oProxyCommand=id"),
]


@pytest.mark.parametrize(("text", "said"), INVENTORIES, ids=lambda value: ascii(value)[:40])
def test_inventories(text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = complaint("inventory", text, tmp_path, monkeypatch)
    assert found.startswith(said), found
    assert ":pw@" not in found


def test_a_profile_of_an_inventory_that_is_unknown(pytester: pytest.Pytester) -> None:
    pytester.path.joinpath("inventory.yaml").write_text("hosts:\n  kvm01: {profile: prodution}\n")
    result = pytester.runpytest_subprocess("--kvmcheck", "--kvmcheck-inventory=inventory.yaml")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*profile prodution: unknown; did you mean production?*"])


def test_a_waiver_ends_with_its_day_in_utc(tmp_path: Path) -> None:
    import datetime as dt

    path = tmp_path / "waivers.yaml"
    path.write_text(waiver() + waiver(expires="2026-12-31T12:00:00+02:00"))
    day, moment = waivers.load(path, CHECKS)
    assert not day.expired(dt.datetime(2026, 12, 31, 23, 59, 59, tzinfo=dt.UTC))
    assert day.expired(dt.datetime(2027, 1, 1, tzinfo=dt.UTC))
    assert moment.expired(dt.datetime(2026, 12, 31, 10, 0, tzinfo=dt.UTC))
    assert day.until == "2026-12-31"


def test_ansible_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(KvmcheckError, match=r"^--hosts: ansible://kvm: no ansible-inventory is in PATH: pip install ansible-core$"):
        asked._expanded(["ansible://kvm"], Connection())


def test_an_ansible_inventory_that_fails_without_a_word(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "ansible-inventory").touch(0o755)

    def get_hosts(*_: object, **__: object) -> list[str]:
        raise AssertionError

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("testinfra.backend.ansible.AnsibleBackend.get_hosts", get_hosts)
    with pytest.raises(KvmcheckError, match=r"^--hosts: ansible://kvm: AssertionError$"):
        asked._expanded(["ansible://kvm"], Connection())


ODD = ["7", "0.5", "true", "text", "[7]", "{x: 7}", "[[]]", "{x: {y: 7}}", "{x: [7]}", "null", "{7: 7}"]
KEYS = {
    "profile": [
        *(
            "{}",
            "name: {}",
            "name: a\nextends: {}",
            "name: a\nrole: {}",
            "name: a\nchecks: {}",
            "name: a\nchecks: {{KVM-KSM-002: {}}}",
        ),
        *(f"name: a\nchecks: {{{{KVM-KSM-002: {{{{{key}: {{}}}}}}}}}}" for key in ("level", "severity", "params", "comment")),
        *("name: a\ntitle: {}", "name: a\ndescription: {}", "name: a\nchecks: {{KVM-KSM-002: {{params: {{ksm_policy: {}}}}}}}"),
    ],
    "inventory": [
        *(
            "{}",
            "hosts: {}",
            "hosts: {{a: {}}}",
            "guests: {{a: {}}}",
            "hosts: {{a: }}\nclusters: {}",
            "hosts: {{a: }}\ndomains: {}",
        ),
        *(f"hosts: {{{{a: {{{{{key}: {{}}}}}}}}}}" for key in ("target", "cluster", "profile", "sudo", "domains")),
    ],
    "waivers": ["{}", "[{}]", "waivers: {}", "waivers: [{}]", *(waiver(**{key: "{}"}) for key in (*GOOD, "ticket"))],
}


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in KEYS.items() for text in texts])
def test_no_mistake_is_told_in_the_words_of_a_library(
    kind: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever stands where: it is accepted, or refused in our words with its line."""
    refused = 0
    for value in ODD:
        try:
            said = complaint(kind, text.format(value), tmp_path, monkeypatch)
        except pytest.fail.Exception:
            continue
        refused += 1
        assert not any(word in said for word in ("Input", "instance", "nput should", "validation", "pydantic")), said
        assert said.startswith("site.yaml:") or "names 0 hosts" in said, said
    assert refused >= len(ODD) // 2
