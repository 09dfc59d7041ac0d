r"""What the QEMU guest agent is allowed to do: its configuration, and the arguments of its service.

Source: qemu-ga(8), https://www.qemu.org/docs/master/interop/qemu-ga.html. RHEL and SUSE: /etc/sysconfig/qemu-ga (BLACKLIST_RPC,
BLOCK_RPCS, newer FILTER_RPC_ARGS); Debian: DAEMON_ARGS in /etc/default/qemu-guest-agent; all: /etc/qemu/qemu-ga.conf, an ini file.

>>> conf = parse_agent_conf({"/etc/sysconfig/qemu-ga": "# RPCs\nBLOCK_RPCS=guest-exec,guest-file-open\n"})
>>> sorted(conf.blocked), conf.allowed, conf.refuses("guest-exec"), conf.refuses("guest-set-time")
(['guest-exec', 'guest-file-open'], None, True, False)
>>> conf = parse_agent_conf({"/etc/sysconfig/qemu-ga": 'FILTER_RPC_ARGS="--allow-rpcs=guest-sync,guest-ping"\n'})
>>> conf.refuses("guest-ping"), conf.refuses("guest-fsfreeze-freeze")
(False, True)
>>> parse_agent_conf({"/etc/qemu/qemu-ga.conf": "[general]\ndaemon=1\nblock-rpcs=guest-set-time\n"}).refuses("guest-set-time")
True
"""

from __future__ import annotations

import configparser
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.honest import empty_is_an_answer, takes_any_line
from pytest_kvmcheck.facts.shellvars import parse_assignments

_BLOCK = ("BLACKLIST_RPC", "BLOCK_RPCS")
_OPTION = re.compile(r"(?:--(?P<long>block-rpcs|blacklist|allow-rpcs)=?|-(?P<short>[ba]))(?P<value>.*)", re.DOTALL)


@dataclass(frozen=True)
class AgentConf:
    """RPCs that the agent refuses, and the only ones that it takes (None: all others)."""

    blocked: frozenset[str]
    allowed: frozenset[str] | None

    def refuses(self, rpc: str) -> bool:
        """Whether the agent does not answer *rpc*."""
        return rpc in self.blocked or (self.allowed is not None and rpc not in self.allowed)


def _names(text: str) -> set[str]:
    return {name.strip() for name in text.split(",") if name.strip()}


@empty_is_an_answer("nothing is configured: everything is allowed")
@takes_any_line("sh passes over other lines")
def parse_agent_conf(files: Mapping[str, str]) -> AgentConf:
    """Return what the configuration forbids. Raises :class:`ParseError`."""
    blocked: set[str] = set()
    allowed: set[str] | None = None
    for path, text in files.items():
        if path.endswith(".conf"):
            found = _of_ini(text)
        else:
            variables = parse_assignments(text)
            found = [("block", value) for name, value in variables.items() if name in _BLOCK]
            found += [("allow", value) for name, value in variables.items() if name == "ALLOW_RPCS" and value]
            for name in ("FILTER_RPC_ARGS", "DAEMON_ARGS"):
                found += _of_arguments(variables.get(name, ""))
        for kind, value in found:
            if kind == "block":
                blocked |= _names(value)
            else:
                allowed = (allowed or set()) | _names(value)
    return AgentConf(frozenset(blocked), None if allowed is None else frozenset(allowed))


def _of_ini(text: str) -> list[tuple[str, str]]:
    parser = configparser.RawConfigParser(strict=False)
    try:
        parser.read_string(text)
    except (configparser.Error, ValueError) as exc:
        raise ParseError(f"not the configuration of the guest agent: {str(exc)[:60]!r}") from None
    section = dict(parser["general"]) if parser.has_section("general") else {}
    kinds = {"block-rpcs": "block", "blacklist": "block", "allow-rpcs": "allow"}
    return [(kind, section[name]) for name, kind in kinds.items() if name in section]


def _of_arguments(text: str) -> list[tuple[str, str]]:
    try:
        words = shlex.split(text)
    except ValueError:
        raise ParseError(f"not arguments of the guest agent: {text[:60]!r}") from None
    found = []
    for number, word in enumerate(words):
        match = _OPTION.fullmatch(word)
        if match:
            value = match["value"] or (words[number + 1] if number + 1 < len(words) else "")
            found.append(("allow" if match["short"] == "a" or match["long"] == "allow-rpcs" else "block", value))
    return found
