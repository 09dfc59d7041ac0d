"""What the documentation of every check must tell: how to fix it, how to go back, and when not to."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pytest_kvmcheck import catalog
from pytest_kvmcheck.registry import HEADINGS, Check
from pytest_kvmcheck.reports import touches
from pytest_kvmcheck.subjects import LISTERS

#: Subjects that there are none of without domains: only their fixes can name one.
OF_A_DOMAIN = {scope for scope, (_, without) in LISTERS.items() if without == "no domains"}

CHECKS = catalog.load()


@pytest.fixture(params=sorted(CHECKS))
def check(request: pytest.FixtureRequest) -> Check:
    return CHECKS[request.param]


def test_every_section_is_there(check: Check) -> None:
    assert [heading for heading in HEADINGS if not check.sections.get(heading, "").strip()] == []
    assert "https://" in check.sections["References"] or "man " in check.sections["References"]


def test_fix_tells_now_later_back_and_how_to_verify(check: Check) -> None:
    fix = check.sections["How to fix"]
    begins = [line.split(":")[0] for line in fix.splitlines() if line[:1].strip()]
    wanted = ("now", "after a reboot", "roll back", "verify")
    assert [word for word in begins if word in wanted] == list(wanted)
    told = [line.partition(":")[2].strip() for line in fix.splitlines() if line[:1].strip()]
    assert all(told), fix


def test_fix_names_a_domain_only_where_there_is_one(check: Check) -> None:
    if check.scope not in OF_A_DOMAIN:
        assert "$DOM" not in check.sections["How to fix"]


def test_the_page_of_what_is_touched_is_as_the_list_says() -> None:
    page = Path(__file__).parents[1].joinpath("docs/touches.md").read_text("utf-8")
    assert page == touches.page(), "run: python -m pytest_kvmcheck.reports.touches >docs/touches.md"


def test_what_holds_a_threat_exists() -> None:
    """The page of threats names tests: each is there."""
    root = Path(__file__).parent.parent
    named = set(re.findall(r"`(tests/[\w/]+\.py)`", (root / "docs" / "threats.md").read_text("utf-8")))
    assert len(named) > 10
    assert not [name for name in sorted(named) if not (root / name).is_file()]
