"""Secrets leave no trace in evidence, whatever file they come from."""

from __future__ import annotations

import pytest

from pytest_kvmcheck.gather.redact import redact

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


def test_long_lines_take_no_longer_than_they_must() -> None:
    import time

    begin = time.monotonic()
    for text in (
        "a" * 10**6,
        "password " * 10**5,
        "secret " * 10**5,
        "{," * 3 * 10**5,
        "key" * 3 * 10**5,
        "://" * 3 * 10**5,
    ):
        redact(text, KEY)
    assert time.monotonic() - begin < 20
