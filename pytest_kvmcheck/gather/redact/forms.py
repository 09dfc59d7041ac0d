"""Secrets that say by their own form what they are, wherever they stand: keys, hashes, tokens.

>>> from pytest_kvmcheck.gather.redact.pseudonym import Hide
>>> redact_forms("root:$6$salt$hunter2:19000", Hide(b"key"))
'root:<redacted:086362f6>:19000'
"""

from __future__ import annotations

import re

from pytest_kvmcheck.gather.redact.pseudonym import Hide

#: Without one of these (in lower case) the pattern finds nothing: most texts are not searched at all.
_FORMS = tuple(
    (tuple(signs.split()), re.compile(pattern))
    for signs, pattern in (
        ("eyj", r"\beyJ[\w-]{5,}(?:\.[\w-]*){0,4}"),  # JSON web tokens
        ("akia asia abia acca aroa aida", r"\b(?:AKIA|ASIA|ABIA|ACCA|AROA|AIDA)[A-Z0-9]{12,}"),
        (
            "ghp_ gho_ ghu_ ghs_ ghr_ _pat_ glpat- glrt- xox aiza npm_ hvs. hvb. hvr. sk- pypi- dop_v1_ sg.",
            r"\b(?:gh[pousr]_|github_pat_|glpat-|glrt-|xox[a-z]-|AIza|npm_|dckr_pat_|hv[sbr]\.|sk-|pypi-|dop_v1_|SG\.)[\w.-]{10,}",
        ),
        (  # crypt(5)
            "$",
            r"\$(?:1|2[abxy]?|5|6|7|y|gy|md5|sha1|apr1|argon2\w{0,3}|pbkdf2[\w-]{0,8}|scrypt|P|H)\$[^\s:\"',;<>]+",
        ),
        ("{s {m {c {p", r"\{(?:S?SHA\d{0,3}|S?MD5|CRYPT|PBKDF2[\w-]{0,8})\}[^\s\"']+"),
        ("/services/t /webhooks/", r"(?<=/services/)T\w{5,}/\w+/\w+|(?<=/webhooks/)\d+/[\w-]+"),
        ("scram-sha-", r"\bSCRAM-SHA-\d{1,3}\$\S+"),
        ("hex: ascii:", r"\b(?:HEX|ASCII):[^\s\"',;]{8,}"),
        ("0x", r"\b0x[0-9A-Fa-f]{32,}"),
        ("aq", r"(?<![\w+/=.-])AQ[A-Za-z0-9+/]{36,}={0,2}"),  # Ceph
    )
)
#: Keys in Base64. A path is none.
_BASE64 = re.compile(
    r"(?<![\w+/=.-])(?!/)(?=[A-Za-z0-9+/]{0,60}[a-z])(?=[A-Za-z0-9+/]{0,60}[A-Z])(?=[A-Za-z0-9+/]{0,60}[0-9])"
    r"[A-Za-z0-9+/]{40,}={0,2}(?![\w-])"
)
_PRIVATE_KEY = re.compile(
    r"(?P<begin>-----BEGIN [\w ]{0,40}(?:PRIVATE KEY|STATIC KEY)[\w ]{0,20}-----)(?P<s>.*?)(?P<end>-----END|\Z)",
    re.DOTALL | re.IGNORECASE,
)


def redact_keys(text: str, hide: Hide) -> str:
    """Return *text* without the bodies of private keys in PEM, which go over several lines; of one that is cut, all to the end."""
    if "-----BEGIN" not in text and "-----begin" not in text:
        return text

    def hidden(match: re.Match[str]) -> str:
        body = match["s"].strip()
        return match["begin"] + (hide(body) if body else match["s"]) + match["end"]

    return _PRIVATE_KEY.sub(hidden, text)


def redact_forms(text: str, hide: Hide) -> str:
    """Return *text* without what is a secret by its form."""
    low = text.lower()
    for signs, pattern in _FORMS:
        if any(sign in low for sign in signs):
            text = pattern.sub(lambda match: hide(match[0]), text)
    if len(text) >= 40 and any(len(word) >= 40 for word in text.split()):
        text = _BASE64.sub(lambda match: hide(match[0]), text)
    return text
