"""Columns of pytest-html: host, id, severity and fix. Names of domains are hostile input: everything is escaped."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from pytest_kvmcheck.outcomes import TABLE, Outcome

if TYPE_CHECKING:
    import pytest

#: Title and what is shown of a result, after the column of pytest-html's own result.
COLUMNS = (
    ("Verdict", "outcome"),
    ("Host", "host"),
    ("Id", "check"),
    ("Severity", "severity"),
    ("Subject", "subject"),
    ("Fix", "fix"),
)


class HtmlColumns:
    """Hooks of pytest-html; registered only while checks are run and pytest-html is there."""

    def pytest_html_report_title(self, report: Any) -> None:
        """Name the page after what it shows."""
        report.title = "pytest-kvmcheck"

    def pytest_html_results_table_header(self, cells: list[str]) -> None:
        """Add our columns before the last one, the links."""
        cells[-1:-1] = [f'<th class="sortable" data-column-type="{key}">{title}</th>' for title, key in COLUMNS]

    def pytest_html_results_table_row(self, report: pytest.TestReport, cells: list[str]) -> None:
        """Fill our columns; they are empty for tests that are no checks."""
        result = getattr(report, "kvmcheck", None)
        shown = []
        for _, key in COLUMNS:
            text = str(result[key]) if result else ""
            if key == "outcome" and result:
                text = TABLE[Outcome(text)].word
            shown.append(f'<td class="col-{key}">{escape(text).replace(chr(10), "<br>")}</td>')
        cells[-1:-1] = shown
