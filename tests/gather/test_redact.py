"""Secrets leave no trace in evidence, whatever file they come from."""

from __future__ import annotations

import time

import pytest

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.evidence import Record
from pytest_kvmcheck.facts.cmdline import parse_cmdline
from pytest_kvmcheck.facts.domain import parse_domain
from pytest_kvmcheck.facts.libvirtconf import parse_conf
from pytest_kvmcheck.facts.qcow2 import parse_headers
from pytest_kvmcheck.gather.redact import redact, redact_record

KEY = b"key"


@pytest.mark.parametrize(
    "text",
    [
        'vnc_password = "S3CRET"',
        "/etc/libvirt/qemu.conf:spice_password = 'S3CRET'",
        "<graphics type='vnc' passwd='S3CRET' port='5900'/>",
        "node.session.auth.password = S3CRET",
        "node.session.auth.password_in = S3CRET",
        "discovery.sendtargets.auth.password=S3CRET",
        "transport_url = rabbit://nova:S3CRET@controller:5672/",
        "https://admin:S3CRET@engine/api",
        "Authorization: Bearer S3CRET-S3CRET-S3CRET",
        "chpasswd: {password: S3CRET}",
        "api_key: S3CRET",
        "-object secret,id=sec0,data=S3CRET",
        '-object {"qom-type":"secret","id":"sec0","data":"S3CRET","keyid":"m"}',
        "-----BEGIN OPENSSH PRIVATE KEY-----\nS3CRET\nS3CRET\n-----END OPENSSH PRIVATE KEY-----",
        "-----BEGIN RSA PRIVATE KEY-----\nS3CRET cut off",
        "auth_token=S3CRET",
        "[client.cinder]\n\tkey = AQS3CRETAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA==",
    ],
)
def test_secrets_are_taken_out(text: str) -> None:
    result = redact(text, KEY)
    assert "S3CRET" not in result
    assert "<redacted:" in result
    assert redact(result, KEY) == result


@pytest.mark.parametrize(
    "text",
    [
        'auth_unix_ro = "none"',
        "password_policy strict",
        "Kernel command line: quiet token-free",
        "<secret type='iscsi' usage='x'/>",
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIC root@kvm01",
        "#keepalive_interval = 5",
    ],
)
def test_the_rest_stays(text: str) -> None:
    assert redact(text, KEY) == text


def test_pseudonyms_are_stable_and_depend_on_the_key() -> None:
    text = "vnc_password = hunter2\n"
    assert redact(text, KEY) == redact(text, KEY)
    assert redact(text, KEY) != redact(text, b"other")


MEGABYTES = {
    "password=": "password=" * 550_000, "quotes": '"' * 5_000_000, "open quotes": 'password="' * 500_000,
    "quoted": 'password="a" ' * 400_000, "escapes": 'password="' + '\\"' * 2_500_000, "urls": "://" * 1_700_000,
    "users": "a:@" * 1_700_000, "words": "secret " * 700_000, "options": " -p x" * 1_000_000,
    "lines": "".join(f"password={number}\n" for number in range(100_000)), "braces": "{" * 5_000_000,
    "keys": "-----BEGIN PRIVATE KEY-----" * 190_000, "base64": "aA1" * 1_700_000, "hashes": "$6$" * 1_700_000,
    "tokens": "eyJ" * 1_700_000, "tags": "<a>" * 1_700_000, "commas": "," * 5_000_000, "names": "key=" * 1_250_000,
    "halves": ("x" * 8000 + "secret\n") * 600,
}  # fmt: skip


@pytest.mark.parametrize(
    "probe", ["uname", "journal", "domain:u/live", "ip_link", "qemu_process:7", "cmdline", "mounts", "qemu_conf"]
)
@pytest.mark.parametrize("what", MEGABYTES)
def test_hostile_megabytes_cost_no_more_than_their_length(what: str, probe: str) -> None:
    text = MEGABYTES[what]
    begin = time.process_time()
    redact_record(Record(probe, f"/etc/x:{text}" if probe == "qemu_conf" else text), KEY)
    assert time.process_time() - begin < 4


def test_deep_and_broken_documents_are_taken_out_whole() -> None:
    for probe, text in (
        ("ip_link", "[" * 100_000 + '"Hunter2Hunter2"' + "]" * 100_000),
        ("ip_link", '[{"ifname": "Hunter2Hunter2"'),
        ("domain:u/live", "<domain><name>Hunter2Hunter2</domain>"),
        ("domain:u/live", "<!DOCTYPE a [<!ENTITY b 'Hunter2Hunter2'>]>\n<domain><name>&b;</name></domain>"),
        ("domain:u/live", "<other><name>Hunter2Hunter2</name></other>"),
        ("qemu_conf", '/etc/libvirt/qemu.conf:user = "Hunter2Hunter2'),
        ("images:local/header/1", "no hexadecimal Hunter2Hunter2"),
    ):
        assert "Hunter2" not in redact_record(Record(probe, text), KEY).stdout


def test_what_could_not_be_read_stays_unreadable() -> None:
    """Redaction never makes an answer of what was none."""
    for probe, text, parse in (
        ("cmdline", "cat: /proc/cmdline: Permission denied\n", parse_cmdline),
        ("cmdline", "x" * 100_000, parse_cmdline),
        ("domain:u/live", "error: failed to get domain\n", parse_domain),
        ("domain:u/live", "<domain><name>x</name>", parse_domain),
        ("qemu_conf", 'user = "root\n', parse_conf),
        ("images:local/header/1", "514649fb", parse_headers),
    ):
        with pytest.raises(ParseError):
            parse(redact_record(Record(probe, text), KEY).stdout)


def test_packages_may_have_the_names_of_secrets() -> None:
    """What apt-get says of passwd is no password; what else stands there is looked at."""
    lines = (
        "Inst passwd [1:4.13+dfsg1-1+deb12u1] (1:4.13+dfsg1-1+deb12u2 Debian:12.15/oldstable [amd64])\n"
        "Inst libsecret-1-0 (0.20.5-3 Debian:12.15/oldstable, Debian-Security:12/stable-security [amd64]) []\nrc=0\n"
    )
    assert redact_record(Record("updates:apt/pending", lines), b"key").stdout == lines
    other = redact_record(Record("updates:apt/pending", "E: password=hunter22 is wrong\nrc=100\n"), b"key").stdout
    assert "hunter22" not in other


def test_tables_of_old_multipath_are_no_json() -> None:
    text = "mpath0 (36006)\n[size=100G][features=1 queue_if_no_path][hwhandler=1 emc][rw]\n\\_ round-robin 0 [prio=1][active]\n"
    assert redact_record(Record("multipath_maps", text), b"key").stdout == text
