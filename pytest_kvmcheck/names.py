"""Names that people write: which are refused because they can be taken for another, and when two are the same.

Source: Unicode Technical Standard 39 (look-alikes), Unicode Standard Annex 24 (scripts). The tables of UTS 39 are not
needed: where all letters are of one script, and of the alphabets that languages are written in, few can be mistaken.
"""

from __future__ import annotations

import re
import unicodedata

#: Drawn as nothing, although Unicode calls them letters, marks or symbols.
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")

#: Scripts that one language mixes.
_TOGETHER = {"HIRAGANA": "CJK", "KATAKANA": "CJK", "HANGUL": "CJK", "IDEOGRAPHIC": "CJK"}

#: Latin letters of phonetic transcription and the like, many of which look as those of the alphabet do.
_PHONETIC = re.compile(
    "[\u0180-\u02af\u1d00-\u1dbf\u2c60-\u2c7f\ua720-\ua7ff\uab30-\uab6f\U00010780-\U000107bf\U0001df00-\U0001dfff]"
)

#: Letters and digits that most fonts draw alike.
_ALIKE = str.maketrans({"I": "l", "|": "l", "0": "O", "\u0131": "i"})


def hidden(text: str) -> str:
    r"""Return the first character of *text* that is not seen (control, format, unassigned), as U+XXXX; else the empty string.

    >>> hidden("anna"), hidden("an\u200bna"), hidden("a\x1b[31m"), hidden("\u3164")
    ('', 'U+200B', 'U+001B', 'U+3164')
    """
    for char in text:
        unseen = unicodedata.category(char) in ("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp")
        if unseen or char in _BLANK or "VARIATION SELECTOR" in unicodedata.name(char, ""):
            return f"U+{ord(char):04X}"
    return ""


def scripts(text: str) -> frozenset[str]:
    r"""Return the scripts of the letters in *text*.

    >>> sorted(scripts("anna 2")), sorted(scripts("\u0430nna"))
    (['LATIN'], ['CYRILLIC', 'LATIN'])
    """
    words = (unicodedata.name(char, "?").split(" ", 1)[0] for char in unicodedata.normalize("NFKC", text) if char.isalpha())
    return frozenset(_TOGETHER.get(word, word) for word in words)


def oddity(name: str) -> str:
    r"""Return why *name* could be taken for another one, else the empty string.

    >>> oddity("Jos\u00e9 2nd"), oddity("\u0430nna")
    ('', 'mixes letters of CYRILLIC and LATIN, which look alike')
    >>> oddity("\u0251nna"), oddity("anna\u200d")
    ('has letters of phonetic writing, which look like others', 'has a character that is not seen (U+200D)')
    """
    if found := hidden(name):
        return f"has a character that is not seen ({found})"
    if len(found_scripts := scripts(name)) > 1:
        return f"mixes letters of {' and '.join(sorted(found_scripts))}, which look alike"
    if _PHONETIC.search(unicodedata.normalize("NFKC", name)):
        return "has letters of phonetic writing, which look like others"
    return ""


def folded(name: str) -> str:
    r"""Return *name* without what is no difference: case, width, accents, blanks around it and a dot behind it.

    >>> folded(" KVM01. "), folded("\uff4b\uff56\uff4d01"), folded("Jos\u00e9")
    ('kvm01', 'kvm01', 'jose')
    """
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", name).casefold())
    return "".join(char for char in plain if not unicodedata.combining(char) and not hidden(char)).strip().rstrip(".")


def words(name: str) -> frozenset[str]:
    """Return the words of *name*, folded: their order, and what stands between them, is no difference.

    >>> words("Smith, A.") == words("a smith")
    True
    """
    return frozenset(re.findall(r"\w+", folded(name).replace("_", " ")))


def alike(one: str, other: str) -> bool:
    """Whether two names may be those of one person: the same but for case, order, accents, or letters that look alike.

    >>> alike("Anna", "anna"), alike("anna", "Anna Smith"), alike("Alice", "AIice"), alike("anna", "bert"), alike("ian", "lan")
    (True, True, True, False, False)
    """
    mine, its = words(one), words(other)
    if mine <= its or its <= mine or "".join(sorted(mine)) == "".join(sorted(its)):
        return True
    return any(words(_drawn(one, digit)) == words(_drawn(other, digit)) for digit in "li")


def resembles(one: str, other: str) -> bool:
    """Whether two names look the same at a glance: whatever the case, the separators, and 0 for O or 1 for l.

    >>> resembles("Pr0duction", "production"), resembles("guest_linux", "guest-linux"), resembles("site", "production")
    (True, True, False)
    """
    return _glance(one) == _glance(other)


def _glance(name: str) -> str:
    return re.sub(r"[\W_]", "", _drawn(folded(name)).casefold())


def _drawn(name: str, digit: str = "l") -> str:
    """Return *name* as it looks in most fonts; a 1 looks like *digit*."""
    return unicodedata.normalize("NFKC", name).replace("1", digit).translate(_ALIKE).replace("rn", "m").replace("vv", "w")
