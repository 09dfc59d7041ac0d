"""What a parser may honestly make of a text that says nothing, declared where the parser is.

A parser refuses what is not its format. Two kinds of formats cannot: those that are empty when there is nothing to list, and
those in which any line is allowed. ``tests/facts/test_parsers.py`` holds every parser to the strict rule unless it says so here.

>>> @empty_is_an_answer("no unit failed")
... def parse_lines(text: str) -> list[str]:
...     return text.split()
>>> parse_lines.__dict__
{'empty_is_an_answer': 'no unit failed'}
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def empty_is_an_answer(why: str) -> Callable[[F], F]:
    """Declare that an empty text, and an empty result, are right answers; *why* says what they mean."""
    return _declared("empty_is_an_answer", why)


def takes_any_line(why: str) -> Callable[[F], F]:
    """Declare that the format takes lines that mean nothing to it, so that an error message cannot be told from them.

    The fact that uses such a parser must make sure otherwise that the text is one (exit code, file name). Binary texts are
    refused all the same.
    """
    return _declared("takes_any_line", why)


def _declared(name: str, why: str) -> Callable[[F], F]:
    def declare(function: F) -> F:
        setattr(function, name, why)
        return function

    return declare
