r"""Take secrets out of evidence before it touches a disk or a log.

What has a form is parsed, and the values that a check reads are kept (docs/decisions/0019-secrets-by-structure.md); free text is
searched for what announces a secret. Each becomes a pseudonym that is stable for one operator, so that two runs can be compared.
It is a keyed digest: without the key, which never leaves the controller, it cannot be guessed from a dictionary.

>>> redact("vnc_password = \"hunter2\"\n", b"key")
'vnc_password = "<redacted:05d210d8>"\n'
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from pytest_kvmcheck.evidence import Record
from pytest_kvmcheck.gather.redact.kinds import kind_of
from pytest_kvmcheck.gather.redact.pseudonym import Hide, operator_key
from pytest_kvmcheck.gather.redact.text import redact_text

__all__ = ["operator_key", "redact", "redact_record"]


#: One for each key: what it remembers saves most of the work.
_hide = lru_cache(maxsize=4)(Hide)


def redact(text: str, key: bytes) -> str:
    """Return *text*, of which nothing is known, with what looks like a secret replaced by its pseudonym under *key*."""
    return redact_text(text, _hide(key))


def redact_record(record: Record, key: bytes) -> Record:
    """Return *record* with secrets taken out of its standard output by the form of its probe, and out of its standard error."""
    hide = _hide(key)
    return replace(record, stdout=kind_of(record.probe)(record.stdout, hide), stderr=redact_text(record.stderr, hide))
