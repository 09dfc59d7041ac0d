"""Installed and unused, the plugin is as if it were not there; used wrongly, it says so in one line."""

from __future__ import annotations

import pytest

UNRELATED = """
import pytest

@pytest.fixture
def host():
    return "mine"

@pytest.fixture
def domain():
    return "mine too"

@pytest.mark.parametrize("disk", [1, 2])
def test_own_fixtures(host, domain, disk):
    assert (host, domain) == ("mine", "mine too")
"""


def lines(result: pytest.RunResult) -> list[str]:
    """The output without what differs between any two runs."""
    return [
        line.split(" in ")[0] for line in result.outlines if not line.startswith(("plugins:", "rootdir:", "platform", "metadata:"))
    ]


@pytest.mark.parametrize("options", [(), ("--strict-markers", "-W", "error"), ("-v",)])
def test_an_unrelated_suite_sees_nothing_of_it(pytester: pytest.Pytester, options: tuple[str, ...]) -> None:
    pytester.makepyfile(UNRELATED)
    with_plugin = pytester.runpytest_subprocess(*options)
    without = pytester.runpytest_subprocess("-p", "no:kvmcheck", *options)
    with_plugin.assert_outcomes(passed=2)
    without.assert_outcomes(passed=2)
    assert lines(with_plugin) == lines(without)


def test_unused_it_neither_connects_nor_imports(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """No ssh is started, and none of the heavy modules is loaded."""
    fake = pytester.mkdir("bin") / "ssh"
    fake.write_text("#!/bin/sh\ntouch connected\n")
    fake.chmod(0o755)
    pytester.makepyfile(
        """
        import sys

        def test_light():
            loaded = [name for name in ("pydantic", "yaml", "defusedxml", "rich", "junitparser") if name in sys.modules]
            ours = {name for name in sys.modules if name.startswith("pytest_kvmcheck")}
            assert not loaded
            assert ours <= {"pytest_kvmcheck", "pytest_kvmcheck.plugin", "pytest_kvmcheck.errors", "pytest_kvmcheck.settings"}
        """
    )
    monkeypatch.setenv("PATH", str(fake.parent), prepend=":")
    pytester.runpytest_subprocess("--hosts=ssh://nowhere").assert_outcomes(passed=1)
    assert not (pytester.path / "connected").exists()


def test_the_marker_is_registered(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_subprocess("--markers")
    result.stdout.fnmatch_lines(["@pytest.mark.kvmcheck(id, severity, area)*"])


MISTAKES = [
    (["--kvmcheck-profile=basline"], "unknown; did you mean baseline?"),
    (["--kvmcheck-profile=./none.yaml"], "there is no such file"),
    (["--hosts=ssh://root:hunter2@kvm01"], "a password in a host spec ends up in process lists"),
    (["--hosts=kvm01"], "did you mean ssh://kvm01?"),
    (["--hosts=localhost"], "did you mean local://?"),
    (["--hosts=paramiko://kvm01"], "unknown SSH host keys"),
    (["--hosts=safe-ssh://kvm01"], "writes files to the target"),
    (["--hosts=gopher://kvm01"], "unknown kind of target"),
    (["--hosts=ssh://-oProxyCommand=id"], "cannot start with a dash"),
    (["--hosts="], "no host to check"),
    (["--hosts=bundle:nowhere"], "there is no file or directory"),
    (["--hosts=ssh://a@kvm01,ssh://b@kvm01"], "two targets are called kvm01"),
    (["--kvmcheck-inventory=none.yaml"], "No such file"),
    (["--kvmcheck-waivers=none.yaml"], "No such file"),
    (["--kvmcheck-record=full"], "evidence is never overwritten"),
    (["--kvmcheck-json=full/x/out.json"], "cannot be written"),
]


@pytest.mark.parametrize(("options", "said"), MISTAKES, ids=[" ".join(options) for options, _ in MISTAKES])
def test_a_mistake_is_one_line_and_exit_code_4(pytester: pytest.Pytester, options: list[str], said: str) -> None:
    (pytester.mkdir("full") / "x").touch()
    result = pytester.runpytest_subprocess("--kvmcheck", *options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    told = [line for line in result.errlines if line.strip()]
    assert len(told) == 1
    assert told[0].startswith("ERROR: kvmcheck: ")
    assert said in told[0]
    assert "hunter2" not in result.stdout.str() + result.stderr.str()
    assert "Traceback" not in result.stdout.str() + result.stderr.str()


@pytest.mark.parametrize("name", ["profile", "inventory", "waivers", "record", "json"])
def test_our_options_without_the_switch(pytester: pytest.Pytester, name: str) -> None:
    """Somebody's own tests would be run, and a green result taken for one about hosts."""
    pytester.makepyfile("def test_own(): pass")
    result = pytester.runpytest_subprocess(f"--kvmcheck-{name}=x")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: kvmcheck: --kvmcheck-{name} without --kvmcheck: nothing would be checked"])


def test_zero_hosts_do_not_exit_0(pytester: pytest.Pytester) -> None:
    pytester.path.joinpath("inventory.yaml").write_text("hosts: {}\n")
    result = pytester.runpytest_subprocess("--kvmcheck", "--kvmcheck-inventory=inventory.yaml")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*no host to check: inventory.yaml names 0 hosts"])


def test_an_unknown_id_does_not_exit_0(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_subprocess("--kvmcheck", "-k", "KVM-DOES-NOT-EXIST")
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED


def test_checks_are_found_by_id_and_by_mark(pytester: pytest.Pytester) -> None:
    by_id = pytester.runpytest_subprocess("--kvmcheck", "-k", "KVM-MEM-005", "--collect-only", "-q")
    found = [line for line in by_id.outlines if "::" in line]
    assert len(found) == 1
    assert "localhost" in found[0]
    by_mark = pytester.runpytest_subprocess("--kvmcheck", "-m", "kvmcheck(area='KSM')", "--collect-only", "-q")
    assert {line.split("::")[0].rpartition("/")[2] for line in by_mark.outlines if "::" in line} == {"test_ksm.py"}


def test_checks_without_the_option_say_how(pytester: pytest.Pytester) -> None:
    from pytest_kvmcheck.paths import shipped

    result = pytester.runpytest_subprocess(str(shipped("checks") / "test_ksm.py"))
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*run it with --kvmcheck*"])


def test_own_checks_beside_the_shipped_ones(pytester: pytest.Pytester) -> None:
    """A customer's own directory of checks, with a profile that names them."""
    pytester.path.joinpath("site.yaml").write_text("name: site\nchecks:\n  KVM-SITE-001:\n")
    pytester.makepyfile(
        test_site='''
        from pytest_kvmcheck import Severity, check

        @check("KVM-SITE-001", title="The sky is blue", severity=Severity.LOW, reads=("uname",))
        def test_sky(host):
            """Blue.

            What it checks
                x
            Why it matters
                x
            How to fix
                now: x
            """
            assert "Linux" not in host.evidence.text("uname"), f"{host}: it is Linux."
        '''
    )
    result = pytester.runpytest_subprocess("--kvmcheck", "--kvmcheck-profile=site.yaml", "test_site.py")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["FAIL*KVM-SITE-001*it is Linux."])
    typo = pytester.path.joinpath("typo.yaml")
    typo.write_text("name: site\nchecks:\n  KVM-SITE-002:\n")
    result = pytester.runpytest_subprocess("--kvmcheck", f"--kvmcheck-profile={typo}", "test_site.py")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*typo.yaml:3: checks.KVM-SITE-002: unknown check id; did you mean KVM-SITE-001?"])


def test_a_broken_check_file_is_shown(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_site="import nothing_like_this\n")
    result = pytester.runpytest_subprocess("--kvmcheck", "test_site.py")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(["*ModuleNotFoundError*nothing_like_this*"])
