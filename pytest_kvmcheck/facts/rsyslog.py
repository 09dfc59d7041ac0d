r"""Where rsyslog sends messages, as the probe picks it from its configuration.

Source: rsyslog.conf(5), https://docs.rsyslog.com/doc/configuration/modules/idx_output.html: ``@host`` is UDP, ``@@host`` TCP,
``action(type="omfwd" protocol="tcp" ...)`` the newer form, in which UDP is the default.

>>> parse_actions(' @@logs.example:514\ntype="omfwd"\nprotocol="tcp"\ntype="omfile"\ntype="omrelp"\n')
(Action(kind='omfwd', reliable=True), Action(kind='omfwd', reliable=True), Action(kind='omrelp', reliable=True))
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.honest import empty_is_an_answer

#: Modules of rsyslog that send messages over the network.
_REMOTE = ("omfwd", "omrelp", "omelasticsearch", "omkafka", "omhttp", "omgssapi", "omazureeventhubs", "omamqp1", "omclickhouse")


@dataclass(frozen=True)
class Action:
    """A way out of the host; ``reliable`` unless it is plain UDP."""

    kind: str
    reliable: bool


@empty_is_an_answer("nothing is sent anywhere")
def parse_actions(text: str) -> tuple[Action, ...]:
    """Return the actions that send messages to another host. Raises :class:`ParseError`."""
    found: list[Action] = []
    last = ""
    for line in filter(None, map(str.strip, text.splitlines())):
        if match := re.fullmatch(r"(@@?)[\[(:\w].*", line):
            found.append(Action("omfwd", match[1] == "@@"))
            last = ""
        elif match := re.fullmatch(r'type="(om\w+)"', line, re.IGNORECASE):
            last = match[1].lower()
            if last in _REMOTE:
                found.append(Action(last, last != "omfwd"))
        elif match := re.fullmatch(r'protocol="(\w+)"', line, re.IGNORECASE):
            if last == "omfwd" and found:
                found[-1] = Action("omfwd", match[1].lower() == "tcp")
        elif match := re.fullmatch(r":?(om\w+):\S*", line, re.IGNORECASE):
            found.append(Action(match[1].lower(), match[1].lower() != "omfwd"))
        else:
            raise ParseError(f"not an action of rsyslog: {line[:60]!r}")
    return tuple(found)
