"""docs/coverage.yaml: no id of the catalogue is dropped silently."""

from __future__ import annotations

from pathlib import Path

import yaml

from pytest_kvmcheck import catalog

COVERAGE = yaml.safe_load(Path(__file__).parents[1].joinpath("docs/coverage.yaml").read_text("utf-8"))
WANTED = {f"KVM-{area}-{number:03d}" for area, count in COVERAGE["areas"].items() for number in range(1, count + 1)}


def test_every_id_is_a_check_or_says_why_not() -> None:
    told = COVERAGE["not_a_check"]
    checks = set(catalog.load())
    assert not WANTED - checks - set(told), "neither a check nor explained"
    assert not checks & set(told), "a check, and explained all the same"
    assert not set(told) - WANTED, "not of the catalogue"
    assert all(reason and len(reason) > 20 for reason in told.values())


def test_no_check_is_outside_of_the_catalogue() -> None:
    assert not set(catalog.load()) - WANTED
