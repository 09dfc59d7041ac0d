"""What the user asked for: option before environment before ini file, with the source of each value."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_kvmcheck.errors import KvmcheckError

if TYPE_CHECKING:
    import pytest

#: The profile of a run that names none.
DEFAULT_PROFILE = "baseline"

#: Keys of the ini file, and variables of the environment, that have no option: name, default, bounds, help.
NUMBERS = (
    ("host_timeout", 180, 1, 86_400, "seconds after which a host is given up"),
    ("waiver_days", 366, 1, 3660, "days for which a waiver may be in force at the most, from now"),
)

_TRUE, _FALSE = {"1", "true", "yes", "on"}, {"", "0", "false", "no", "off"}

#: name, metavar, help. Each is an option --kvmcheck-NAME, a variable KVMCHECK_NAME and an ini key kvmcheck_NAME.
VALUES = (
    ("profile", "NAME|FILE", "profile to judge by: a shipped name or a YAML file (default: baseline)"),
    ("inventory", "FILE", "YAML file that names hosts, guests, clusters and critical domains"),
    ("waivers", "FILE", "YAML file of waivers: reason, owner, approver, expiry"),
    ("record", "DIR", "keep the evidence as a sealed bundle in DIR (new or empty)"),
    ("json", "FILE", "write the results as JSON to FILE"),
)


@dataclass(frozen=True)
class Settings:
    """The settings of a run; ``sources`` says where each came from (option, environment, ini, default)."""

    profile: str = DEFAULT_PROFILE
    inventory: Path | None = None
    waivers: Path | None = None
    record: Path | None = None
    json: Path | None = None
    host_timeout_s: float = 180
    active: bool = False
    waiver_days: int = 366
    sources: dict[str, str] = field(default_factory=dict)


def add_options(parser: pytest.Parser) -> None:
    """Register the options and ini keys."""
    group = parser.getgroup("kvmcheck", "KVM host checks (pytest-kvmcheck)")
    group.addoption(
        "--kvmcheck",
        action="store_true",
        default=None,
        help="check KVM hosts: the local machine, or those of --hosts / --kvmcheck-inventory. --hosts takes ssh://HOST,"
        " local://, bundle:DIR, sosreport:PATH, reply:FILE, libvirt+URI, parted by commas",
    )
    parser.addini("kvmcheck", "check KVM hosts, as --kvmcheck does", type="string", default="")
    text = "also ask what sends packets into the network (pings with large payloads to storage)"
    group.addoption("--kvmcheck-active", action="store_true", default=None, help=text)
    parser.addini("kvmcheck_active", f"{text}; as --kvmcheck-active", type="string", default="")
    for name, metavar, text in VALUES:
        group.addoption(f"--kvmcheck-{name}", metavar=metavar, default=None, help=text)
        parser.addini(f"kvmcheck_{name}", f"{text}; as --kvmcheck-{name}", type="string", default="")
    for name, value, low, high, text in NUMBERS:
        parser.addini(f"kvmcheck_{name}", f"{text}: {low} to {high} (default: {value})", type="string", default="")


def _find(config: pytest.Config, name: str) -> tuple[str, str]:
    option = config.getoption(f"--{name.replace('_', '-')}", default=None)
    if option is not None:
        return str(option), "option"
    variable = os.environ.get(name.upper(), "")
    if variable:
        return variable, "environment"
    ini = str(config.getini(name) or "")
    return ini, "ini" if ini else "default"


def active(config: pytest.Config) -> bool:
    """Whether checks were asked for.

    Raises :class:`KvmcheckError` for a value that is neither true nor false, and for our options without the switch: who gives
    them believes that hosts are checked.
    """
    on, source = _switch(config, "kvmcheck")
    if on:
        _demand_known()
        return True
    for name in (*(name for name, _, _ in VALUES), "active"):
        if config.getoption(f"--kvmcheck-{name}", default=None) is not None:
            off = "without --kvmcheck" if source == "default" else f"while {_shown('kvmcheck', source)} switches kvmcheck off"
            raise KvmcheckError(f"--kvmcheck-{name} {off}: nothing would be checked")
    return False


def _demand_known() -> None:
    """Raise :class:`KvmcheckError` for a variable that looks like one of ours and is none. Of ini keys pytest tells."""
    from pytest_kvmcheck.yamlfile import did_you_mean

    known = ["kvmcheck", *(f"kvmcheck_{name}" for name in (*(row[0] for row in (*VALUES, *NUMBERS)), "active"))]
    for name in os.environ:
        if name.upper().startswith("KVMCHECK") and name not in {key.upper() for key in known}:
            hint = did_you_mean(name.upper(), [key.upper() for key in known])
            raise KvmcheckError(f"environment variable {name}: unknown{hint}")


def _shown(name: str, source: str) -> str:
    return name.upper() if source == "environment" else f"ini key {name}"


def _switch(config: pytest.Config, name: str) -> tuple[bool, str]:
    """Return whether the switch *name* is on, and where it was set. Raises :class:`KvmcheckError` for any other word."""
    value, source = _find(config, name)
    if value.lower() in _TRUE:
        return True, source
    if value.lower() in _FALSE:
        return False, source
    raise KvmcheckError(f"{_shown(name, source)}: expected true or false, given: {value!r}")


def _number(config: pytest.Config, name: str, default: float, low: float, high: float, text: str) -> float:
    given, source = _find(config, f"kvmcheck_{name}")
    try:
        number = float(given or default)
        if not low <= number <= high:
            raise ValueError
    except ValueError:
        what = text.split(" ", 1)[0]
        raise KvmcheckError(f"kvmcheck_{name} ({source}): expected {what} from {low} to {high}, given: {given!r}") from None
    return number


def read(config: pytest.Config) -> Settings:
    """Return the settings of this run. Paths in the ini file are relative to it."""
    values: dict[str, str] = {}
    sources: dict[str, str] = {}
    for name, _, _ in VALUES:
        values[name], sources[name] = _find(config, f"kvmcheck_{name}")

    def path(name: str) -> Path | None:
        if not values[name]:
            return None
        found = Path(values[name]).expanduser()
        if sources[name] == "ini" and config.inipath and not found.is_absolute():
            found = config.inipath.parent / found
        return found

    asks_actively, sources["active"] = _switch(config, "kvmcheck_active")
    numbers = {row[0]: _number(config, *row) for row in NUMBERS}
    profile = values["profile"]
    if profile and sources["profile"] == "ini" and config.inipath and "/" in profile and not Path(profile).is_absolute():
        profile = str(config.inipath.parent / profile)
    return Settings(
        profile or DEFAULT_PROFILE,
        path("inventory"),
        path("waivers"),
        path("record"),
        path("json"),
        numbers["host_timeout"],
        asks_actively,
        int(numbers["waiver_days"]),
        sources,
    )
