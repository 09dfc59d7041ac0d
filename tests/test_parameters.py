"""No value of a profile switches a rule off: every parameter of every check has bounds, and what is beyond them is refused."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pytest_kvmcheck import catalog, profiles
from pytest_kvmcheck.errors import ConfigError, KvmcheckError
from pytest_kvmcheck.parameters import Choice, Flag, Items, Parameter, Regex, Text, Whole, declared, fewest, none_first
from pytest_kvmcheck.registry import REGISTRY, Severity, check
from tests import casefile

CHECKS = catalog.load()
ALL = [(check_id, name) for check_id, found in CHECKS.items() for name in found.declared]
each_parameter = pytest.mark.parametrize(("check_id", "name"), ALL, ids=[f"{check_id}-{name}" for check_id, name in ALL])

#: Never sound, whatever the parameter is.
NONSENSE = [
    math.nan,
    math.inf,
    -math.inf,
    -1,
    -0.5,
    10**400,
    1e308,
    "",
    " ",
    "\u200b",
    "*",
    "**",
    "?*",
    ["*"],
    [""],
    [" "],
    [None, "*"],
    [[]],
    {},
]


def beyond(parameter: Parameter) -> Iterator[Any]:
    """What is just beyond the bounds."""
    if isinstance(parameter, Whole):
        yield from (parameter.low - 1, parameter.high + 1, str(parameter.low), True)
    if isinstance(parameter, Items):
        yield from ([], ()) if parameter.least else ()
        yield ["x"] * (parameter.most + 1)
        yield from ([value] for value in beyond(parameter.of))
    if isinstance(parameter, (Choice, Text)):
        yield from (True, 7, "x" * 201, "a\nb", "a\x1b[31m", " a")


@each_parameter
def test_what_is_beyond_the_bounds_is_refused_and_they_are_told(check_id: str, name: str, tmp_path: Path) -> None:
    parameter = CHECKS[check_id].declared[name]
    for value in [*NONSENSE, *beyond(parameter)]:
        said = parameter.problem(value)
        assert said, f"{check_id} {name} accepts {value!r}"
        assert "expected" in said
    path = tmp_path / "site.yaml"
    path.write_text(f"name: site\nchecks:\n  {check_id}:\n    params:\n      {name}: .nan\n")
    with pytest.raises(ConfigError, match=rf"site\.yaml:5: checks\.{check_id}\.params\.{name}: expected ") as caught:
        profiles.load(str(path), CHECKS)
    assert str(parameter) in str(caught.value)


@each_parameter
def test_the_default_is_within_the_bounds(check_id: str, name: str) -> None:
    parameter = CHECKS[check_id].declared[name]
    assert parameter.default is None or not parameter.problem(parameter.default)
    assert parameter.default == CHECKS[check_id].params[name]


@each_parameter
def test_nothing_given_is_no_value(check_id: str, name: str) -> None:
    parameter = CHECKS[check_id].declared[name]
    assert bool(parameter.problem(None)) is (parameter.default is not None)


CLUSTER_PARAMETERS = [(check_id, name) for check_id, name in ALL if CHECKS[check_id].scope == "cluster"]


@pytest.mark.parametrize(("check_id", "name"), CLUSTER_PARAMETERS)
def test_a_parameter_of_clusters_knows_its_strictest_value(check_id: str, name: str) -> None:
    """Hosts of one cluster may have several profiles."""
    assert CHECKS[check_id].declared[name].strictest is not None


@pytest.mark.parametrize("value", [3, 0.5, "text", (1, 2), [], None, {}])
def test_a_check_cannot_be_registered_with_a_parameter_that_has_no_bounds(value: object) -> None:
    def rule(host: object, params: object) -> None:
        """Rule.

        What it checks
            x

        Why it matters
            x

        How to fix
            x
        """

    with pytest.raises(KvmcheckError, match="KVM-TST-999: parameter limit has no bounds"):
        check("KVM-TST-999", title="x", severity=Severity.LOW, reads=(), params={"limit": value})(rule)  # type: ignore[dict-item]
    assert "KVM-TST-999" not in REGISTRY


def test_true_and_false_need_no_bounds() -> None:
    assert isinstance(declared("x", True), Flag)


def test_what_cases_set_is_within_the_bounds() -> None:
    wrong = [
        f"{case.name}: {name}: {said}"
        for case in casefile.all_cases()
        for name, value in case.data.get("params", {}).items()
        if (said := CHECKS[case.check].declared[name].problem(value))
    ]
    assert not wrong


@pytest.mark.parametrize(
    "pattern", ["", ".", ".*", "^", "$", "a*", "|abc", "abc|", "[^x]+x?", r"\S", "(abc)?", "(", "a{99999999999}", "ab"]
)
def test_a_regular_expression_that_matches_everything_is_refused(pattern: str) -> None:
    assert Regex().problem(pattern)


def test_the_strictest() -> None:
    assert fewest([("a", "b"), ["b", "c"]]) == ("b",)
    assert none_first([None, "ovirt"]) is None
    assert none_first(["ovirt", "ovirt"]) == "ovirt"
    with pytest.raises(ValueError, match="differ"):
        none_first(["ovirt", "pacemaker"])


def test_editors_know_the_bounds() -> None:
    """What our own loader accepts and refuses, the published schema does too."""
    import jsonschema

    schema = profiles.json_schema(CHECKS)
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    for path in profiles.shipped_profiles().values():
        validator.validate(yaml.safe_load(path.read_text("utf-8")))
    for text in ("{KVM-STO-003: {params: {max_faults: -1}}}", "{KVM-STO-003: {params: {max_fault: 1}}}", "{KVM-STO-03: }"):
        assert list(validator.iter_errors({"name": "x", "checks": yaml.safe_load(text)})), text
