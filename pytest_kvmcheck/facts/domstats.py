"""Counters of a domain: ``virsh domstats``.

Source: https://libvirt.org/manpages/virsh.html#domstats. Sizes of the balloon are KiB in the text and bytes here; times of
vCPUs are nanoseconds since the domain was started. A domain tells only what its driver and its state allow.

>>> text = "Domain: 'web'\\n  state.state=1\\n  balloon.current=1048576\\n  vcpu.current=1\\n  vcpu.0.delay=80432131\\n" \\
...        "  block.count=1\\n  block.0.name=vda\\n  block.0.path=/img/a=b.qcow2\\n  block.0.capacity=67108864\\n"
>>> stats = parse_domstats(text)
>>> stats.name, stats.number("state.state"), stats.kib("balloon.current"), stats.vcpu_delays_ns
('web', 1, 1073741824, {0: 80432131})
>>> stats.blocks["vda"]["capacity"], stats.blocks["vda"]["path"]
('67108864', '/img/a=b.qcow2')
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from pytest_kvmcheck.errors import ParseError


@dataclass(frozen=True)
class DomStats:
    """Counters by the names that virsh gives them."""

    name: str
    values: Mapping[str, str]

    def number(self, key: str) -> int | None:
        """Return the whole number *key*, None when it is not told. Raises :class:`ParseError`."""
        text = self.values.get(key)
        if text is None:
            return None
        if not re.fullmatch(r"-?\d{1,20}", text):
            raise ParseError(f"{key} is not a number: {text[:40]!r}")
        return int(text)

    def kib(self, key: str) -> int | None:
        """Return the number *key*, told in KiB, in bytes."""
        number = self.number(key)
        return None if number is None else number * 1024

    @cached_property
    def vcpu_delays_ns(self) -> dict[int, int]:
        """Time that each vCPU waited for a physical CPU, by index."""
        found = {}
        for key in self.values:
            if match := re.fullmatch(r"vcpu\.(\d{1,5})\.delay", key):
                found[int(match[1])] = self.number(key) or 0
        return found

    @cached_property
    def blocks(self) -> dict[str, dict[str, str]]:
        """What is told of each block device, by the name of its target; backing images are told under the same name."""
        devices: dict[str, dict[str, str]] = {}
        for key, value in self.values.items():
            if match := re.fullmatch(r"block\.(\d{1,5})\.(.+)", key):
                devices.setdefault(match[1], {})[match[2]] = value
        found: dict[str, dict[str, str]] = {}
        for number in sorted(devices, key=int):
            found.setdefault(devices[number].get("name", ""), devices[number])
        return found


def parse_domstats(text: str) -> DomStats:
    """Return the counters of the one domain in *text*. Raises :class:`ParseError` when it is not the answer of domstats."""
    lines = [line for line in text.splitlines() if line.strip()]
    match = re.fullmatch(r"Domain: '(.*)'", lines[0]) if lines else None
    if not match:
        raise ParseError(f"not the answer of virsh domstats: {text.strip()[:80]!r}")
    values = {}
    for line in lines[1:]:
        key, equals, value = line.strip().partition("=")
        if not equals or not re.fullmatch(r"[\w.-]+", key):
            raise ParseError(f"not a counter of virsh domstats: {line.strip()[:80]!r}")
        values[key] = value
    return DomStats(match[1], values)
