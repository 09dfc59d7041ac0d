r"""Take secrets out of evidence before it touches a disk or a log.

Every secret becomes a pseudonym that is stable for one operator, so that two runs can still be compared. It is a keyed
digest: without the key, which never leaves the controller, it cannot be guessed from a dictionary.

>>> redact("vnc_password = \"hunter2\"\n", b"key")
'vnc_password = "<redacted:05d210d8>"\n'
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from dataclasses import replace
from pathlib import Path

from pytest_kvmcheck.evidence import Record

_SECRETS = tuple(
    re.compile(pattern, re.IGNORECASE | re.MULTILINE)
    for pattern in (
        # key = value, key: value, key=value in configuration files and command lines
        r"""(?:passw(?:or)?d|passphrase|secret|secret_?key|token|api_?key|auth_key)["']?[ \t]*[=:][ \t]*["']?"""
        r"""(?P<s>[^\s"'<,;{}\[\]]+)""",
        # attributes of domain XML: <graphics passwd='...'>, <auth password="...">
        r"""\b(?:passwd|password|secret)=(?P<q>["'])(?P<s>.+?)(?P=q)""",
        # CHAP and Ceph
        r"""\bnode\.session\.auth\.password(?:_in)?[ \t]*=[ \t]*(?P<s>\S+)""",
        r"""\bkey[ \t]*=[ \t]*(?P<s>AQ[A-Za-z0-9+/]{36,}=*)""",
        # URLs, bearer tokens and the secret objects of QEMU
        r"""://[^/\s:@]+:(?P<s>[^/\s@]+)@""",
        r"""\bBearer[ \t]+(?P<s>[A-Za-z0-9._~+/=-]{8,})""",
        r"""\bsecret\b[^\n]{0,300}?[,{]"?data"?[=:]"?(?P<s>[^,\s"}]+)""",
    )
)
_PRIVATE_KEY = re.compile(r"(-----BEGIN [A-Z ]*PRIVATE KEY-----)(.*?)(-----END|\Z)", re.DOTALL)


def _pseudonym(secret: str, key: bytes) -> str:
    return f"<redacted:{hmac.new(key, secret.encode(), hashlib.sha256).hexdigest()[:8]}>"


def redact(text: str, key: bytes) -> str:
    """Return *text* with every secret replaced by its pseudonym under *key*."""

    def replaced(match: re.Match[str]) -> str:
        secret = match["s"]
        if secret.startswith("<redacted:"):
            return match[0]
        start, end = match.span("s")
        return match[0][: start - match.start()] + _pseudonym(secret, key) + match[0][end - match.start() :]

    def hidden(match: re.Match[str]) -> str:
        known = match[2].startswith("<redacted:")
        return match[0] if known else match[1] + _pseudonym(match[2], key) + match[3]

    text = _PRIVATE_KEY.sub(hidden, text)
    for pattern in _SECRETS:
        text = pattern.sub(replaced, text)
    return text


def redact_record(record: Record, key: bytes) -> Record:
    """Return *record* with secrets taken out of both its streams."""
    return replace(record, stdout=redact(record.stdout, key), stderr=redact(record.stderr, key))


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
