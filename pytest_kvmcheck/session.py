"""One checking session: gather once, turn subjects into tests, judge, and report."""

from __future__ import annotations

import gc
import shutil
import sys
import tempfile
from collections.abc import Generator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_kvmcheck import plan, settings
from pytest_kvmcheck.errors import KvmcheckError
from pytest_kvmcheck.gather import leash
from pytest_kvmcheck.gather.transport import Connection
from pytest_kvmcheck.outcomes import TABLE, Outcome
from pytest_kvmcheck.registry import Check
from pytest_kvmcheck.reports import json_report, terminal
from pytest_kvmcheck.results import Case, Result, judge
from pytest_kvmcheck.selection import Selection
from pytest_kvmcheck.subjects import Subject, list_subjects
from pytest_kvmcheck.tally import Key, Tally, count, keep_worse, planned_of

if TYPE_CHECKING:
    from xdist.workermanage import WorkerController

_WORKER_BUNDLE = "kvmcheck_bundle"
_WORKER_DESELECTED = "kvmcheck_deselected"


class Session:
    """The plugin that is registered while checks are asked for; its methods are pytest's hooks."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.worker = hasattr(config, "workerinput")
        self.results: dict[Key, Result] = {}
        self.tally: Tally | None = None
        self.stopped = ""
        self._deselected: set[Key] = set()
        self.gathered: list[str] = []
        self._own_report: pytest.TestReport | None = None
        self._scratch: Path | None = None
        self._thresholds = gc.get_threshold()
        self._subjects: dict[str, list[Subject]] = {}
        wanted = settings.read(config)
        if not self.worker:
            json_report.withdraw(wanted.json)
        if sys.flags.optimize and config.getoption("assertmode", "rewrite") == "plain":
            raise KvmcheckError(
                "python -O with --assert=plain: no assertion would be run, and nothing judged; leave one of them out"
            )
        hosts = getattr(config.option, "hosts", None)
        self.selection = Selection(config)
        own_checks = self.selection.own
        if not own_checks:
            self._stand_for_tracebacks()
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
        self._until_the_end = ExitStack()
        if not self.worker:  # SIGTERM and SIGHUP end a run like Ctrl-C, so that what was written for workers is removed
            self._until_the_end.enter_context(leash.stops())

    def close(self) -> None:
        """Remove what was written for the workers only, and let the garbage collector do as before."""
        self._until_the_end.close()
        gc.freeze()
        gc.set_threshold(*self._thresholds)
        if self._scratch:
            shutil.rmtree(self._scratch, ignore_errors=True)

    def _stand_for_tracebacks(self) -> None:
        """Let our summary stand for pytest's tracebacks and short summary: nothing but shipped checks is run."""
        if self.config.option.tbstyle == "auto":
            self.config.option.tbstyle = "no"
        if self.config.option.reportchars == "fE":
            self.config.option.reportchars = ""

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
        gc.set_threshold(50_000, 20, 1000)
        self._spare_what_nobody_needs()
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        with terminal.Progress(reporter, len(self.plan.targets)) as progress:
            plan.gather(self.plan, progress.done)
        self.gathered = progress.lines()
        try:
            if self.plan.settings.record:
                plan.seal(self.plan, self.plan.settings.record)
        except (KvmcheckError, OSError) as exc:
            raise pytest.UsageError(f"kvmcheck: --kvmcheck-record: {exc}") from None

    def _spare_what_nobody_needs(self) -> None:
        """Shipped checks log nothing and warn of nothing: to look out for both at each verdict takes a third of a run.

        Who asks for logs or warnings (-W, --log-cli-level ...) keeps them, and so do the tests of others in the same run.
        """
        config, manager = self.config, self.config.pluginmanager
        asked = any(config.getini(name) for name in ("filterwarnings", "log_cli", "log_level", "log_file"))
        asked |= bool(config.known_args_namespace.pythonwarnings) or any(
            getattr(config.option, name, None) for name in ("log_cli_level", "log_level", "log_file")
        )
        if self.selection.own or asked:
            return
        if (logs := manager.get_plugin("logging-plugin")) is not None:
            manager.unregister(logs)
            logs.pytest_unconfigure()  # closes its file
        if (warnings := manager.get_plugin("warnings")) is not None:
            manager.unregister(warnings)

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: WorkerController) -> None:
        """Tell an xdist worker where the evidence is."""
        if self.plan.settings.record:
            place = self.plan.settings.record
        else:
            if self._scratch is None:
                try:
                    self._scratch = Path(tempfile.mkdtemp(prefix="kvmcheck-"))
                    plan.seal(self.plan, self._scratch / "evidence")
                except (KvmcheckError, OSError) as exc:
                    raise pytest.UsageError(f"kvmcheck: evidence for the workers: {exc}") from None
            place = self._scratch / "evidence"
        node.workerinput[_WORKER_BUNDLE] = str(place.absolute())

    # -- collection ------------------------------------------------------------------------------------------------

    def _subjects_of(self, scope: str) -> list[Subject]:
        if scope not in self._subjects:
            self._subjects[scope] = list_subjects(scope, self.plan.hosts, self.plan.absent)
        return self._subjects[scope]

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Make one test of each check and each subject it is for."""
        check: Check | None = getattr(metafunc.function, "kvmcheck", None)
        if check is None or "_kvm_subject" not in metafunc.fixturenames:
            return
        waivers = [waiver for waiver in self.plan.waivers if waiver.check == check.id]
        cases = []
        for subject in self._subjects_of(check.scope):
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
        """Drop what the profile does not ask for; let ``-k`` find checks by id, and ``-m`` severities by the profile's word."""
        kept = []
        for item in items:
            check: Check | None = getattr(getattr(item, "function", None), "kvmcheck", None)
            if check is not None:
                case = _case(item)
                if case is None:
                    continue
                item.extra_keyword_matches.add(check.id)
                severity = case.profile.severity(check)
                if severity != check.severity:
                    mark = pytest.mark.kvmcheck(id=check.id, severity=str(severity), area=check.area).mark
                    item.own_markers[:] = [mark if own.name == "kvmcheck" else own for own in item.own_markers]
            kept.append(item)
        items[:] = kept

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        """Remember what a selection took out: a run of a part is told as such."""
        self._deselected |= {(case.check.id, case.subject.id) for item in items if (case := _case(item))}

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: WorkerController) -> None:
        """Hear from an xdist worker what a selection took out there."""
        told = getattr(node, "workeroutput", None) or {}
        self._deselected |= {(check, subject) for check, subject in told.get(_WORKER_DESELECTED, ())}

    def pytest_collection_finish(self) -> None:
        """Keep evidence and tests from the garbage collector."""
        gc.freeze()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Hand the subject over. To let pytest find it as a fixture takes as long as to judge it."""
        if isinstance(item, pytest.Function) and (case := _case(item)):
            item.funcargs["_kvm_subject"] = case

    # -- verdicts --------------------------------------------------------------------------------------------------

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Turn how a check ended into its outcome, and put the result on the report.

        This is the outermost of all: marks (xfail) and plugins change reports on their way, and a verdict is ours alone.
        """
        case = _case(item)
        judges = case is not None and call.when != "teardown" and not (call.when == "setup" and call.excinfo is None)
        self._own_report = None
        if case is None or not judges:
            return (yield)
        result = judge(case, call.excinfo.value if call.excinfo else None)
        if self.config.getoption("xmlpath", None) and self.config.getini("junit_family") == "xunit1":
            keys = ("check", "severity", "host", "subject", "outcome")
            item.user_properties += [(f"kvmcheck_{key}", result[key]) for key in keys]
        self._own_report = _report(item, call, result)
        told = vars(self._own_report).copy()
        yield
        vars(self._own_report).clear()
        vars(self._own_report).update(told)
        return self._own_report

    @pytest.hookimpl(tryfirst=True, specname="pytest_runtest_makereport")
    def pytest_runtest_makereport_once(self) -> pytest.TestReport | None:
        """Keep pytest from making a report of its own: nobody sees its traceback, and it takes most of the time of a verdict."""
        return self._own_report

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, Any] | None:
        """Show our own outcomes by their own letters and words."""
        result = getattr(report, "kvmcheck", None)
        if result is None or str(report.outcome) == "rerun":
            return None
        look = TABLE[Outcome(result["outcome"])]
        return look.category, look.letter, (look.word, {look.markup: True})

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the results, from workers too. To run a check again (pytest-rerunfailures) adds no verdict."""
        result = getattr(report, "kvmcheck", None)
        if result is not None and not self.worker:
            keep_worse(self.results, result)

    # -- reports ---------------------------------------------------------------------------------------------------

    def _count(self) -> Tally:
        """Compare what was planned with what was judged."""
        plan = self.plan
        planned = planned_of(
            plan.checks.values(),
            self._subjects_of,
            lambda profile, check: plan.profile_of(profile).setting(check) is not None,
        )
        targets = (
            {}
            if self.selection.sharded
            else {target.name: target.cluster if target.role == "host" else "" for target in plan.targets}
        )
        return count(
            planned, self.results.values(), self._deselected, lambda check: self.selection.left_out(plan.checks[check]), targets
        )

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> Generator[None, None, None]:
        """Count the verdicts, write the JSON report, whole or not at all, and decide the exit code: after all other plugins."""
        if self.worker:
            self.config.workeroutput[_WORKER_DESELECTED] = sorted(map(list, self._deselected))  # type: ignore[attr-defined]
            return (yield)
        self.tally = self._count()
        if self.tally.lost and (session.shouldstop or session.shouldfail):
            self.stopped = str(session.shouldfail or session.shouldstop)
        code = self.tally.exit_code(int(exitstatus))
        if self.plan.settings.json:
            try:
                body = json_report.document(
                    self.plan, list(self.results.values()), self.tally, self.selection.told(self.plan.checks.values())
                )
                json_report.write(self.plan.settings.json, body)
            except OSError as exc:
                code = pytest.ExitCode.INTERNAL_ERROR
                print(f"kvmcheck: --kvmcheck-json: {exc}", file=sys.stderr)
        session.exitstatus = code
        try:
            return (yield)
        finally:
            session.exitstatus = code if session.exitstatus in (0, 1, 5, code) else session.exitstatus

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print what a person needs to know, worst first."""
        if not self.worker and self.tally is not None:
            terminal.summary(
                terminalreporter,
                self.plan,
                list(self.results.values()),
                self.tally,
                self.selection.told(self.plan.checks.values()),
                self.stopped,
            )


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
