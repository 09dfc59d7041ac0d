"""Tests that cannot fail are found here: they ignore how a command ended, judge an empty list, or skip.

``subprocess.run`` is either told ``check=True``, or the function that calls it reads ``returncode``. A test has at least one
assertion that does not depend on how many things a loop, ``all()`` or ``any()`` met. Nothing outside the lab is skipped.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
LAB = TESTS / "lab"

#: Commands whose end says nothing, by function.
WHATEVER_ITS_END = {
    "lab/fleet.py:_free_network": "ip is asked what there is, and what it prints is judged",
    "lab/fleet.py:why_not": "what the command cannot do is the answer",
    "lab/image.py:mirror": "without apt-get's answer the default is taken",
    "lab/leftovers.py:_ip": "what is to be removed may be gone",
    "lab/machine.py:_freeze": "the machine may have ended",
    "lab/test_leftovers.py:made": "what is to be removed may be gone",
    "gather/test_quiet.py:run": "how it ended is what its callers judge",
    "live/strace.py:trace": "how it ended is what its callers judge, and what strace saw is demanded",
    "live/test_libvirtd.py:remove_our_domains": "what is to be removed may be gone",
}

FUNCTIONS = [
    (path, node)
    for path in sorted(TESTS.rglob("*.py"))
    for node in ast.walk(ast.parse(path.read_text("utf-8")))
    if isinstance(node, ast.FunctionDef)
]
#: Functions of the tests' own that assert, or raise, for who calls them.
JUDGES = {node.name for _, node in FUNCTIONS if any(isinstance(part, ast.Assert | ast.Raise) for part in ast.walk(node))}

#: Those of others.
KNOWN = {"raises", "fail", "fnmatch_lines", "assert_outcomes", "validate"}

every_function = pytest.mark.parametrize(
    ("path", "function"), FUNCTIONS, ids=[f"{path.relative_to(TESTS)}:{node.name}:{node.lineno}" for path, node in FUNCTIONS]
)


def called(node: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for part in ast.walk(node):
        if isinstance(part, ast.Call):
            yield ast.unparse(part.func), part


def literal(node: ast.expr) -> bool:
    """Whether a loop over *node* is known to meet something."""
    return isinstance(node, ast.Tuple | ast.List | ast.Dict) and bool(ast.unparse(node).strip("()[]{} "))


def firm(node: ast.AST) -> Iterator[ast.stmt]:
    """The assertions below *node* that are judged whatever the length of anything."""
    for part in ast.iter_child_nodes(node):
        if isinstance(part, ast.Assert):
            test = part.test.operand if isinstance(part.test, ast.UnaryOp) else part.test
            if not (isinstance(test, ast.Call) and ast.unparse(test.func) in ("all", "any") and not literal_of(test)):
                yield part
        elif not isinstance(part, ast.For) or literal(part.iter):
            yield from firm(part)


def literal_of(test: ast.Call) -> bool:
    """Whether ``all(... for ... in (a, b))`` goes over something written out."""
    found = test.args[0]
    return isinstance(found, ast.GeneratorExp) and all(literal(part.iter) for part in found.generators)


@every_function
def test_how_a_command_ended_is_read(path: Path, function: ast.FunctionDef) -> None:
    runs = [part for name, part in called(function) if name == "subprocess.run"]
    checked = [part for part in runs if any(word.arg == "check" and ast.unparse(word.value) == "True" for word in part.keywords)]
    reads = any(isinstance(part, ast.Attribute) and part.attr == "returncode" for part in ast.walk(function))
    assert len(runs) == len(checked) or reads or f"{path.relative_to(TESTS)}:{function.name}" in WHATEVER_ITS_END


@every_function
def test_a_test_can_fail(path: Path, function: ast.FunctionDef) -> None:
    names = {name for name, _ in called(function)}
    if function.name.startswith("test_") and path.name.startswith("test_"):
        given = {argument.arg for argument in function.args.args}  # fixtures may judge when the test is over
        helped = ({name.rpartition(".")[2] for name in names} & {*JUDGES, *KNOWN}) | (given & {"complaints"})
        assert helped or any(firm(function)), "each of its assertions is in a loop, or none is there: say that something was met"
    asserted = [part.test for part in ast.walk(function) if isinstance(part, ast.Assert)]
    assert not [test for test in asserted if isinstance(test, ast.Tuple | ast.Constant)]
    parts = [part for test in asserted if isinstance(test, ast.BoolOp) for part in test.values]
    assert not [part for part in parts if isinstance(part, ast.Constant)], "or True"
    if not path.is_relative_to(LAB):
        assert not names & {"pytest.skip", "pytest.importorskip", "pytest.mark.skip", "pytest.mark.skipif", "pytest.xfail"}
        handlers = [part for part in ast.walk(function) if isinstance(part, ast.ExceptHandler)]
        assert not [handler for handler in handlers if isinstance(handler.body[0], ast.Pass)]


def test_the_list_of_exceptions_is_no_longer_than_needed() -> None:
    assert WHATEVER_ITS_END.keys() <= {f"{path.relative_to(TESTS)}:{node.name}" for path, node in FUNCTIONS}
