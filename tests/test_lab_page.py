"""docs/lab.md says what the lab's scenarios say."""

from __future__ import annotations

from pathlib import Path

from tests.lab.table import page


def test_page_is_as_generated() -> None:
    found = Path(__file__).parents[1].joinpath("docs/lab.md").read_text()
    assert found == page(), "run: python -m tests.lab.table > docs/lab.md"
