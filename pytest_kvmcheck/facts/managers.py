r"""Platforms that manage the guests of a host, by the directories that they leave.

The list begins with /etc, which every host has: by that an answer without a platform is told from no answer.

>>> parse_managers("/etc\n/etc/nova\n"), parse_managers("/etc\n")
(('OpenStack',), ())
"""

from __future__ import annotations

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.honest import empty_is_an_answer

_PLATFORMS = {
    "/etc/vdsm": "oVirt",
    "/etc/nova": "OpenStack",
    "/etc/pve": "Proxmox",
    "/var/run/kubevirt": "KubeVirt",
}


@empty_is_an_answer("no platform manages it")
def parse_managers(text: str) -> tuple[str, ...]:
    """Return the platforms. Raises :class:`ParseError` for an empty answer, or one with anything that was not asked for."""
    paths = text.split()
    if not paths or set(paths) - {"/etc", *_PLATFORMS}:
        raise ParseError(f"not a list of the directories that were asked for: {text.strip()[:60]!r}")
    return tuple(_PLATFORMS[path] for path in paths if path in _PLATFORMS)
