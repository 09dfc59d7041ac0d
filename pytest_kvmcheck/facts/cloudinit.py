r"""How the first boot went: ``/run/cloud-init/status.json`` and ``result.json``.

Source: https://docs.cloud-init.io/en/latest/. result.json is written at the end; recoverable errors are told since 23.4.

>>> status = '{"v1":{"stage":null,"init":{"errors":[],"recoverable_errors":{"WARNING":["no route yet"]}}}}'
>>> first = parse_first_boot({"/run/cloud-init/status.json": status, "/run/cloud-init/result.json": '{"v1":{"errors":[]}}'})
>>> first.finished, first.stage, first.errors, first.warnings
(True, '', (), ('no route yet',))
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pytest_kvmcheck.errors import ParseError

_STATUS, _RESULT = "/run/cloud-init/status.json", "/run/cloud-init/result.json"


@dataclass(frozen=True)
class FirstBoot:
    """State of cloud-init. ``stage`` is the one that runs, empty when none does."""

    finished: bool
    stage: str
    errors: tuple[str, ...]
    warnings: tuple[str, ...]


def _v1(text: str, path: str) -> dict[str, Any]:
    try:
        data = json.loads(text)["v1"]
        if isinstance(data, dict):
            return data
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise ParseError(f"{path} is not of cloud-init: {text.strip()[:60]!r}")


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ParseError("cloud-init tells errors that are no list")
    return tuple(str(item)[:200] for item in value)


def parse_first_boot(files: Mapping[str, str]) -> FirstBoot:
    """Return the state. Raises :class:`ParseError`, also when neither file is there."""
    if not {_STATUS, _RESULT} & set(files):
        raise ParseError("cloud-init has written neither status nor result")
    errors: tuple[str, ...] = ()
    warnings: list[str] = []
    stage = ""
    if _RESULT in files:
        result = _v1(files[_RESULT], _RESULT)
        if "errors" not in result:
            raise ParseError("result.json tells no errors, not even none")
        errors = _texts(result["errors"])
    if _STATUS in files:
        status = _v1(files[_STATUS], _STATUS)
        stage = str(status.get("stage") or "")[:40]
        for part in status.values():
            recoverable = part.get("recoverable_errors") if isinstance(part, dict) else None
            for texts in recoverable.values() if isinstance(recoverable, dict) else ():
                warnings += [text for text in _texts(texts) if text not in warnings]
    return FirstBoot(_RESULT in files, stage, errors, tuple(warnings))
