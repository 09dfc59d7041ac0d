"""libvirt+URI: what a URI may say, and a library that hangs or talks without end."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

from pytest_kvmcheck import plan
from pytest_kvmcheck.errors import Cause, KvmcheckError
from pytest_kvmcheck.gather import libvirt_api
from pytest_kvmcheck.gather.transport import Connection
from pytest_kvmcheck.settings import Settings
from pytest_kvmcheck.targets import Target


@pytest.mark.parametrize(
    "uri",
    [
        "qemu:///system",
        "qemu:///session",
        "qemu+unix:///system?socket=/run/libvirt/libvirt-sock-ro",
        "qemu+unix:///system?socket=/run/x&mode=legacy",
        "qemu+ssh://kvm01/system",
        "qemu+ssh://root@kvm01:2222/system?keyfile=/root/.ssh/id&no_tty=1",
        "qemu+ssh://[fe80::1]/system",
        "qemu+libssh2://kvm01/system?known_hosts=/etc/known&known_hosts_verify=normal&sshauth=agent",
        "qemu+tls://kvm01/system?pkipath=/etc/pki/kvm",
        "qemu+tls://kvm01/system?no_verify=0",
        "qemu://kvm01/system",
        "test:///default",
    ],
)
def test_uris_that_are_let_through(uri: str) -> None:
    libvirt_api.check_uri(f"libvirt+{uri}")
    with pytest.raises(KvmcheckError):  # the same, but for the driver
        libvirt_api.check_uri(f"libvirt+{uri.replace('qemu', 'xen', 1).replace('test:', 'xen:', 1)}")


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("qemu+ssh://kvm01/system?no_verify=1", "anybody's word"),
        ("qemu+tls://kvm01/system?no_verify=1", "anybody's word"),
        ("qemu+tls://kvm01/system?NO_VERIFY=1", "anybody's word"),
        ("qemu+ssh://kvm01/system?no%5Fverify=1", "anybody's word"),
        ("qemu+ssh://kvm01/system?keyfile=x;no_verify=1", "anybody's word"),
        ("qemu+tls://kvm01/system?no_verify=0&no_verify=1", "anybody's word"),
        ("qemu+libssh2://kvm01/system?known_hosts_verify=ignore", "anybody's word"),
        ("qemu+libssh://kvm01/system?known_hosts_verify=auto", "anybody's word"),
        ("qemu+tls://kvm01/system?no_sanity=1", "anybody's word"),
        ("qemu+ssh://kvm01/system?command=/tmp/evil", "names a command"),
        ("qemu+ssh://kvm01/system?netcat=/tmp/evil", "names a command"),
        ("qemu+libssh2://kvm01/system?sshauth=password", "is not let through"),
        ("qemu+libssh2://kvm01/system?sshauth=agent,password", "is not let through"),
        ("qemu+ssh://kvm01/system?authfile=/tmp/auth", "is not let through"),
        ("qemu+ext:///system?command=/tmp/evil", "no connection that proves who answers"),
        ("qemu+tcp://kvm01/system", "no connection that proves who answers"),
        ("QEMU+TCP://kvm01/system", "no connection that proves who answers"),
        ("qemu+ssh://root:hunter2@kvm01/system", "a password"),
        ("qemu+ssh://root%3Ahunter2@kvm01/system", "a password"),
        ("qemu+ssh://-oProxyCommand=evil/system", "a dash"),
        ("qemu+ssh://-x@kvm01/system", "a dash"),
        ("qemu:///system#x", "a dash"),
        ("esx://kvm01/?no_verify=1", "not a URI of libvirt's for QEMU"),
        ("vbox:///session", "not a URI of libvirt's for QEMU"),
        ("qemu:system", "not a URI of libvirt's for QEMU"),
        ("qemu+ssh://[fe80::1/system", "not a URI"),
        ("kvm01", "not a URI of libvirt's for QEMU"),
    ],
)
def test_uris_that_are_refused(uri: str, said: str) -> None:
    with pytest.raises(KvmcheckError, match=said) as caught:
        libvirt_api.check_uri(f"libvirt+{uri}")
    assert "hunter2" not in str(caught.value)
    assert str(caught.value).isprintable()
    with pytest.raises(KvmcheckError):
        plan.make(Settings(), f"libvirt+{uri}", Connection())


def test_a_server_that_says_nothing_has_a_time_limit(tmp_path: Path) -> None:
    """libvirt's library would wait for ever."""
    path = tmp_path / "silent"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        begin = time.monotonic()
        evidence = libvirt_api.gather(Target("x", f"libvirt+qemu+unix:///system?socket={path}"), Connection(deadline_s=3))
        assert time.monotonic() - begin < 10
    assert evidence.failure
    assert evidence.failure.cause is Cause.TIMEOUT
    assert "no answer within 3 s" in evidence.failure.detail


def test_its_ssh_is_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """libvirt starts ssh by name, and ssh_config may let it trust anybody: our arguments come first, and it ends with us."""
    said = tmp_path / "said"
    (tmp_path / "ssh").write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >{said}\nexec sleep 600\n')
    (tmp_path / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    connection = Connection(ssh_config="/etc/my ssh/config", ssh_extra_args="-o StrictHostKeyChecking=no", deadline_s=4)
    evidence = libvirt_api.gather(Target("x", "libvirt+qemu+ssh://kvm01/system"), connection)
    assert evidence.failure
    words = said.read_text().splitlines()
    checks = [word for word in words if word.startswith("StrictHostKeyChecking=")]
    assert checks == ["StrictHostKeyChecking=yes", "StrictHostKeyChecking=no"]  # of two, ssh takes the first
    assert words[words.index("-F") + 1] == "/etc/my ssh/config"
    assert words.index("-F") < words.index("kvm01")
    assert shutil.which("pgrep")
    assert subprocess.run(["pgrep", "-f", f"{tmp_path}/ssh"], stdout=subprocess.DEVNULL).returncode == 1


def test_what_the_library_says_is_evidence(tmp_path: Path) -> None:
    evidence = libvirt_api.gather(Target("x", "libvirt+test:///default"))
    assert evidence.failure is None
    assert evidence.text("virsh:uri") == "test:///default\n"
    assert "<domain" in next(record.stdout for name, record in evidence.records.items() if name.endswith("/live"))
