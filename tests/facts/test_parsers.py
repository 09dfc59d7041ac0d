"""Every parser meets hostile texts: it refuses them (ParseError) or answers rightly.

Nothing is to be registered. Parsers are the public functions of ``pytest_kvmcheck.facts`` that take ``text`` or ``files``; their
valid samples are the calls that the doctests make. What a format cannot refuse is declared at its parser (``facts/honest.py``).
"""

from __future__ import annotations

import dataclasses
import doctest
import functools
import importlib
import inspect
import pkgutil
import re
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from xml.etree.ElementTree import Element, tostring

import pytest

from pytest_kvmcheck import facts
from pytest_kvmcheck.errors import ParseError
from tests.facts.hostile import BINARY, EMPTY, ERRORS

Parser = Callable[..., Any]
Call = dict[str, Any]

MODULES = [importlib.import_module(info.name) for info in pkgutil.walk_packages(facts.__path__, f"{facts.__name__}.")]

#: The names of what is parsed: a text, or the texts of files by path.
TEXT, FILES = "text", "files"


def name_of(parser: Parser) -> str:
    return f"{parser.__module__.removeprefix('pytest_kvmcheck.facts.')}.{parser.__qualname__}"


def public_functions() -> list[Parser]:
    return [
        value
        for module in MODULES
        for name, value in sorted(vars(module).items())
        if isinstance(value, types.FunctionType) and value.__module__ == module.__name__ and not name.startswith("_")
    ]


def parsed_parameter(parser: Parser) -> str:
    """The parameter that hostile texts go into; empty when there is none."""
    parameters = inspect.signature(parser).parameters
    return next((name for name in (TEXT, FILES) if name in parameters), "")


PARSERS = [function for function in public_functions() if parsed_parameter(function)]
each_parser = pytest.mark.parametrize("parser", PARSERS, ids=name_of)


@functools.cache
def samples() -> dict[Parser, list[Call]]:
    """Valid arguments of each parser: those with which the doctests of the package reach it, directly or by another parser."""
    calls: dict[Parser, list[Call]] = {parser: [] for parser in PARSERS}

    def listening(parser: Parser) -> Parser:
        signature = inspect.signature(parser)

        @functools.wraps(parser)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            result = parser(*args, **kwargs)
            given = dict(signature.bind(*args, **kwargs).arguments)
            if given not in calls[parser]:
                calls[parser].append(given)
            return result

        return wrapper

    wrappers = {parser: listening(parser) for parser in PARSERS}
    tests = [test for module in MODULES for test in doctest.DocTestFinder().find(module)]
    with pytest.MonkeyPatch.context() as patch:
        for space in [*map(vars, MODULES), *(test.globs for test in tests)]:
            for name, value in list(space.items()):
                if isinstance(value, types.FunctionType) and value in wrappers:
                    patch.setitem(space, name, wrappers[value])
        runner = doctest.DocTestRunner(verbose=False)
        for test in tests:
            runner.run(test, out=lambda _: None, clear_globs=False)
    return calls


def hollow(value: object) -> bool:
    """Whether a result says nothing at all."""
    if dataclasses.is_dataclass(value):
        return all(hollow(getattr(value, field.name)) for field in dataclasses.fields(value))
    if isinstance(value, tuple) and value:
        return all(map(hollow, value))
    return value is None or (isinstance(value, str | bytes | tuple | list | dict | set | frozenset | Mapping) and not value)


class Complaints(list[str]):
    """What is wrong with a parser, so that one run tells all of it."""

    def __init__(self, parser: Parser) -> None:
        self.parser = parser

    def attempt(self, arguments: Call) -> Any:
        """The result of the parser, or the ParseError. Anything else that it raises is a complaint."""
        parser, shown = self.parser, repr(arguments[parsed_parameter(self.parser)])[:200]
        try:
            result = parser(**arguments)
        except ParseError as exc:
            message = str(exc)
            if not message.strip():
                self.append(f"a ParseError without a word, of {shown}")
            elif len(message) > 1000 or not message.isprintable():
                self.append(
                    f"a ParseError is one printable line and shows at most 60 characters (f'{{text[:60]!r}}'): {message!r:.200}"
                )
            return exc
        except Exception as exc:  # noqa: BLE001 - that is what is looked for
            if str(exc).startswith("Exceeds the limit (4300 digits)"):  # Python's own bound; evidence.parsing() makes it unknown
                return ParseError(str(exc))
            self.append(f"raised {type(exc).__name__}: {exc}; a ParseError was expected, of {shown}")
            return ParseError(str(exc))
        if hollow(result) and not hasattr(parser, "empty_is_an_answer"):
            self.append(
                f"an empty fact ({result!r}) of {shown}: raise ParseError, or declare @empty_is_an_answer (facts/honest.py)"
                " when nothing is an honest answer"
            )
        return result

    def settle(self) -> None:
        """Fail with the first complaints."""
        if self:
            more = f"\n- and {len(self) - 5} more" if len(self) > 5 else ""
            pytest.fail("\n- ".join([f"{name_of(self.parser)}:", *self[:5]]) + more, pytrace=False)


@pytest.fixture
def complaints(parser: Parser) -> Iterator[Complaints]:
    found = Complaints(parser)
    yield found
    found.settle()


def variants(parser: Parser, change: Callable[[str], str]) -> Iterator[tuple[Call, Call]]:
    """Each valid call, and the call with its text changed; of files, with each file's text changed and with all."""
    for sample in samples()[parser]:
        name = parsed_parameter(parser)
        given = sample[name]
        if isinstance(given, str):
            yield sample, {**sample, name: change(given)}
            continue
        for path in given:
            yield sample, {**sample, name: {**given, path: change(given[path])}}
        yield sample, {**sample, name: {path: change(text) for path, text in given.items()}}


def blank(call: Call) -> bool:
    """Whether a text, or one of the files, has nothing in it."""
    given = next(call[name] for name in (TEXT, FILES) if name in call)
    return not (given.strip() if isinstance(given, str) else all(text.strip() for text in given.values()))


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Element):
        return isinstance(other, Element) and tostring(one) == tostring(other)
    return bool(one == other)


def any_line(parser: Parser) -> bool:
    return hasattr(parser, "takes_any_line")


def test_parsers_are_found() -> None:
    assert len(PARSERS) > 30
    homeless = [function for function in public_functions() if function.__name__.startswith("parse_")]
    homeless = [function for function in homeless if not parsed_parameter(function)]
    assert not homeless, f"call what is parsed `text` (a text) or `files` (texts by path): {list(map(name_of, homeless))}"


@each_parser
def test_a_doctest_shows_a_valid_sample(parser: Parser) -> None:
    calls = samples()[parser]
    assert calls, f"no doctest calls {name_of(parser)}: show a real sample in the docstring of its module or its own"
    assert any(not hollow(parser(**call)) for call in calls), f"{name_of(parser)}: no doctest shows more than an empty answer"


@each_parser
def test_it_gives_the_same_answer_twice(parser: Parser) -> None:
    """Pure: the same text, the same answer, and what was given is left alone."""
    assert samples()[parser]
    for call in samples()[parser]:
        before = {key: dict(value) if isinstance(value, Mapping) else value for key, value in call.items()}
        assert same(parser(**call), parser(**call))
        assert call == before


@each_parser
def test_error_messages(parser: Parser, complaints: Complaints) -> None:
    for text in ERRORS:
        for _, call in variants(parser, lambda _, text=text: text):  # type: ignore[misc]
            result = complaints.attempt(call)
            if not isinstance(result, ParseError) and not any_line(parser):
                complaints.append(
                    f"took {text!r} for an answer ({result!r:.200}): raise ParseError, or declare @takes_any_line (facts/honest.py)"
                    " when the format allows any line"
                )


@each_parser
def test_error_messages_beside_an_answer(parser: Parser, complaints: Complaints) -> None:
    """Standard error may be mixed in: the answer is the same, or there is none."""
    for text in ERRORS:
        for change in (lambda good, text=text: text + good, lambda good, text=text: good.rstrip("\n") + "\n" + text):
            for sample, call in variants(parser, change):  # type: ignore[arg-type]
                result = complaints.attempt(call)
                if not isinstance(result, ParseError) and not any_line(parser) and not same(result, parser(**sample)):
                    complaints.append(f"a message beside the answer changed it; refuse it: {call!r:.300}: {result!r:.200}")


@each_parser
def test_binary(parser: Parser, complaints: Complaints) -> None:
    for text in BINARY:
        for _, call in variants(parser, lambda _, text=text: text):  # type: ignore[misc]
            result = complaints.attempt(call)
            if not isinstance(result, ParseError) and ("\0" in text or not any_line(parser)):
                complaints.append(f"took binary {text!r} for an answer: {result!r:.200}; raise ParseError")


@each_parser
def test_empty(parser: Parser, complaints: Complaints) -> None:
    for text in EMPTY:
        for _, call in variants(parser, lambda _, text=text: text):  # type: ignore[misc]
            result = complaints.attempt(call)
            if not isinstance(result, ParseError) and not hasattr(parser, "empty_is_an_answer"):
                complaints.append(
                    f"made {result!r:.200} of an empty text: raise ParseError, or declare @empty_is_an_answer (facts/honest.py)"
                )


@each_parser
def test_files_that_are_not_there(parser: Parser, complaints: Complaints) -> None:
    for call in samples()[parser]:
        files = call.get(FILES)
        if isinstance(files, Mapping):
            complaints.attempt({**call, FILES: {}})
            for path in files:
                complaints.attempt({**call, FILES: {other: text for other, text in files.items() if other != path}})


@each_parser
def test_cut_texts(parser: Parser, complaints: Complaints) -> None:
    """What was cut is refused where that can be told; nothing else is raised, and nothing becomes an empty fact."""
    for part in range(48):
        for sample, call in variants(parser, lambda text, part=part: text[: len(text) * part // 48]):  # type: ignore[misc]
            if call != sample and not blank(call):
                complaints.attempt(call)


@each_parser
def test_carriage_returns(parser: Parser, complaints: Complaints) -> None:
    for sample, call in variants(parser, lambda text: text.replace("\n", "\r\n")):
        result = complaints.attempt(call)
        if not isinstance(result, ParseError) and not same(result, parser(**sample)):
            complaints.append(f"CRLF changed the answer: {result!r:.200}; take the carriage returns away, or refuse them")


#: Numbers that are none or too large, separators that are missing, other white space, half a surrogate.
DAMAGE = (
    (r"\d", "²"), (r"\d", "٣"), (r"\d+", "9" * 5000), (r"\d+", "-1"), (r"\d+", "1e999"), (r"\d+", "nan"), (r"\d+", "1,5"),
    (r"\d+", ""), (r"[:=]", " "), (r"\S+", ""), (r" +", "\t"), (r"\w+", "x"), (r"\n", "\u2028"), (r"[^\w\s]", ""), (r"$", "\ud800"),
)  # fmt: skip


@each_parser
def test_damage(parser: Parser, complaints: Complaints) -> None:
    for pattern, new in DAMAGE:
        for _, call in variants(parser, lambda text, pattern=pattern, new=new: re.sub(pattern, new, text)):  # type: ignore[misc]
            if not blank(call):
                complaints.attempt(call)
