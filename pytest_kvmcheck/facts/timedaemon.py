r"""Processes that keep clocks, by their command lines: ``/proc/PID/cmdline``, one argument a line.

Source: phc2sys(8), ptp4l(8), timemaster(8), chronyd(8).

>>> daemon = parse_daemon("/usr/sbin/phc2sys\n-a\n-r\n-n\n24\n")
>>> daemon.name, daemon.steers, daemon.value("n")
('phc2sys', True, '24')
>>> parse_daemon("/usr/sbin/phc2sys\n-c\n/dev/ptp1\n-s\nens1f0\n").steers
False
"""

from __future__ import annotations

from dataclasses import dataclass

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.honest import takes_any_line

#: Options of phc2sys that take no value; all others do.
_FLAGS = {"phc2sys": "armqvhxwH", "ptp4l": "AEP246HSLsmqvh", "chronyd": "46dhmnpqQRrsUvx", "ntpd": "46aAbgdDGLmMnNqxz"}


@dataclass(frozen=True)
class Daemon:
    """A process: its name, and its arguments after that."""

    name: str
    arguments: tuple[str, ...]

    def has(self, flag: str) -> bool:
        """Whether the option *flag* (one letter) is given, alone or among others (``-aw``)."""
        flags = _FLAGS.get(self.name, "")
        for item in self.arguments:
            if item.startswith("-") and not item.startswith("--"):
                for letter in item[1:]:
                    if letter == flag:
                        return True
                    if letter not in flags:
                        break
        return False

    def value(self, option: str) -> str:
        """Return the value of *option* (one letter), empty when it is not given."""
        for number, item in enumerate(self.arguments):
            if item == f"-{option}":
                return self.arguments[number + 1] if number + 1 < len(self.arguments) else ""
            if item.startswith(f"-{option}") and not item.startswith("--"):
                return item[2:]
        return ""

    @property
    def steers(self) -> bool:
        """Whether it disciplines the system clock.

        chronyd does unless -x is given. phc2sys does with -a -r, or when its clock (-c) is CLOCK_REALTIME, which is the default;
        never with a servo that only hands the time on (-E ntpshm, refclock_sock) or in free run (-F is none, nullf).
        """
        if self.name == "phc2sys":
            if self.value("E") in ("ntpshm", "refclock_sock", "nullf"):
                return False
            if self.has("a"):
                return self.has("r")
            return self.value("c") in ("", "CLOCK_REALTIME")
        return self.name in ("chronyd", "ntpd") and not (self.name == "chronyd" and self.has("x"))


@takes_any_line("an argument may be any text")
def parse_daemon(text: str) -> Daemon:
    """Return the process. Raises :class:`ParseError` when the text is no command line of a known daemon."""
    lines = text.splitlines()
    name = lines[0].rpartition("/")[2] if lines else ""
    if name not in ("chronyd", "ntpd", "phc2sys", "ptp4l", "timemaster") or "\0" in text:
        raise ParseError(f"not the command line of a daemon that keeps clocks: {name[:40]!r}")
    return Daemon(name, tuple(lines[1:]))
