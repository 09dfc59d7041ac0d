r"""Secrets in JSON: strings are kept where a parser of ours reads them, all others become pseudonyms.

Numbers and booleans stay unless their name speaks of a secret. The text keeps its form: only values change.

>>> from pytest_kvmcheck.gather.redact.pseudonym import Hide
>>> redact_json('{"data": "hunter2", "name": "web", "mtu": 1500, "list": ["hunter2"]}', frozenset({"name"}), Hide(b"key"))
'{"data": "<redacted:05d210d8>", "name": "web", "mtu": 1500, "list": ["<redacted:05d210d8>"]}'
"""

from __future__ import annotations

import json
import re

from pytest_kvmcheck.gather.redact.pseudonym import Hide
from pytest_kvmcheck.gather.redact.text import names_a_secret, redact_words

_TOKEN = re.compile(r'(?P<string>"(?:[^"\\]|\\.)*")(?P<name>\s*:)?|(?P<open>[{\[])|(?P<close>[}\]])|(?P<number>-?\d[\d.eE+-]*)')


def redact_json(text: str, kept: frozenset[str], hide: Hide) -> str:
    """Return *text* with all strings replaced but those below the names in *kept*; what is no JSON, whole.

    ``name[]`` keeps those in arrays of this name only.
    """
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        stripped = text.strip()
        return text.replace(stripped, hide(stripped), 1) if stripped else text
    names: list[str] = [""]

    def keeps(name: str) -> bool:
        base = name.partition("[")[0]
        return base in kept or (name != base and f"{base}[]" in kept)

    def token(match: re.Match[str]) -> str:
        kind = match.lastgroup
        if kind == "name":
            names[-1] = json.loads(match["string"])
            return match[0]
        if kind == "open":
            names.append(names[-1] + "[]" * (match[0] == "["))
        elif kind == "close":
            names.pop()
        elif kind == "number":
            return json.dumps(hide(match[0])) if names_a_secret(names[-1]) and match[0] not in ("0", "1") else match[0]
        elif kind == "string":
            value = json.loads(match[0])
            told = redact_words(value, hide) if keeps(names[-1]) and not names_a_secret(names[-1]) else hide(value)
            return match[0] if told == value else json.dumps(told)
        return match[0]

    return _TOKEN.sub(token, text)
