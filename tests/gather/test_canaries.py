"""Seeded secrets of every kind go through the redaction of every probe, and nothing of them comes out."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace

import defusedxml.ElementTree
import pytest

from pytest_kvmcheck.evidence import Record
from pytest_kvmcheck.facts.qcow2 import parse_headers
from pytest_kvmcheck.gather.redact import kinds, redact, redact_record
from pytest_kvmcheck.gather.redact.pseudonym import words
from pytest_kvmcheck.probes import PROBES
from tests import canaries
from tests.canaries import Specimen, leaks, secret

KEY = b"key"
#: One section of each keyed probe for each form in which its sections are.
SECTIONS = {
    "virsh": ("all", "capabilities"),
    "domain": ("u/live", "u/saved", "u/info", "u/snapshots", "u/state"),
    "objects": ("net/u/xml", "pool/u/xml", "net/u/info", "secrets", "filters"),
    "lvm": ("lvs", "pvs", "config"),
    "images": ("local/header/1", "remote/header/8", "local/snapshots/1/2", "local/magic/1", "local/stat"),
    "qemu_strays": ("7/cmdline", "7/limits"),
}
_XML = {"u/live": canaries.DOMAIN, "u/saved": canaries.DOMAIN, "net/u/xml": canaries.NETWORK, "pool/u/xml": canaries.POOL}
_SETTINGS = words("""
    libvirt_conf qemu_conf sasl_conf libvirt_guests_conf irqbalance_conf ksm_defaults ksmtuned_conf chrony_conf ptp_conf
    journald_conf agent_conf nova_migration iscsi_initiator certificates
""")
_JSON = words("""
    ip_addr ip_link ip_route ip_route6 ip_rule nftables ovs teams multipath_maps multipath_maps_later cloud_init
""")
_LOGS = ["kernel_log", "ptp_log", "journal", "qemu_log", "audit_failures", "audit_denials", "rsyslog_conf"]


def specimens(probe: str, section: str) -> Iterator[Specimen]:
    """Yield what fits the answer of *probe*."""
    if section in _XML:
        yield from _XML[section]
    elif probe == "qemu_process" or section == "7/cmdline":
        yield from canaries.ARGV
    elif probe == "time_daemons":
        yield from canaries.DAEMON
    elif probe == "cmdline":
        yield from canaries.CMDLINE
    elif probe == "mounts":
        yield from canaries.MOUNTS
    elif probe in _SETTINGS:
        yield from canaries.settings_specimens()
    elif probe in _JSON or section in ("lvs", "pvs"):
        yield from canaries.JSON
    elif "header" in section:
        for name in canaries.HEADERS:
            yield Specimen("header", name, canaries.URL)
    elif "snapshots/" in section:
        yield Specimen("snapshot", "token={}", ("plain", "slash"))
    elif probe in _LOGS:
        yield from canaries.LOG
    else:  # many probes, all of one form: each takes another handful of the shapes
        for number, item in enumerate(canaries.WORDS):
            chance = random.Random(f"{probe}/{section}/{number}")
            yield replace(item, shapes=tuple(chance.sample(item.shapes, min(3, len(item.shapes)))))


def _shown(specimen: Specimen, hidden: str, probe: str, section: str) -> str:
    text = specimen.show(hidden)
    if "header" in section:
        return canaries.hex_header(text)
    if "snapshots/" in section:
        return canaries.hex_snapshots(text)
    files = PROBES[probe].script.startswith("g ") and not PROBES[probe].one_file
    return "".join(f"/etc/x:{line}\n" for line in text.split("\n")) if files else text


def given() -> Iterator[tuple[str, str]]:
    for probe in PROBES:
        for section in SECTIONS.get(probe, ("u",) if PROBES[probe].keyed else ("",)):
            yield probe, section


@pytest.mark.parametrize(("probe", "section"), list(given()))
def test_nothing_of_a_secret_comes_out_of_a_probe(probe: str, section: str) -> None:
    found, count = [], 0
    for specimen in specimens(probe, section):
        for shape in specimen.shapes:
            hidden = canaries.secret(f"{probe}/{section}/{specimen.text}", shape)
            text = _shown(specimen, hidden, probe, section)
            assert leaks(hidden, text), f"{specimen.kind}: the secret is not even in what was given"
            record = Record(f"{probe}:{section}" if section else probe, text, stderr=specimen.show(hidden))
            kept = redact_record(record, KEY)
            count += 1
            if leaks(hidden, kept.stdout):
                found.append(f"{specimen.kind} ({shape}): {text[-300:]!r} -> {kept.stdout[-300:]!r}")
            again = redact_record(kept, KEY)
            for before, after in ((kept.stdout, again.stdout), (kept.stderr, again.stderr)):
                if before != after:
                    found.append(f"{specimen.kind} ({shape}) changes again: {before[-300:]!r} -> {after[-300:]!r}")
    assert count
    assert not found, f"{len(found)} of {count}\n" + "\n".join(found)


@pytest.mark.parametrize("specimen", canaries.LOG, ids=lambda item: f"{item.kind}: {item.text[:30]!r}")
def test_nothing_of_a_secret_stays_in_standard_error(specimen: Specimen) -> None:
    found = []
    for shape in specimen.shapes:
        hidden = secret(specimen.text, shape)
        for place in ("{}", "error: cannot do it: {}", "sudo: {}\nmore"):
            text = place.replace("{}", specimen.show(hidden))
            kept = redact_record(Record("uname", stderr=text), KEY).stderr
            if leaks(hidden, kept) or redact(kept, KEY) != kept:
                found.append(f"{shape}: {text!r} -> {kept!r}")
    assert not found, "\n".join(found)


def test_there_are_as_many_kinds_as_promised() -> None:
    everything = [*canaries.LOG, *canaries.DOMAIN, *canaries.ARGV, *canaries.CMDLINE, *canaries.JSON, *canaries.MOUNTS]
    assert len({item.kind for item in everything}) >= 60
    assert sum(len(item.shapes) for item in everything) >= 800


def test_every_probe_says_in_what_form_it_answers() -> None:
    assert set(kinds.KINDS) | set(kinds.TABLES) == set(PROBES)
    assert not set(kinds.KINDS) & set(kinds.TABLES)


@pytest.mark.parametrize("specimen", canaries.DOMAIN, ids=lambda item: item.kind)
def test_xml_stays_as_well_formed_as_it_was(specimen: Specimen) -> None:
    for shape in specimen.shapes:
        text = specimen.show(secret("x", shape))
        kept = redact_record(Record("domain:u/live", text), KEY).stdout
        if specimen.kind in ("cut", "dtd"):
            with pytest.raises(Exception, match=r"."):
                defusedxml.ElementTree.fromstring(kept, forbid_dtd=True)
        else:
            before, after = (defusedxml.ElementTree.fromstring(item) for item in (text, kept))
            assert [item.tag for item in before.iter()] == [item.tag for item in after.iter()]
            assert after.findtext("name") == "web"


def test_json_stays_json() -> None:
    for specimen in canaries.JSON:
        for shape in specimen.shapes:
            text = specimen.show(secret("x", shape))
            kept = redact_record(Record("ip_link", text), KEY).stdout
            if specimen.kind == "json, cut":
                with pytest.raises(ValueError, match=r"."):
                    json.loads(kept)
            else:
                json.loads(kept)


def test_headers_of_images_stay_headers() -> None:
    for name in ("/srv/base.img", "base.raw", "https://u:Hunter2Hunter2@h/x", 'json:{"password": "Hunter2Hunter2"}', "x" * 500):
        text = canaries.hex_header(name) + canaries.hex_header("")
        [before, empty] = parse_headers(text)
        [after, still_empty] = parse_headers(redact_record(Record("images:local/header/1", text), KEY).stdout)
        assert still_empty == empty
        assert (after.backing == before.backing) is ("Hunter2" not in name)
        assert after.backing
        assert (after.virtual_bytes, after.snapshots, after.dirty, after.version) == (
            before.virtual_bytes, before.snapshots, before.dirty, before.version
        )  # fmt: skip
