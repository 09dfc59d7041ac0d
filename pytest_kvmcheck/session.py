"""One checking session: gather once, turn subjects into tests, judge, and report."""

from __future__ import annotations

import gc
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_kvmcheck import plan, settings
from pytest_kvmcheck.errors import KvmcheckError
from pytest_kvmcheck.gather.transport import Connection
from pytest_kvmcheck.outcomes import TABLE, Outcome
from pytest_kvmcheck.paths import shipped
from pytest_kvmcheck.registry import Check
from pytest_kvmcheck.reports import json_report, terminal
from pytest_kvmcheck.results import Case, Result, judge
from pytest_kvmcheck.subjects import Subject, list_subjects

if TYPE_CHECKING:
    from xdist.workermanage import WorkerController

_WORKER_BUNDLE = "kvmcheck_bundle"


class Session:
    """The plugin that is registered while checks are asked for; its methods are pytest's hooks."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.worker = hasattr(config, "workerinput")
        self.results: list[Result] = []
        self.gathered: list[str] = []
        self._scratch: Path | None = None
        self._thresholds = gc.get_threshold()
        self._subjects: dict[str, list[Subject]] = {}
        wanted = settings.read(config)
        hosts = getattr(config.option, "hosts", None)
        own_checks = self._own_checks()
        if config.pluginmanager.hasplugin("html"):
            from pytest_kvmcheck.reports.html import HtmlColumns

            config.pluginmanager.register(HtmlColumns(), "kvmcheck-html")
        if self.worker:
            hosts = f"bundle:{config.workerinput[_WORKER_BUNDLE]}"  # type: ignore[attr-defined]
            wanted = replace(wanted, record=None, json=None)
        self.plan = plan.make(
            wanted,
            hosts,
            self._connection(wanted),
            sudo=bool(getattr(config.option, "sudo", False)),
            own_checks=own_checks,
        )

    def close(self) -> None:
        """Remove what was written for the workers only, and let the garbage collector do as before."""
        gc.freeze()
        gc.set_threshold(*self._thresholds)
        if self._scratch:
            shutil.rmtree(self._scratch, ignore_errors=True)

    def _own_checks(self) -> list[Path]:
        """Return the files and directories that the user named. Without any, the shipped checks are run.

        When nothing but shipped checks is run, our summary stands for pytest's tracebacks and short summary.
        """
        config = self.config
        if config.args_source is not pytest.Config.ArgsSource.ARGS:
            config.args = [str(shipped("checks"))]
        named = [Path(config.invocation_params.dir, arg.split("::")[0]).resolve() for arg in config.args]
        own = [path for path in named if path.exists() and not path.is_relative_to(shipped("checks"))]
        if not own:
            if config.option.tbstyle == "auto":
                config.option.tbstyle = "no"
            if config.option.reportchars == "fE":
                config.option.reportchars = ""
        return own

    def _connection(self, wanted: settings.Settings) -> Connection:
        option = self.config.option
        return Connection(
            getattr(option, "ssh_config", None),
            getattr(option, "ssh_identity_file", None),
            getattr(option, "ssh_extra_args", None),
            getattr(option, "ansible_inventory", None),
            deadline_s=wanted.host_timeout_s,
        )

    # -- gathering -------------------------------------------------------------------------------------------------

    def pytest_report_header(self) -> list[str]:
        """Say what is judged by what, and where each setting came from."""
        return [*terminal.header(self.plan), *self.gathered]

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Gather once, in the controller or the only process; workers replay the bundle.

        pytest prints its header after this, and xdist starts its workers even later.
        """
        # Evidence, tests and results stay to the end: to look through them for garbage again and again takes a fourth of a run.
        gc.set_threshold(*self._thresholds[:2], 1000)
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        with terminal.Progress(reporter, len(self.plan.targets)) as progress:
            plan.gather(self.plan, progress.done)
        self.gathered = progress.lines()
        try:
            if self.plan.settings.record:
                plan.seal(self.plan, self.plan.settings.record)
        except (KvmcheckError, OSError) as exc:
            raise pytest.UsageError(f"kvmcheck: --kvmcheck-record: {exc}") from None

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: WorkerController) -> None:
        """Tell an xdist worker where the evidence is."""
        if self.plan.settings.record:
            place = self.plan.settings.record
        else:
            if self._scratch is None:
                self._scratch = Path(tempfile.mkdtemp(prefix="kvmcheck-"))
                plan.seal(self.plan, self._scratch / "evidence")
            place = self._scratch / "evidence"
        node.workerinput[_WORKER_BUNDLE] = str(place.absolute())

    # -- collection ------------------------------------------------------------------------------------------------

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Make one test of each check and each subject it is for."""
        check: Check | None = getattr(metafunc.function, "kvmcheck", None)
        if check is None or "_kvm_subject" not in metafunc.fixturenames:
            return
        if check.scope not in self._subjects:
            self._subjects[check.scope] = list_subjects(check.scope, self.plan.hosts)
        waivers = [waiver for waiver in self.plan.waivers if waiver.check == check.id]
        cases = []
        for subject in self._subjects[check.scope]:
            profile = self.plan.profile_of(subject.profile)
            if profile.setting(check.id):
                matching = [waiver for waiver in waivers if waiver.matches(check.id, subject.id)]
                cases.append(Case(check, subject, profile, matching, self.plan.at))
        metafunc.parametrize(
            "_kvm_subject",
            cases or [None],
            ids=[case.subject.id for case in cases] or ["not-in-profile"],
        )

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Show why a check file cannot be collected: without verdicts our summary has nothing to say."""
        if report.failed and self.config.option.tbstyle == "no":
            self.config.option.tbstyle = "short"

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Drop what the profile does not ask for, and let ``-k`` find checks by id."""
        kept = []
        for item in items:
            check: Check | None = getattr(getattr(item, "function", None), "kvmcheck", None)
            if check is not None:
                if _case(item) is None:
                    continue
                item.extra_keyword_matches.add(check.id)
            kept.append(item)
        items[:] = kept

    def pytest_collection_finish(self) -> None:
        """Keep evidence and tests from the garbage collector."""
        gc.freeze()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Hand the subject over. To let pytest find it as a fixture takes as long as to judge it."""
        if isinstance(item, pytest.Function) and (case := _case(item)):
            item.funcargs["_kvm_subject"] = case

    # -- verdicts --------------------------------------------------------------------------------------------------

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> pytest.TestReport | None:
        """Turn what a check raised into its outcome, and put the result on the report.

        pytest's own report is not made: nobody sees its traceback, and it takes most of the time of a verdict.
        """
        case = _case(item)
        if case is None or call.when == "teardown" or (call.when == "setup" and call.excinfo is None):
            return None
        result = judge(case, call.excinfo.value if call.excinfo else None)
        if self.config.getini("junit_family") == "xunit1" and self.config.getoption("xmlpath", None):
            keys = ("check", "severity", "host", "subject", "outcome")
            item.user_properties += [(f"kvmcheck_{key}", result[key]) for key in keys]
        return _report(item, call, result)

    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, Any] | None:
        """Show our own outcomes by their own letters and words."""
        result = getattr(report, "kvmcheck", None)
        if result is None:
            return None
        look = TABLE[Outcome(result["outcome"])]
        return look.category, look.letter, (look.word, {look.markup: True})

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the results, from workers too."""
        result = getattr(report, "kvmcheck", None)
        if result is not None and not self.worker:
            self.results.append(result)

    # -- reports ---------------------------------------------------------------------------------------------------

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Write the JSON report, whole or not at all."""
        if self.worker:
            return
        if exitstatus == pytest.ExitCode.OK and not self.results and not session.config.option.collectonly:
            session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED
        if self.plan.settings.json:
            complete = exitstatus in (0, 1, 5) and not session.shouldstop and not session.shouldfail
            try:
                json_report.write(self.plan.settings.json, json_report.document(self.plan, self.results, complete=bool(complete)))
            except OSError as exc:
                session.exitstatus = pytest.ExitCode.INTERNAL_ERROR
                print(f"kvmcheck: --kvmcheck-json: {exc}", file=sys.stderr)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print what a person needs to know, worst first."""
        if not self.worker and not self.config.option.collectonly:
            terminal.summary(terminalreporter, self.plan, self.results)


def _case(item: pytest.Item) -> Case | None:
    callspec = getattr(item, "callspec", None)
    return callspec.params.get("_kvm_subject") if callspec else None


def _report(item: pytest.Item, call: pytest.CallInfo[None], result: Result) -> pytest.TestReport:
    """Return the report by which pytest, JUnit and pytest-html see the outcome as the table says."""
    text = f"{result['check']} {result['subject']}: {result['message']}"
    if result["fix"]:
        text += f"\n{result['fix']}\nexplain: kvmcheck explain {result['check']}"
    when, outcome, wasxfail = call.when, "passed", ""
    longrepr: str | tuple[str, int, str] | None = None
    match Outcome(result["outcome"]):
        case Outcome.FAIL | Outcome.ERROR:
            outcome, longrepr = "failed", text
        case Outcome.UNKNOWN:
            when, outcome = "setup", "failed"
            longrepr = f"{result['check']} {result['subject']}: unknown ({result['cause']}): {result['message']}"
        case Outcome.WARN | Outcome.WAIVED:
            outcome, longrepr = "skipped", text
            waiver = result["waiver"]
            until = f" until {waiver['until']} by {waiver['approver']}" if waiver else ""
            wasxfail = f"{result['outcome']}{until}: {text.splitlines()[0]}"
        case Outcome.NA:
            path, line, _ = item.location
            outcome, longrepr = "skipped", (path, (line or 0) + 1, f"Skipped: {result['message']}")
        case Outcome.PASS:
            pass
    report = pytest.TestReport(
        item.nodeid,
        item.location,
        dict.fromkeys(item.keywords, 1),
        outcome,  # type: ignore[arg-type]  # one of pytest's three words
        longrepr,
        when,  # type: ignore[arg-type]
        [(f"Captured {kind} {phase}", content) for phase, kind, content in item._report_sections],
        call.duration,
        call.start,
        call.stop,
        user_properties=list(item.user_properties),
    )
    report.kvmcheck = result  # type: ignore[attr-defined]  # xdist carries it over as it is
    if wasxfail:
        report.wasxfail = wasxfail
    return report
