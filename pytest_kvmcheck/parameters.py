"""Parameters of checks: each is declared with its bounds, so that no value of a profile can switch a rule off.

A declaration knows its default, says what is wrong with a value, and shows itself in ``kvmcheck explain`` and in the JSON
Schema of profiles. ``strictest`` picks the strictest of several values, for a cluster whose hosts have several profiles
(:mod:`pytest_kvmcheck.profiles`); without it, values that differ are a mistake.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from typing import Any

from pytest_kvmcheck.names import hidden
from pytest_kvmcheck.yamlfile import did_you_mean

Strictest = Callable[[Iterable[Any]], Any]

#: No text of a parameter is longer.
MAX_TEXT = 200


class Parameter:
    """A declaration. ``default`` is what holds when no profile says anything; None as default: nothing is demanded."""

    def __init__(self, default: Any, strictest: Strictest | None = None) -> None:
        self.default = default
        self.strictest = strictest

    def problem(self, value: Any) -> str:
        """Return what is wrong with *value*, else the empty string."""
        if value is None:
            return "" if self.default is None else f"expected {self}, and nothing is given"
        return self._wrong(value)

    def _wrong(self, value: Any) -> str:
        raise NotImplementedError

    def _schema(self) -> dict[str, Any]:
        raise NotImplementedError

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the values."""
        return {"anyOf": [self._schema(), {"type": "null"}]} if self.default is None else self._schema()

    def _expected(self, value: Any) -> str:
        bare = ' (YAML reads a bare yes, no, on or off as true or false: write "off")' if isinstance(value, bool) else ""
        return f"expected {self}, given: {value!r}{bare}"


class Flag(Parameter):
    """True or false.

    >>> Flag(False).problem("no")
    "expected true or false, given: 'no'"
    """

    def _wrong(self, value: Any) -> str:
        return "" if isinstance(value, bool) else self._expected(value)

    def _schema(self) -> dict[str, Any]:
        return {"type": "boolean"}

    def __str__(self) -> str:
        return "true or false"


class Choice(Parameter):
    """One of a few words; the first is the default. None as the first word: nothing is demanded.

    >>> Choice("any", "on", "off").problem("of")
    "expected one of any, on, off, given: 'of'; did you mean off?"
    """

    def __init__(self, *words: str | None, strictest: Strictest | None = None) -> None:
        super().__init__(words[0], strictest)
        self.words = tuple(word for word in words if word is not None)

    def _wrong(self, value: Any) -> str:
        if isinstance(value, str) and value in self.words:
            return ""
        return self._expected(value) + did_you_mean(str(value), self.words)

    def _schema(self) -> dict[str, Any]:
        return {"enum": list(self.words)}

    def __str__(self) -> str:
        return f"one of {', '.join(self.words)}"


class Whole(Parameter):
    """A whole number from *low* to *high*.

    >>> Whole(2, 1, 32).problem(-1), Whole(2, 1, 32).problem(True)[:50], Whole(2, 1, 32).problem(4)
    ('expected a whole number from 1 to 32, given: -1', 'expected a whole number from 1 to 32, given: True ', '')
    """

    _types: Any = (int,)
    _called = "a whole number"
    _type = "integer"

    def __init__(self, default: float | None, low: float, high: float, strictest: Strictest | None = None) -> None:
        super().__init__(default, strictest)
        self.low, self.high = low, high

    def _wrong(self, value: Any) -> str:
        if isinstance(value, bool) or not isinstance(value, self._types):
            return self._expected(value)
        return "" if self.low <= value <= self.high else self._expected(value)  # .nan is in no range

    def _schema(self) -> dict[str, Any]:
        return {"type": self._type, "minimum": self.low, "maximum": self.high}

    def __str__(self) -> str:
        return f"{self._called} from {_plain(self.low)} to {_plain(self.high)}"


class Number(Whole):
    """A number from *low* to *high*, whole or not; never infinite, never ``.nan``.

    >>> Number(100.0, 0.001, 10_000).problem(float("nan"))
    'expected a number from 0.001 to 10000, given: nan'
    """

    _types = (int, float)
    _called = "a number"
    _type = "number"


class Text(Parameter):
    r"""A line of text with a letter or digit, without characters that are not seen; all of it matches *pattern*, if there is one.

    >>> Text(None, "[0-9.]+", "a version").problem("\u200b"), Text(None).problem(" ")
    ("expected a version, given: '\\u200b'", "expected a text, given: ' '")
    """

    def __init__(self, default: str | None, pattern: str = "", called: str = "a text", strictest: Strictest | None = None) -> None:
        super().__init__(default, strictest)
        self.pattern, self.called = pattern, called

    def _wrong(self, value: Any) -> str:
        sound = isinstance(value, str) and value.strip() == value != "" and len(value) <= MAX_TEXT and not hidden(value)
        return "" if sound and self._says(value) else self._expected(value)

    def _says(self, value: str) -> bool:
        return re.fullmatch(self.pattern, value) is not None if self.pattern else says_something(value)

    def _schema(self) -> dict[str, Any]:
        return {"type": "string", "minLength": 1, **({"pattern": f"^({self.pattern})$"} if self.pattern else {})}

    def __str__(self) -> str:
        return self.called


class Glob(Text):
    """A pattern of names (fnmatch) that says more than wildcards do.

    >>> Glob().problem("*.iso"), Glob().problem("*?*")
    ('', "expected a pattern with a letter or digit besides its wildcards, given: '*?*'")
    """

    def __init__(self, default: str | None = "", strictest: Strictest | None = None) -> None:
        super().__init__(default, "", "a pattern with a letter or digit besides its wildcards", strictest)

    def _says(self, value: str) -> bool:
        return says_something(value)


class Regex(Text):
    """A regular expression that does not match any text.

    >>> Regex().problem("Input/output error"), Regex().problem("abc|.*")[:45], Regex().problem("(a")[:30]
    ('', 'expected a regular expression that stands for', 'expected a regular expression ')
    """

    def __init__(self, default: str | None = "", strictest: Strictest | None = None) -> None:
        super().__init__(
            default, "", "a regular expression that stands for some texts only, with three letters or digits", strictest
        )

    def _says(self, value: str) -> bool:
        try:
            found = re.compile(value)
        except (re.error, OverflowError, RecursionError):
            return False
        literal = re.sub(r"\\.|\[[^\]]*\]|\{[^}]*\}|\(\?[a-zA-Z]+\)", "", value)
        return len(re.findall(r"[^\W_]", literal)) >= 3 and not any(found.search(text) for text in ("", "~", " ", "zq 77: x_"))


class Network(Text):
    """A network (CIDR) that is not half the Internet.

    >>> Network().problem("192.0.2.0/24"), Network().problem("0.0.0.0/0")
    ('', "expected a network such as 192.0.2.0/24, of 8 bits or more, given: '0.0.0.0/0'")
    """

    def __init__(self, default: str | None = "", strictest: Strictest | None = None) -> None:
        super().__init__(default, "", "a network such as 192.0.2.0/24, of 8 bits or more", strictest)

    def _says(self, value: str) -> bool:
        try:
            return ipaddress.ip_network(value, strict=False).prefixlen >= 8
        except ValueError:
            return False


class Items(Parameter):
    """A list of *least* to *most* values, each as *of* says.

    >>> Items(("none",), Choice("none", "directsync")).problem(["*"])
    "item 1: expected one of none, directsync, given: '*'"
    >>> Items((1,), Whole(0, 0, 18), least=1).problem([])
    'expected a list of at least 1: each a whole number from 0 to 18, given: []'
    """

    def __init__(
        self, default: Iterable[Any] | None, of: Parameter, least: int = 0, most: int = 200, strictest: Strictest | None = None
    ) -> None:
        super().__init__(default, strictest)
        self.of, self.least, self.most = of, least, most

    def _wrong(self, value: Any) -> str:
        if not isinstance(value, (list, tuple)) or not self.least <= len(value) <= self.most:
            return self._expected(value)
        for number, item in enumerate(value, 1):
            if problem := self.of.problem(item):
                return f"item {number}: {problem}"
        return ""

    def _schema(self) -> dict[str, Any]:
        return {"type": "array", "items": self.of.schema(), "minItems": self.least, "maxItems": self.most}

    def __str__(self) -> str:
        least = f" of at least {self.least}" if self.least else ""
        return f"a list{least}: each {self.of}"


class Either(Parameter):
    """A value that is one thing, or another.

    >>> Either(Text(""), Items((), Text(""), least=1)).problem(7)
    'expected a text, or a list of at least 1: each a text, given: 7'
    """

    def __init__(self, *kinds: Parameter, strictest: Strictest | None = None) -> None:
        super().__init__(kinds[0].default, strictest)
        self.kinds = kinds

    def _wrong(self, value: Any) -> str:
        return "" if any(not kind.problem(value) for kind in self.kinds) else self._expected(value)

    def _schema(self) -> dict[str, Any]:
        return {"anyOf": [kind.schema() for kind in self.kinds]}

    def __str__(self) -> str:
        return ", or ".join(map(str, self.kinds))


class Table(Parameter):
    """Keys and values: each key as *keys* says, each value as *of* does.

    >>> Table(None, Choice("guest", "storage"), Items((), Text(""))).problem({"gest": ["br0"]})
    "gest: expected one of guest, storage, given: 'gest'; did you mean guest?"
    """

    def __init__(self, default: dict[str, Any] | None, keys: Parameter, of: Parameter, strictest: Strictest | None = None) -> None:
        super().__init__(default, strictest)
        self.keys, self.of = keys, of

    def _wrong(self, value: Any) -> str:
        if not isinstance(value, dict) or not value:
            return self._expected(value)
        for key, item in value.items():
            if problem := self.keys.problem(key) or self.of.problem(item):
                return f"{key}: {problem}"
        return ""

    def _schema(self) -> dict[str, Any]:
        return {"type": "object", "propertyNames": self.keys.schema(), "additionalProperties": self.of.schema()}

    def __str__(self) -> str:
        return f"keys ({self.keys}) with {self.of} each"


def says_something(glob: str) -> bool:
    """Whether a pattern has a letter or digit besides its wildcards: one without matches whatever there is.

    >>> [says_something(glob) for glob in ("kvm0*", "*", "[!x]*", "?*/*")]
    [True, False, False, False]
    """
    return re.search(r"[^\W_]", re.sub(r"\[[^\]]*\]", "", glob)) is not None


def declared(name: str, value: Any) -> Parameter:
    """Return the declaration of the parameter *name*, given by a check as one, or as true or false.

    Raises ValueError for a bare number, text or list: without bounds a profile could switch the rule off.
    """
    if isinstance(value, Parameter):
        return value
    if isinstance(value, bool):
        return Flag(value)
    raise ValueError(f"parameter {name} has no bounds: declare it, e.g. Whole({value!r}, low, high), Number, Choice, Text, Items")


def fewest(lists: Iterable[Iterable[Any]]) -> tuple[Any, ...]:
    """Return what all of *lists* have: the strictest list of exceptions."""
    first, *others = [tuple(item) for item in lists]
    return tuple(item for item in first if all(item in other for other in others))


def none_first(values: Iterable[Any]) -> Any:
    """Return None when it is among *values*, else the one that all are: the strictest of values that excuse something.

    Raises ValueError when they differ.
    """
    found = set(values)
    if None in found:
        return None
    if len(found) > 1:
        raise ValueError(f"differ: {', '.join(sorted(map(str, found)))}")
    return found.pop()


def _plain(number: float) -> str:
    return f"{number:f}".rstrip("0").rstrip(".") if isinstance(number, float) else str(number)
