"""Options of OpenStack's services: lines ``name = value`` picked from ``/etc/nova/nova.conf``.

Source: https://docs.openstack.org/nova/latest/configuration/config.html. Comments and names of sections may be among them.

>>> parse_options("# live_migration_uri is deprecated\\nlive_migration_with_native_tls = true\\n")
{'live_migration_with_native_tls': 'true'}
"""

from __future__ import annotations

import re

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.honest import empty_is_an_answer


@empty_is_an_answer("none of the options is set")
def parse_options(text: str) -> dict[str, str]:
    """Return the options by name; the last of equal ones counts. Raises :class:`ParseError`."""
    found = {}
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith(("#", ";", "[")):
            continue
        match = re.fullmatch(r"\s*([a-z]\w*)\s*[=:]\s*(.*?)\s*", line, re.ASCII)
        if not match or "=" not in line:
            raise ParseError(f"not an option: {line.strip()[:60]!r}")
        found[match[1]] = match[2]
    return found
