"""What stands in the place of a secret: a keyed digest, stable for one operator.

>>> hide = Hide(b"key")
>>> hide("hunter2"), hide(hide("hunter2")) == hide("hunter2"), hide("")
('<redacted:05d210d8>', True, '')
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Callable
from pathlib import Path

#: A pseudonym and nothing else: what merely begins like one is hidden as any other text.
PSEUDONYM = re.compile(r"<redacted:[0-9a-f]{8}>")


#: So many values are remembered, and only such as are no longer than this.
_REMEMBERED, _SHORT = 20_000, 512


def words(text: str) -> frozenset[str]:
    """Return the words of a table.

    >>> sorted(words("b a"))
    ['a', 'b']
    """
    return frozenset(text.split())


class Hide:
    """Gives each text its pseudonym; a pseudonym, and nothing at all, stay what they are."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._known: dict[str, str] = {}
        self._made: dict[tuple[str, str], str] = {}

    def __call__(self, secret: str) -> str:
        """Return the pseudonym of *secret*. It tells neither length nor content."""
        if not secret or PSEUDONYM.fullmatch(secret):
            return secret
        known = self._known.get(secret)
        if known is None:
            digest = hmac.new(self._key, secret.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            known = self._known[secret] = f"<redacted:{digest[:8]}>"
        return known

    def once(self, form: str, value: str, make: Callable[[str], str]) -> str:
        """Return ``make(value)``, which depends on *form* and *value* only: all domains have the same ones."""
        if len(value) > _SHORT:
            return make(value)
        made = self._made.get((form, value))
        if made is None:
            if len(self._made) >= _REMEMBERED:
                self._made.clear()
            made = self._made[form, value] = make(value)
        return made


def operator_key() -> bytes:
    """Return this operator's key, made on first use; a run that cannot keep one gets a key of its own."""
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "kvmcheck"
    path = state / "redaction.key"
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        pass
    except OSError:
        return secrets.token_bytes(32)
    else:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(32))
    try:
        return path.read_bytes() or secrets.token_bytes(32)
    except OSError:
        return secrets.token_bytes(32)
