"""The probe of updates compares versions as rpm does, and reads advisories however they are laid out."""

from __future__ import annotations

import gzip
import shutil
import subprocess
from pathlib import Path

import pytest

from pytest_kvmcheck.facts.updates import parse_repo_files, parse_waiting
from pytest_kvmcheck.gather.script import HELPERS
from pytest_kvmcheck.probes.updates import ADVISORIES, UPDATES

#: From rpm's own tests (tests/rpmvercmp.at).
COMPARED = [
    ("1.0", "1.0", 0), ("1.0", "2.0", -1), ("2.0.1", "2.0", 1), ("2.0.1a", "2.0.1", 1), ("5.5p1", "5.5p2", -1),
    ("5.5p10", "5.5p1", 1), ("10xyz", "10.1xyz", -1), ("xyz10", "xyz10.1", -1), ("xyz.4", "8", -1), ("xyz.4", "2", -1),
    ("5.5p2", "5.6p1", -1), ("5.6p1", "6.5p1", -1), ("6.0.rc1", "6.0", 1), ("10b2", "10a1", 1), ("7.4.052", "7.4.52", 0),
    ("1.0aa", "1.0a", 1), ("10.0001", "10.1", 0), ("10.0001", "10.0039", -1), ("4.999.9", "5.0", -1), ("20101121", "20101122", -1),
    ("2_0", "2.0", 0), ("a+", "a_", 0), ("+a", "_a", 0), ("+_", "_+", 0), ("1.0~rc1", "1.0", -1), ("1.0~rc1~git123", "1.0~rc1", -1),
    ("1.0~rc1", "1.0~rc2", -1), ("1.0^", "1.0", 1), ("1.0^git1", "1.0", 1), ("1.0^git1", "1.0^git2", -1), ("1.0^git1", "1.01", -1),
    ("1.0^20160101", "1.0.1", -1), ("1.0^20160101^git1", "1.0^20160102", -1), ("1.0~rc1^git1", "1.0~rc1", 1),
    ("1.0^git1~pre", "1.0^git1", -1), ("1b.fc17", "1.fc17", -1), ("1g.fc17", "1.fc17", 1),
]  # fmt: skip

AWKS = [["mawk"], ["busybox", "awk"]]


@pytest.fixture(params=AWKS, ids=lambda awk: awk[0])
def awk(request: pytest.FixtureRequest) -> list[str]:
    assert shutil.which(request.param[0]), f"{request.param[0]} is not installed; see tests/packages.txt"
    return request.param


def run(awk: list[str], program: str, given: str) -> str:
    done = subprocess.run([*awk, program], input=given, capture_output=True, text=True, timeout=20, check=True)
    return done.stdout


def test_versions_are_compared_as_rpm_does(awk: list[str]) -> None:
    functions = ADVISORIES.partition("BEGIN {")[0]
    both = [*COMPARED, *((second, first, -result) for first, second, result in COMPARED)]
    said = run(awk, functions + "{ print vc($1, $2) }", "".join(f"{first} {second}\n" for first, second, _ in both))
    assert [(*pair[:2], int(word)) for pair, word in zip(both, said.split(), strict=True)] == both


PACKAGES = """\
<kvmcheck-package kernel-core x86_64 (none) 5.14.0 284.el9
<kvmcheck-package kernel-core x86_64 (none) 5.14.0 362.el9
<kvmcheck-package bind x86_64 32 9.16.23 1.el9
<kvmcheck-package qemu-kvm x86_64 15 6.2.0 33.module+el8
<kvmcheck-package tzdata noarch (none) 2024a 1.el9
<kvmcheck-module virt:rhel
<kvmcheck-file /var/cache/dnf/x-0123456789abcdef/repodata/1-updateinfo.xml
"""


def update(kind: str, package: str, module: str = "", status: str = "final", newline: str = "\n") -> str:
    return newline.join(
        [
            f'<update from="x" status="{status}" type="{kind}" version="3">',
            "<id>X-1</id><description>a &lt; b, type=&quot;security&quot;</description>",
            f'<pkglist><collection short="x"><name>x</name>{module}',
            f"{package}<filename>x.rpm</filename></package></collection></pkglist></update>",
        ]
    )


@pytest.mark.parametrize(
    ("text", "waits"),
    [
        (
            update("security", '<package name="kernel-core" version="5.14.0" release="400.el9" epoch="0" arch="x86_64">'),
            ["kernel-core"],
        ),
        (
            update("security", '<package arch="x86_64" epoch="0" release="400.el9" version="5.14.0" name="kernel-core">'),
            ["kernel-core"],
        ),
        (
            update(
                "security", '<package name="kernel-core" version="5.14.0" release="400.el9" epoch="0" arch="x86_64">', newline=""
            ),
            ["kernel-core"],
        ),
        (update("security", '<package name="kernel-core" version="5.14.0" release="300.el9" epoch="0" arch="x86_64">'), []),
        (update("bugfix", '<package name="kernel-core" version="5.14.0" release="400.el9" epoch="0" arch="x86_64">'), []),
        (
            update("security", '<package name="kernel-core" version="5.14.0" release="400.el9" arch="x86_64">', status="retracted"),
            [],
        ),
        (update("security", '<package name="kernel-core" version="5.14.0" release="400.el9" epoch="0" arch="aarch64">'), []),
        (update("security", '<package name="bind" version="9.18.0" release="1.el9" epoch="31" arch="x86_64">'), []),
        (update("security", '<package name="bind" version="9.1" release="1.el9" epoch="33" arch="x86_64">'), ["bind"]),
        (update("security", '<package name="absent" version="9.1" release="1.el9" epoch="33" arch="x86_64">'), []),
        (update("security", '<package name="tzdata" version="2024b" release="1.el9" arch="noarch">'), ["tzdata"]),
        (
            update(
                "security",
                '<package name="qemu-kvm" version="6.2.0" release="40.module+el8" epoch="15" arch="x86_64">',
                '<module name="virt" stream="rhel" version="1" context="a" arch="x86_64"/>',
            ),
            ["qemu-kvm"],
        ),
        (
            update(
                "security",
                '<package name="qemu-kvm" version="8.0.0" release="1.module+el8" epoch="15" arch="x86_64">',
                '<module name="virt" stream="av" version="1" context="a" arch="x86_64"/>',
            ),
            [],
        ),
    ],
)
def test_advisories(awk: list[str], text: str, waits: list[str]) -> None:
    said = run(awk, ADVISORIES, f'{PACKAGES}<?xml version="1.0"?>\n<updates>{text}</updates>\n')
    assert [item.package for item in parse_waiting(f"{said}rc=0\n")] == waits
    assert "installed 5" in said


def test_the_probe_reads_a_host_of_red_hat(tmp_path: Path) -> None:
    """Below another root: a repository that is on, one that is off, an advisory that is packed, and an rpm that tells."""
    cache = tmp_path / "var/cache/dnf/baseos-0123456789abcdef/repodata"
    repos, tools = tmp_path / "etc/yum.repos.d", tmp_path / "bin"
    for directory in (cache, repos, tools):
        directory.mkdir(parents=True)
    text = update("security", '<package name="kernel-core" version="5.14.0" release="400.el9" epoch="0" arch="x86_64">')
    (cache / "1-updateinfo.xml.gz").write_bytes(gzip.compress(f"<updates>{text}</updates>".encode()))
    (cache / "2-updateinfo.xml.gz").write_bytes(b"\x1f\x8b broken")
    (cache / "repomd.xml").touch()
    (repos / "a.repo").write_text("[baseos]\nname=secret\nbaseurl=https://user:secret@x/\nenabled = 1\n[crb]\nenabled=0\n")
    rpm = tools / "rpm"
    rpm.write_text("#!/bin/sh\necho '<kvmcheck-package kernel-core x86_64 (none) 5.14.0 362.el9'\n")
    for tool in (rpm, tools / "dnf"):
        tool.touch()
        tool.chmod(0o755)
    script = UPDATES[0].script.replace("/var/", f"{tmp_path}/var/").replace("/etc/", f"{tmp_path}/etc/").replace("$D rpm", "rpm")
    done = subprocess.run(
        ["sh", "-c", f"PATH={tools}:$PATH N=n SUDO=\n{HELPERS}{script}"], capture_output=True, text=True, timeout=30, check=True
    )
    sections = dict(part.split("\n", 1) for part in done.stdout.split("@@n ")[1:])
    assert "secret" not in done.stdout
    assert parse_repo_files(sections["dnf/files"]) == ("baseos",)
    assert f"waits kernel-core {cache}/1-updateinfo.xml.gz" in sections["dnf/waits"]
    assert f"damaged {cache}/2-updateinfo.xml.gz" in sections["dnf/waits"]
    assert sections["dnf/waits"].endswith("rc=0\n")
