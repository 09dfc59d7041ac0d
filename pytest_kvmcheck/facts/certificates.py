"""Certificates in PEM: ``/etc/pki/libvirt/servercert.pem`` and its like.

Source: RFC 7468, RFC 5280, https://libvirt.org/kbase/tlscerts.html. Text before and after the blocks is allowed (certtool writes
what is in them there).

>>> text = '''-----BEGIN CERTIFICATE-----
... MIIBRzCB7aADAgECAgEHMAoGCCqGSM49BAMCMBwxGjAYBgNVBAMMEWt2bTAxLmV4
... YW1wbGUub3JnMB4XDTIzMDEwMTAwMDAwMFoXDTI0MDEwMTAwMDAwMFowHDEaMBgG
... A1UEAwwRa3ZtMDEuZXhhbXBsZS5vcmcwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNC
... AAQud9oi3mUMoTQASYVU5LpHRu0EQza2pimD0FwL7yMPQW8VtrWePyBqDBUkb968
... pXYgIvxuo721DruA6i19/UNyoyAwHjAcBgNVHREEFTATghFrdm0wMS5leGFtcGxl
... Lm9yZzAKBggqhkjOPQQDAgNJADBGAiEAlMXBKM3g3U+T3/loDzHsm5b1T6P34+4d
... /pzGsLnVYiMCIQDHmjbQNDkwhM8UMq+9wg6FGWrjLOJYBhCVKqP/hXqcIg==
... -----END CERTIFICATE-----'''
>>> [found] = parse_certificates(text)
>>> found.subject, found.names, found.not_after_s
('CN=kvm01.example.org', ('kvm01.example.org',), 1704067200)
>>> found.is_for("kvm01.example.org"), found.is_for("kvm02.example.org")
(True, False)
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cryptography import x509
from cryptography.x509.oid import NameOID

from pytest_kvmcheck.errors import ParseError

_BLOCK = re.compile(r"-----BEGIN CERTIFICATE-----\s.*?-----END CERTIFICATE-----", re.DOTALL)


@dataclass(frozen=True)
class Certificate:
    """A certificate; times are seconds since 1970. ``names`` are the alternative names, without any the common name."""

    subject: str
    names: tuple[str, ...]
    not_before_s: int
    not_after_s: int

    def is_for(self, host: str) -> bool:
        """Whether it is of the host of this name; a name without a domain stands for that of any."""
        wanted = host.lower()
        return any(
            name == wanted
            or ("." not in wanted and name.partition(".")[0] == wanted)
            or (name.startswith("*.") and wanted.partition(".")[2] == name[2:])
            for name in map(str.lower, self.names)
        )


def parse_certificates(text: str) -> tuple[Certificate, ...]:
    """Return the certificates of a file, in their order. Raises :class:`ParseError` when there is none."""
    blocks = _BLOCK.findall(text)
    if not blocks or text.count("-----BEGIN CERTIFICATE-----") != len(blocks):
        raise ParseError(f"no whole certificate in PEM: {text.strip()[:60]!r}")
    try:
        return tuple(_certificate(x509.load_pem_x509_certificate(block.encode())) for block in blocks)
    except (ValueError, TypeError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as exc:
        raise ParseError(f"not a certificate: {' '.join(str(exc).split())[:60]!r}") from exc


def _certificate(found: x509.Certificate) -> Certificate:
    try:
        alternative = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = [*alternative.get_values_for_type(x509.DNSName), *map(str, alternative.get_values_for_type(x509.IPAddress))]
    except x509.ExtensionNotFound:
        names = [str(item.value) for item in found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    return Certificate(
        found.subject.rfc4514_string(),
        tuple(names),
        int(found.not_valid_before_utc.timestamp()),
        int(found.not_valid_after_utc.timestamp()),
    )
