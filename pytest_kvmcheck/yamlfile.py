"""Read YAML files of users: every complaint names file, line and key path, and what was probably meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml

from pytest_kvmcheck.errors import ConfigError

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError
    from pydantic_core import ErrorDetails

M = TypeVar("M", bound="BaseModel")

#: A YAML file that a person wrote is small; a larger one is a mistake or an attack.
MAX_BYTES = 4 * 2**20

KeyPath = tuple[str | int, ...]


class YamlFile:
    """A parsed YAML file: ``data`` holds plain types, and every key path knows its line."""

    def __init__(self, path: Path, shown: str | None = None, text: str | None = None, item: str = "item") -> None:
        """Read *path*, or take *text* for what it holds. ``text`` is what was parsed; *item* is what a list in it consists of."""
        self.path = path
        self._item = item
        self.shown = shown or str(path)
        self.text = _read(path, self.shown) if text is None else text
        self._lines: dict[KeyPath, int] = {}
        try:
            root = yaml.compose(self.text, Loader=yaml.SafeLoader)
            self.data: Any = self._plain(root, (), 0) if root else None
        except yaml.MarkedYAMLError as exc:
            line = exc.problem_mark.line + 1 if exc.problem_mark else None
            raise ConfigError(f"not YAML: {exc.problem or exc.context}", self.shown, line) from None
        except yaml.YAMLError as exc:
            raise ConfigError(f"not YAML: {str(exc).splitlines()[0]}", self.shown) from None

    def _plain(self, node: yaml.Node, path: KeyPath, depth: int) -> Any:
        """Turn a node into plain types. Aliases are refused with the depth: nothing of ours needs either."""
        self._lines.setdefault(path, node.start_mark.line + 1)
        if depth > 16:
            raise self.error("nested too deeply", path)
        if isinstance(node, yaml.MappingNode):
            mapping: dict[Any, Any] = {}
            for key_node, value_node in node.value:
                key = self._scalar(key_node)
                here = (*path, key)
                if key in mapping:
                    raise ConfigError("the same key twice", self.shown, key_node.start_mark.line + 1, self._dotted(here))
                self._lines[here] = key_node.start_mark.line + 1
                mapping[key] = self._plain(value_node, here, depth + 1)
            return mapping
        if isinstance(node, yaml.SequenceNode):
            return [self._plain(item, (*path, index), depth + 1) for index, item in enumerate(node.value)]
        return self._scalar(node)

    def _scalar(self, node: yaml.Node) -> Any:
        if not isinstance(node, yaml.ScalarNode):
            raise ConfigError("a key has to be a plain word", self.shown, node.start_mark.line + 1)
        try:
            return yaml.SafeLoader("").construct_object(node)
        except ValueError as exc:
            raise ConfigError(f"{node.value!r}: {exc}", self.shown, node.start_mark.line + 1) from None

    def line(self, path: Iterable[str | int]) -> int | None:
        """Return the line of *path*, or of the nearest thing around it."""
        found = tuple(path)
        while found not in self._lines and found:
            found = found[:-1]
        return self._lines.get(found)

    def error(self, message: str, path: Iterable[str | int] = ()) -> ConfigError:
        """Return the complaint *message* about *path*."""
        return ConfigError(message, self.shown, self.line(path), self._dotted(tuple(path)))

    def _dotted(self, path: KeyPath) -> str:
        """Return *path* for people: ``checks.KVM-MEM-001.level``, ``waiver 1.approver``."""
        parts: list[str] = []
        for part in path:
            if isinstance(part, int):
                if parts[-1:] == [f"{self._item}s"]:
                    parts.pop()
                parts.append(f"{self._item} {part + 1}")
            else:
                parts.append(str(part))
        return ".".join(parts)

    def validated(self, model: type[M], data: Any = None, at: KeyPath = ()) -> M:
        """Return the data as *model*; the first mistake becomes a :class:`ConfigError` at its place."""
        from pydantic import ValidationError

        data = self.data if data is None and not at else data
        if not isinstance(data, dict):
            raise self.error("expected keys and values" if data is not None else "is empty", at)
        try:
            return model.model_validate(data)
        except ValidationError as exc:
            raise self._explain(exc, model, at) from None

    def _explain(self, exc: ValidationError, model: type[BaseModel], at: KeyPath) -> ConfigError:
        mistakes = exc.errors(include_url=False)
        first = next(
            (mistake for mistake in mistakes if mistake["type"] == "extra_forbidden"), mistakes[0]
        )  # a typo explains the rest
        path = (*at, *(part for part in first["loc"] if part != "[key]"))
        if first["type"] == "extra_forbidden":
            return self.error(f"unknown key{did_you_mean(str(path[-1]), _known_keys(model, first['loc'][:-1]))}", path)
        if first["type"] == "missing":
            return self.error("is missing", path)
        return self.error(_in_our_words(first), path)


#: What was expected, by pydantic's type of mistake.
_EXPECTED = {
    "model_type": "keys and values",
    "model_attributes_type": "keys and values",
    "dict_type": "keys and values",
    "list_type": "a list",
    "string_type": "a text",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
}


def _in_our_words(mistake: ErrorDetails) -> str:
    """Return a mistake that pydantic found as people say it: what was expected, what is given, what was probably meant."""
    kind, given = mistake["type"], mistake.get("input")
    if kind == "value_error":
        return mistake["msg"].removeprefix("Value error, ")
    words = re.findall(r"'([^']*)'", str(mistake.get("ctx", {}).get("expected", "")))
    expected = f"one of {', '.join(words)}" if words else _EXPECTED.get(kind, mistake["msg"].removeprefix("Input should be "))
    if given is None:
        return f"expected {expected}, and nothing is given"
    if not isinstance(given, (str, int, float, bool)):
        return f"expected {expected}, given: {'a list' if isinstance(given, list) else 'keys and values'}"
    bare = " (YAML reads a bare yes, no, on or off as true or false: write it in quotes)" if isinstance(given, bool) else ""
    return f"expected {expected}, given: {given!r}{did_you_mean(str(given), words)}{bare}"


def _read(path: Path, shown: str) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"larger than {MAX_BYTES} bytes", shown)
        return path.read_bytes().decode("utf-8")
    except OSError as exc:
        raise ConfigError(exc.strerror or str(exc), shown) from None
    except UnicodeDecodeError:
        raise ConfigError("is not UTF-8 text", shown) from None


def _known_keys(model: type[BaseModel], loc: tuple[str | int, ...]) -> list[str]:
    """Return the keys that *model* knows at *loc*, following nested models."""
    from typing import get_args

    from pydantic import BaseModel

    current: Any = model
    for part in loc:
        field = current.model_fields.get(str(part)) if isinstance(current, type) and issubclass(current, BaseModel) else None
        candidates = [field.annotation] if field else [current]
        while candidates:
            candidate = candidates.pop()
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                current = candidate
                break
            candidates.extend(get_args(candidate))
    return sorted(current.model_fields) if isinstance(current, type) and issubclass(current, BaseModel) else []


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """Return ``; did you mean X?`` when something similar is known, else the empty string.

    >>> did_you_mean("KVM-MEM-01", ["KVM-MEM-011", "KVM-MEM-001", "KVM-NET-003"])
    '; did you mean KVM-MEM-001?'
    """
    known = list(known)
    if (number := re.fullmatch(r"(.*\D)0*(\d+)", given)) and (padded := f"{number[1]}{number[2]:>03}") in known:
        return f"; did you mean {padded}?"
    close = difflib.get_close_matches(given, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""
