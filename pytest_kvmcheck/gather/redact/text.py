r"""Secrets in free text: logs, error messages, argument lines, and whatever could not be parsed.

Here nothing tells where a secret ends, so too much is taken rather than too little: a quoted value to its closing quote, any other
after a word such as ``password=`` to the end of the line. A bare word that nothing announces cannot be found.

>>> from pytest_kvmcheck.gather.redact.pseudonym import Hide
>>> hide = Hide(b"key")
>>> redact_text("login: password=hunter2", hide), redact_text('vnc_password = "hunter2" # x', hide)
('login: password=<redacted:05d210d8>', 'vnc_password = "<redacted:05d210d8>" # x')
>>> redact_text("deb https://bob:hunter2@mirror/ a", hide), redact_text("GET / Authorization: Basic aHVudGVyMg==", hide)
('deb https://bob:<redacted:05d210d8>@mirror/ a', 'GET / Authorization: <redacted:303d57cc>')
"""

from __future__ import annotations

import re

from pytest_kvmcheck.gather.redact.forms import redact_forms, redact_keys
from pytest_kvmcheck.gather.redact.pseudonym import PSEUDONYM, Hide, words

#: Names of settings that hold secrets, or the middle of such names.
_NAMES = (
    r"webhook|sharedaccess|signature(?=[ \t]{0,4}=)|(?<![a-z])sig(?==)",
    r"passw|passphrase|passcode|keyphrase|pwd|secret|token|credential|authorization|cookie|community|createuser|dhcert",
    r"(?:api|access|auth|private|preshared|shared|session|encryption|encrypt|signing|master|client|server|account|storage|host|wpa|sa"
    r"|tls|enc|crypt|luks|hmac|md5|sha\d*|aws|ceph|volume|recovery|unlock|group)[_.-]?key",
    r"(?<![a-z])(?:psk|pass|pw|otp|chap|sae|wpa|netrc|bindpw|rootpw|requirepass|masterauth|crypto|bearer|jwt)(?![a-z])",
    r"""(?<![a-z])pin(?:_?code)?(?=\\?["']?[ \t]{0,4}=|["'][ \t]*:)""",
)
_NAME = re.compile("|".join(_NAMES), re.IGNORECASE)


def names_a_secret(name: str) -> bool:
    """Whether a setting of this name may hold a secret.

    >>> [names_a_secret(name) for name in ("rootpw", "vnc_password", "keymap", "X-Auth-Token", "power")]
    [True, True, False, True, False]
    """
    return bool(_NAME.search(name)) or name.lower() in ("key", "pin")


#: After the middle of a name: its end, and what parts it from the value.
_ASSIGNED = re.compile(
    r"""[\w.\-\[\]]{0,48}(?:\\?["']|&quot;|&apos;)?\]?[ \t]{0,16}(?:=>|:=|==?|:|&gt;|>)[ \t]{0,16}""",
)
_SIGN = re.compile(r"""[\w.\-\[\]]{0,48}(?:\\?["'])?[ \t]{0,16}(?:=|:(?=[ \t"'])|(?<=["']):)[ \t]{0,16}""")
_BLANK = re.compile(
    r"""[\w.\-]{0,48}["']?[ \t]{1,16}(?:(?:is|was|for|to|of)[ \t]{1,4}(?:\S{1,64}[ \t]{1,4}(?:is|was)[ \t]{1,4})?)?"""
)

#: Before and after the middle of a name that is a word of its own: blanks, or dashes of an option; then a word that has digits,
#: capitals or signs.
_HEAD = re.compile(r"(?<![^\s\"'(\[|:])-{0,2}[\w-]{0,40}$")
_NO_WORD = re.compile(r"\w{0,12}[\"']?[ \t]{1,16}(?:(?:is|was)[ \t]{1,4})?[a-z.,:;)(\[\]]{0,64}[^\sa-z.,:;)(\[\]]")

#: A word after a blank that may as well be prose: "password authentication failed".
_PROSE = re.compile(r"\(?[a-z]{1,15}[.,:;)]?(?=\s|$)|[A-Z][a-z]{1,14}[.,:;)]?(?=\s|$)|-|[|&<>]+(?=\s|$)")
_HARMLESS = re.compile(r"(?:none|null|\(null\)|\(none\)|yes|no|true|false|on|off|[01]|required|optional)", re.IGNORECASE)
_DASHES = re.compile(r"(?<!\S)-{1,2}[\w-]{0,48}$")
_OPTION = re.compile(r"[ \t]-{1,2}[A-Za-z]")

#: A key alone is a secret when it is long: ``key = AQ...``, ``key 0x...``; audit rules have keys that are words.
_KEY = re.compile(r"""(?i:key)["'\]]{0,2}[ \t]{0,16}[=:][ \t]{0,16}(?P<q>["']?)(?P<s>[A-Za-z0-9+/_=.\-]{16,})(?P=q)""")

#: ``Bearer X``, ``Basic X`` as HTTP has them.
_SCHEMES = re.compile(r"(?i:\b(?:bearer|basic|negotiate|ntlm))[ \t]{1,4}(?P<s>[^\s,;\"']{6,})")

#: Where one of the first stands in a line, what follows one of the second is a secret.
_CARRIERS = tuple(
    (frozenset(signs.split()), re.compile(carrier, re.IGNORECASE), re.compile(start))
    for signs, carrier, start in (
        ("secret key", r"""\bsecret[,"'\\]|qom-type|keyid""", r"""(?<![A-Za-z])data\\?["']?[ \t]*[=:][ \t]*"""),
        (
            "fw_cfg fw-cfg ignition opt/ smbios oemstring",
            r"fw_cfg|fw-cfg|ignition|opt/(?:com|org|io|ovmf)\b|smbios|oemstring",
            r"\b(?:string|value|data|serial|asset)=",
        ),
        ("credential", "credential", r"\b(?:io\.systemd\.credential|systemd\.set_credential)[\w.]{0,16}[:=]"),
        ("-append", r"-append\b", r"-append[ \t]+(?=[\"'])"),
        ("pass", r"\b(?:machine|login|user) ", r"\bpassword[ \t]+"),
        ("-p", r"\b(?:sshpass|mysql|mariadb|smbclient|redis-cli)", r"(?<!\S)(?:-p|-a|-U)[ \t]*(?=\S)"),
        ("redis", "redis-cli", r"(?<!\S)-a[ \t]*(?=\S)"),
        (
            "ipmi ldap curl wget snmp",
            r"\b(?:ipmitool|ldap(?:search|modify|add|passwd|whoami)|curl|wget|snmp\w+)\b",
            r"(?<!\S)-(?:P|w|W|u|U|c|A|X|K|k)[ \t]+",
        ),
        ("createuser", "createuser", r"\b(?:SHA|MD5|AES|DES)[\w-]{0,8}[ \t]+"),
        ("comment", "--comment", r"--comment[ \t]+"),
        # auditd: the arguments of a process, often in hexadecimal digits
        ("cmd= tty", r"type=(?:USER_CMD|USER_TTY|TTY)\b", r"\b(?:cmd|data)="),
        ("proctitle", "proctitle", r"\bproctitle="),
        ("execve", "execve", r"\ba\d{1,4}="),
    )
)
#: Commands that take secrets in ways of their own: of a line that holds one, only what a log writes before its messages is kept.
_COMMANDS = re.compile(
    r"\b(?:secret-set-value|set-user-password|set-password|chpasswd|htpasswd|ldappasswd|passwd --stdin|cryptsetup|keyctl|kinit"
    r"|smbclient|openssl (?:enc|pkcs12|rsa|passwd)|auth\.password(?:_in)? -v|expect -c)\b"
)
_PREFIX = re.compile(r"\d+\.\d+ \S+ [^\s:]+: ?|type=\S+ msg=audit\([^)]*\): ?|[DE] [^|]{0,30}\||error: ")
#: A file whose name says what it holds.
_FILE = re.compile(r"/[^:\s]*/(?P<name>[^/:\s<]+):(?P<s>.+)")

#: ``-p X``: a password for many programs, a port or a protocol for others.
_DASH_P = re.compile(
    r"(?<!\S)-p[ \t]+(?!(?:\d{1,5}|tcp|udp|udplite|icmp\w*|ipv6[\w-]*|igmp|esp|ah|gre|sctp|all|ospf|vrrp|err|warning)(?:\s|$))"
    r"(?=[^\s-])"
)

#: In a longer line, all is hidden that follows the first sign of a secret: no statement of ours is so long.
_LONG = 8192

#: Signs, in lower case, of what announces a secret. A line without any of them is not looked at.
_SIGNS = words("""
    pass pwd pw secret token credential authorization cookie communit createuser dhcert key psk otp chap sae wpa netrc
    crypto bearer jwt pin basic negotiate ntlm fw_cfg fw-cfg ignition opt/ smbios oemstring -append -p curl wget ldap ipmi
    snmp redis comment @ masterauth proctitle execve
    webhook sharedaccess signature sig= cmd= tty cryptsetup keyctl kinit smbclient openssl expect
""")


def redact_text(text: str, hide: Hide) -> str:
    """Return free *text* with what looks like a secret replaced, in time linear in its length."""
    return _redacted(text, hide, free=True)


def redact_words(text: str, hide: Hide) -> str:
    r"""Return *text* whose lines a parser reads: values of settings, tables, names. A blank announces little there.

    >>> redact_words("Inst libsecret-1-0 [0.20]\nsource=rbd:vms/a:key=AQhunter2hunter2", Hide(b"key"))
    'Inst libsecret-1-0 [0.20]\nsource=rbd:vms/a:key=<redacted:8dada69b>'
    """
    return _redacted(text, hide, free=False)


def _redacted(text: str, hide: Hide, *, free: bool) -> str:
    text = redact_forms(redact_keys(text, hide), hide)
    low = text.lower() if text.isascii() else text.translate(_LOWER)
    signs = {sign for sign in _SIGNS if sign in low}
    if not signs:
        return text
    parts, place = [], 0
    known: dict[str, str] = {}
    for start, end in _lines_with(signs, low):
        line = text[start:end]
        shown = known.get(line)
        if shown is None:
            shown = known[line] = _line(line, hide, signs, free=free)
        parts += [text[place:start], shown]
        place = end
    return "".join(parts) + text[place:]


_LOWER = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}


def _lines_with(signs: set[str], low: str) -> list[tuple[int, int]]:
    """Return where the lines of *low* are that hold one of *signs*."""
    found: dict[int, int] = {}
    for sign in signs:
        at = low.find(sign)
        while at >= 0:
            end = low.find("\n", at)
            end = end if end >= 0 else len(low)
            found[low.rfind("\n", 0, at) + 1] = end
            at = low.find(sign, end)
    return sorted(found.items())


def _line(line: str, hide: Hide, signs: set[str], *, free: bool) -> str:
    """Return one line; *signs* are those of the whole text, so that nothing is sought for which there is none."""
    if len(line) > _LONG:
        return _cut(line, hide, signs)
    if free and (match := _COMMANDS.search(line)):
        head = _PREFIX.match(line)
        begin = min(head.end() if head else 0, match.start())
        return line[:begin] + _value(line, begin, hide, to_option=False)[0]
    if "@" in line:
        line = _WORD.sub(lambda match: _userinfo_of_url(match[0], hide), line)
    for needed, carrier, start in _CARRIERS:
        if needed & signs and carrier.search(line):
            line = _after(line, start, hide)
    if "-p" in signs:
        line = _after(line, _DASH_P, hide, to_option=True)
    line = _named(line, hide, None if free else _SIGN)
    if not free and (match := _FILE.fullmatch(line)) and names_a_secret(match["name"]):
        line = line[: match.start("s")] + hide(match["s"])
    if free and "@" in line:
        line = _WORD.sub(lambda match: _userinfo(match[0], hide), line)
    if signs & {"bearer", "basic", "negotiate", "ntlm"}:
        line = _SCHEMES.sub(lambda match: match[0] if _PROSE.fullmatch(match["s"]) else _put(match, hide), line)
    return _KEY.sub(lambda match: _put(match, hide), line) if "key" in signs else line


_WORD = re.compile(r"\S+")


def _cut(line: str, hide: Hide, signs: set[str]) -> str:
    """Hide all that follows the first sign in a very long line; before an @ stands what it announces."""
    if "@" in line:
        return hide(line)
    low = line.lower()
    place = min((at for sign in signs if (at := low.find(sign)) >= 0), default=len(line))
    return line[:place] + hide(line[place:])


def _put(match: re.Match[str], hide: Hide) -> str:
    start, end = match.span("s")
    return match[0][: start - match.start()] + hide(match["s"]) + match[0][end - match.start() :]


def _after(line: str, start: re.Pattern[str], hide: Hide, to_option: bool = False) -> str:
    """Hide the value after each match of *start*."""
    parts, place = [], 0
    while match := start.search(line, place):
        shown, after = _value(line, match.end(), hide, to_option)
        parts += [line[place : match.end()], shown]
        place = after
    return "".join(parts) + line[place:]


def _named(line: str, hide: Hide, sign: re.Pattern[str] | None = None) -> str:
    """Hide the values of settings whose names say that they hold a secret.

    With *sign*, of those that this follows, or that stand alone before what is hardly a word of a language.
    """
    parts, done, place = [], 0, 0
    while match := _NAME.search(line, place):
        place = match.end()
        option = False
        if assigned := (sign or _ASSIGNED).match(line, place):
            start = assigned.end()
        elif sign and not (_HEAD.search(line, max(0, match.start() - 50), match.start()) and _NO_WORD.match(line, place)):
            continue
        elif (gap := _BLANK.match(line, place)) and line[match.start() - 1 : match.start()] != "<":
            start = gap.end()
            option = bool(_DASHES.search(line, max(0, match.start() - 50), match.start()))
            if not option and _PROSE.match(line, start):
                continue
        else:
            continue
        shown, after = _value(line, start, hide, option)
        parts += [line[done:start], shown]
        done = place = after
    return "".join(parts) + line[done:]


def _value(line: str, start: int, hide: Hide, to_option: bool) -> tuple[str, int]:
    """Return what stands for the value that begins at *start*, and where that ends."""
    rest = line[start:]
    known = PSEUDONYM.match(rest)
    if known and (not rest[known.end() :] or rest[known.end()] in "\"' \t,;&<@)]}|/\\"):
        return known[0], start + known.end()
    for quote in ('\\"', "\\'", "&quot;", "&apos;", '"', "'", "`"):
        if rest.startswith(quote):
            end = _closing(rest, quote)
            if end < 0:
                return quote + hide(rest[len(quote) :]), len(line)
            return quote + hide(rest[len(quote) : end]) + quote, start + end + len(quote)
    end = len(rest)
    if to_option and (option := _OPTION.search(rest)):
        end = option.start()
    if (tag := rest.find("</")) >= 0:
        end = min(end, tag)
    value = rest[:end].rstrip()
    if _HARMLESS.fullmatch(value.rstrip(",;")):
        return value, start + len(value)
    return hide(value), start + len(value)


def _closing(rest: str, quote: str) -> int:
    """Return where the quoted text at the beginning of *rest* ends; -1 when its end is in doubt."""
    at = len(quote)
    while (end := rest.find(quote, at)) >= 0:
        at = end + len(quote)
        if len(quote) == 1 and _escaped(rest, end):
            continue
        if rest.startswith(quote, at):  # doubled within
            at += len(quote)
            continue
        if rest[at : at + 1] not in _AFTER_QUOTE or (len(quote) == 1 and rest.count(quote, at) % 2):
            return -1
        return end
    return -1


#: What may follow a closing quote, the end of the line among it.
_AFTER_QUOTE = ("", *" \t,;)}]>&:|/\\\r?#")


def _escaped(text: str, place: int) -> bool:
    first = place
    while first and text[first - 1] == "\\":
        first -= 1
    return (place - first) % 2 == 1


_SCHEME = re.compile(r"(?:\S*=)?(?:iscsi|rbd|nbd|nfs|ssh|https?|ftps?|smb|cifs):", re.IGNORECASE)


def _userinfo_of_url(word: str, hide: Hide) -> str:
    """Hide the password of a URL, or of what a driver calls one; names of strangers may hold a colon and an @ too."""
    return _userinfo(word, hide) if "://" in word or _SCHEME.match(word) else word


_WEB = re.compile(r"(?:https?|ftps?|rtsps?|wss?|amqps?|rediss?|mqtts?|git|s3|davs?|webdavs?)$", re.IGNORECASE)
#: ``/path:`` and ``/path:12:`` before a word: they are no user.
_PATH = re.compile(r"/[^:]*:(?:\d+:)?")
_USER = re.compile(r"[^:@/<]{0,64}:(?=[^:@])")


def _userinfo(word: str, hide: Hide) -> str:
    """Hide the password in ``scheme://user:password@host``, whatever the password holds, and in ``user:password@host``."""
    last, scheme = word.rfind("@"), word.find("://")
    if 0 <= scheme < last:
        if PSEUDONYM.fullmatch(word, scheme + 3, last):
            return word
        colon = re.compile(r":|%3a", re.IGNORECASE).search(word, scheme + 3, last)
        if colon:
            start = colon.end()
        elif _WEB.search(word, 0, scheme):
            start = scheme + 3
        elif (percent := word.find("%", scheme + 3, last)) >= 0:  # iscsi://user%password@portal
            start = percent + 1
        else:
            return word
    else:
        path = _PATH.match(word)
        match = _USER.match(word, path.end() if path else 0)
        if not match or match.end() > last or not re.match(r"[\w\[<]", word[last + 1 :]):
            return word
        start = match.end()
    return word[:start] + hide(word[start:last]) + word[last:]
