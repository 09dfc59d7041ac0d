"""Facts about services: systemd's units, and the configuration of libvirt's daemons."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from pytest_kvmcheck.errors import Cause, EvidenceMissing
from pytest_kvmcheck.evidence import KEY_SEPARATOR, parsing
from pytest_kvmcheck.facts import updates
from pytest_kvmcheck.facts.exitcode import TIMED_OUT
from pytest_kvmcheck.facts.hostvalidate import Verdict, parse_validation
from pytest_kvmcheck.facts.kernels import Release, Running, parse_images, parse_running
from pytest_kvmcheck.facts.libvirtconf import Value, parse_conf
from pytest_kvmcheck.facts.libvirtguests import parse_settings_file
from pytest_kvmcheck.facts.libvirtrules import parse_iptables, parse_nft_table, parse_nft_tables
from pytest_kvmcheck.facts.managers import parse_managers
from pytest_kvmcheck.facts.programs import Program, parse_deleted_libraries, parse_programs
from pytest_kvmcheck.facts.shellvars import parse_assignments
from pytest_kvmcheck.facts.systemd import Unit, parse_units
from pytest_kvmcheck.facts.systemstate import parse_failed, parse_state
from pytest_kvmcheck.facts.taint import parse_tainted
from pytest_kvmcheck.views.host import Host, fact
from pytest_kvmcheck.views.identity import versions

T = TypeVar("T")

MONOLITHIC = ("libvirtd.service", "libvirtd.socket")
MODULAR = ("virtqemud.service", "virtqemud.socket")

#: Which set of daemons a file belongs to; those not named are modular ones.
_SET_OF = {
    "/etc/libvirt/libvirtd.conf": "monolithic",
    "/etc/libvirt/virtlogd.conf": "",
    "/etc/libvirt/virtlockd.conf": "",
}


@fact
def units(host: Host) -> dict[str, Unit]:
    """The units that were asked about, by every name they have."""
    return host.evidence.parsed("systemd_units", parse_units)


def unit(host: Host, name: str) -> Unit:
    """Return the unit *name*, which may be one that does not exist (``exists`` tells).

    Raises :class:`EvidenceMissing` when systemd was not asked about it.
    """
    try:
        return units(host)[name]
    except KeyError:
        raise EvidenceMissing(Cause.NOT_COLLECTED, f"systemctl show did not mention {name}", "systemd_units") from None


@fact
def system_state(host: Host) -> tuple[str, int | None]:
    """State of the system by systemd, and how many units it counts as failed."""
    return host.evidence.parsed("systemd_state", parse_state)


@fact
def failed_units(host: Host) -> tuple[str, ...]:
    """Names of the failed units."""
    return host.evidence.parsed("systemd_failed", parse_failed)


@fact
def managers(host: Host) -> tuple[str, ...]:
    """Platforms that manage the guests of this host, by their traces in /etc."""
    return host.evidence.parsed("managers", parse_managers)


def in_use(host: Host, names: Iterable[str]) -> list[str]:
    """Return those of the units *names* that are enabled or active."""
    return [name for name in names if unit(host, name).enabled or unit(host, name).active]


def stop_timeout_s(host: Host, name: str) -> float:
    """Return the seconds that systemd gives the unit *name* to stop, ``inf`` for no limit."""
    seconds = parsing("systemd_units", lambda _: unit(host, name).timeout_stop_s, name)
    if seconds is None:
        raise EvidenceMissing(Cause.MISSING, f"systemd does not tell TimeoutStopUSec of {name}", "systemd_units")
    return seconds


@fact
def libvirt_conf(host: Host) -> dict[str, dict[str, Value]]:
    """Settings of the libvirt daemons by path of the file, of those files that could be read."""
    files = host.evidence.files("libvirt_conf")
    return {path: parsing("libvirt_conf", parse_conf, files[path]) for path in files}


def daemon_conf(host: Host) -> tuple[dict[str, dict[str, Value]], EvidenceMissing | None]:
    """Return the settings of the daemons in use by path of the file, and what is missing of them.

    The monolithic libvirtd has one file, the modular daemons one each; virtlogd and virtlockd belong to both. A daemon
    that is not installed has no file. While it is not known which are in use, or none is, all files count.
    """
    missing: EvidenceMissing | None = None
    try:
        used = {"monolithic": bool(in_use(host, MONOLITHIC)), "modular": bool(in_use(host, MODULAR))}
    except EvidenceMissing as exc:
        used, missing = {}, exc
    if not any(used.values()):
        used = {"monolithic": True, "modular": True}
    found: dict[str, dict[str, Value]] = {}
    files = host.evidence.files("libvirt_conf")
    for path in sorted({*files, *files.denied}):
        set_of = _SET_OF.get(path, "modular")
        if set_of and not used[set_of]:
            continue
        try:
            found[path] = parsing("libvirt_conf", parse_conf, files[path])
        except EvidenceMissing as exc:
            missing = missing or exc
    if not missing and files.partial:
        missing = EvidenceMissing(Cause.NOT_COLLECTED, "the files may not all have been collected", "libvirt_conf")
    if not missing and not any(_SET_OF.get(path, "modular") for path in found):
        missing = EvidenceMissing(Cause.MISSING, "no configuration file of the daemon in use is there", "libvirt_conf")
    return found, missing


@fact
def qemu_conf(host: Host) -> dict[str, Value]:
    """Settings of libvirt's QEMU driver."""
    return parsing("qemu_conf", parse_conf, host.evidence.files("qemu_conf").need("/etc/libvirt/qemu.conf"))


@fact
def lockd_conf(host: Host) -> dict[str, Value]:
    """Settings of the locks that virtlockd keeps for QEMU; none when there is no such file, as all of them have defaults."""
    text = host.evidence.files("qemu_conf").get("/etc/libvirt/qemu-lockd.conf")
    return {} if text is None else parsing("qemu_conf", parse_conf, text)


@fact
def validation(host: Host) -> tuple[Verdict, ...]:
    """What virt-host-validate says, run as root."""
    return host.evidence.parsed("virt_host_validate", parse_validation, ok=(0, 1))


#: The release of libvirt that brought the auto_shutdown settings of qemu.conf.
_AUTO_SHUTDOWN_SINCE = (11, 2, 0)


def auto_shutdown(host: Host) -> dict[str, str]:
    """Return the auto_shutdown settings of qemu.conf that do something; libvirt before 11.2 has none."""
    keys = ("auto_shutdown_try_save", "auto_shutdown_try_shutdown", "auto_shutdown_poweroff")
    try:
        conf = qemu_conf(host)
    except EvidenceMissing as missing:
        # The file is often closed to all but root; a libvirt that does not know the settings cannot have them in use.
        if missing.cause is Cause.NOT_PERMITTED and versions(host).libvirt < _AUTO_SHUTDOWN_SINCE:
            return {}
        raise
    return {key: str(conf[key]) for key in keys if str(conf.get(key, "none")) != "none"}


class GuestSettings:
    """Settings of libvirt-guests: those of its file over the defaults of its script, which are read when needed."""

    def __init__(self, host: Host) -> None:
        files = host.evidence.files("libvirt_guests_conf")
        files.demand_all_readable()
        self.host = host
        self.given: dict[str, str] = {}
        place = self._place()
        if not place and len(files) > 1:
            seen = f"which of {' and '.join(sorted(files))} is read is not known"
            raise EvidenceMissing(Cause.MISSING, seen, "libvirt_guests_script")
        for path in (place,) if place in files else () if place else files:
            self.given |= parsing("libvirt_guests_conf", parse_assignments, files[path])

    def _place(self) -> str:
        """Return the file that the script reads, empty when there is no script (a sosreport has none), or it does not tell."""
        evidence = self.host.evidence
        if evidence.partial and "libvirt_guests_script" not in evidence.records:
            return ""
        if evidence.record("libvirt_guests_script").cause is Cause.MISSING:
            return ""
        return evidence.parsed("libvirt_guests_script", parse_settings_file)

    def __getitem__(self, name: str) -> str:
        if name in self.given:
            return self.given[name]
        try:
            return self.host.evidence.parsed("libvirt_guests_script", parse_assignments)[name]
        except KeyError:
            raise EvidenceMissing(Cause.MISSING, f"nothing tells {name}", "libvirt_guests_script") from None

    def number(self, name: str) -> int:
        """Return a setting that has to be a number."""
        if not self[name].isdecimal():
            raise EvidenceMissing(Cause.UNPARSABLE, f"{name} is {self[name][:20]!r}", "libvirt_guests_conf")
        return int(self[name])


@fact
def tainted(host: Host) -> frozenset[int]:
    """The bits of the kernel's taint that are set."""
    return parsing("tainted", parse_tainted, host.evidence.files("tainted").need("/proc/sys/kernel/tainted"))


def _section(host: Host, probe: str, name: str) -> str:
    host.evidence.head(probe)
    return f"{probe}{KEY_SEPARATOR}{name}"


@fact
def reboot_flags(host: Host) -> tuple[str, ...]:
    """What asks for a reboot: flag files, and the packages that set them."""
    return tuple(filter(None, host.evidence.text(_section(host, "kernels", "flags")).splitlines()))


@fact
def running_kernel(host: Host) -> Running:
    """The running kernel."""
    return host.evidence.parsed(_section(host, "kernels", "running"), parse_running)


@fact
def installed_kernels(host: Host) -> tuple[Release, ...]:
    """The kernels whose images are there."""
    return host.evidence.parsed(_section(host, "kernels", "images"), parse_images)


@fact
def debian_kernel_version(host: Host) -> str:
    """The installed version of the package of the running kernel; empty where kernels are not packed as Debian does."""
    if "Debian" not in running_kernel(host).build:
        return ""
    version = host.evidence.text(_section(host, "kernels", "debian")).strip()
    if not version or len(version.split()) != 1:
        raise EvidenceMissing(Cause.UNPARSABLE, f"dpkg-query says {version[:60]!r}", "kernels")
    return version


@fact
def programs(host: Host) -> dict[int, Program]:
    """The programs of libvirt's daemons and of QEMU processes by PID."""
    return host.evidence.parsed(_section(host, "programs", "exe"), parse_programs)


@fact
def deleted_libraries(host: Host) -> dict[int, tuple[str, ...]]:
    """Libraries of those processes that are gone from the disk, by PID."""
    if not programs(host):
        return {}
    return host.evidence.parsed(_section(host, "programs", "libraries"), parse_deleted_libraries)


@dataclass(frozen=True)
class Repositories:
    """Package repositories: the tool, those that are enabled, and when their metadata were fetched; None for never."""

    tool: str
    enabled: tuple[str, ...]
    fetched_s: int | None


def _updates_tool(host: Host) -> str:
    host.evidence.head("updates")
    tools = {key.partition("/")[0] for key in host.evidence.keyed("updates")}
    if len(tools) != 1:
        raise EvidenceMissing(Cause.MISSING, "neither apt, dnf nor zypper told of its repositories", "updates")
    return tools.pop()


@fact
def repositories(host: Host) -> Repositories:
    """The package repositories and the age of their metadata."""
    tool = _updates_tool(host)
    place = f"updates{KEY_SEPARATOR}{tool}"
    parse, what = {
        "apt": (updates.parse_apt_sources, "sources"),
        "dnf": (updates.parse_dnf_repos, "repos"),
        "zypper": (updates.parse_zypper_repos, "repos"),
    }[tool]
    if _read_from_files(host, tool):
        parse, what = updates.parse_repo_files, "files"
    times = host.evidence.parsed(f"{place}/times", updates.parse_times)
    # apt makes its directories when it is installed: only an index proves that something was fetched.
    if tool == "apt" and not host.evidence.parsed(f"{place}/lists", updates.parse_apt_lists):
        times = {}
    fetched = max((when for path, when in times.items() if "updateinfo" not in path), default=None)
    return Repositories(tool, _said(host, f"{place}/{what}", parse), fetched)


@fact
def pending_security(host: Host) -> tuple[str, ...]:
    """Packages (zypper of before: patches) for which a security update waits."""
    tool = _updates_tool(host)
    if _read_from_files(host, tool):
        return _advised(host, tool)
    parse = {"apt": updates.parse_apt_pending, "dnf": updates.parse_dnf_pending, "zypper": updates.parse_zypper_pending}[tool]
    return _said(host, f"updates{KEY_SEPARATOR}{tool}/pending", parse)


def _read_from_files(host: Host, tool: str) -> bool:
    """Whether the repositories of dnf or zypper were read from files, as they are now."""
    return f"updates{KEY_SEPARATOR}{tool}/files" in host.evidence.records


def _advised(host: Host, tool: str) -> tuple[str, ...]:
    """Return the packages for which an enabled repository has an advisory, by the metadata that it sent last."""
    place = f"updates{KEY_SEPARATOR}{tool}"
    newest: dict[str, tuple[int, str]] = {}
    for path, when in host.evidence.parsed(f"{place}/times", updates.parse_times).items():
        if "updateinfo" not in path:
            folder = path.rpartition("/")[0].removesuffix("/repodata")
            newest[updates.cached(path)] = max(newest.get(updates.cached(path), (0, "")), (when, folder))
    enabled = {name.replace("/", "_"): name for name in repositories(host).enabled}
    if missing := sorted(enabled[name] for name in enabled.keys() - newest.keys()):
        raise EvidenceMissing(Cause.MISSING, f"no metadata of {', '.join(missing[:8])} are kept ({tool})", "updates")
    waiting = _said(host, f"{place}/waits", updates.parse_waiting)
    folders = {newest[name][1] for name in enabled}
    return tuple(dict.fromkeys(item.package for item in waiting if any(item.path.startswith(f"{place}/") for place in folders)))


@fact
def held_back(host: Host) -> tuple[str, ...]:
    """Patterns of packages that the tool is told to leave as they are, so that it may not tell of their updates."""
    tool = _updates_tool(host)
    parse = {"apt": updates.parse_apt_held, "dnf": updates.parse_dnf_held, "zypper": updates.parse_zypper_held}[tool]
    return _said(host, f"updates{KEY_SEPARATOR}{tool}/held", parse)


def demand_security_advisories(host: Host) -> None:
    """Raise :class:`EvidenceMissing` when no repository says which updates are security updates: then none ever waits.

    dnf takes it from updateinfo.xml, which CentOS does not publish. EPEL does, but has none of the packages that matter here.
    With apt they come from a suite of their own, such as bookworm-security, that a list of sources may lack.
    """
    tool = _updates_tool(host)
    place = f"updates{KEY_SEPARATOR}{tool}"
    if tool == "dnf" or _read_from_files(host, tool):
        times = host.evidence.parsed(f"{place}/times", updates.parse_times)
        told = any("updateinfo" in path and "/epel" not in path for path in times)
        seen = "no repository says which updates are security updates (no updateinfo.xml, CentOS publishes none)"
    elif tool == "apt":
        told = any("security" in name for name in host.evidence.parsed(f"{place}/lists", updates.parse_apt_lists))
        seen = "no index of security updates (a suite like bookworm-security) was ever fetched"
    else:
        return
    if not told:
        raise EvidenceMissing(Cause.MISSING, seen, "updates")


def _said(host: Host, probe: str, parse: Callable[[str], tuple[T, ...]]) -> tuple[T, ...]:
    """Return the parsed answer of a command that the probe ended with ``rc=N``."""
    text = host.evidence.text(probe)
    if "Permission denied" in text:
        raise EvidenceMissing(Cause.NOT_PERMITTED, f"{probe}: needs root", probe)
    if text.split()[-1:] == [f"rc={TIMED_OUT}"]:
        raise EvidenceMissing(Cause.TIMEOUT, f"{probe}: the command was ended before it had told all", probe)
    return parsing(probe, parse, text)


@dataclass(frozen=True)
class LibvirtRules:
    """Packet filter rules of libvirt by where they stand; ``tools`` are those that could be asked."""

    tools: tuple[str, ...]
    rules: dict[str, tuple[str, ...]]


@fact
def filter_tools(host: Host) -> tuple[str, ...]:
    """The tools for packet filters that are installed."""
    tools = tuple(host.evidence.text(_section(host, "libvirt_rules", "tools")).split())
    if set(tools) - {"nft", "iptables-save", "ip6tables-save"}:
        raise EvidenceMissing(Cause.UNPARSABLE, f"not tools for packet filters: {' '.join(tools)[:60]!r}", "libvirt_rules")
    return tools


@fact
def libvirt_rules(host: Host) -> LibvirtRules:
    """Packet filter rules of libvirt. A tool whose modules are not loaded is not asked: there are no rules then."""
    rules: dict[str, tuple[str, ...]] = {}
    for key in host.evidence.keyed("libvirt_rules"):
        place = f"libvirt_rules{KEY_SEPARATOR}{key}"
        if key == "nft":
            tables = host.evidence.parsed(place, parse_nft_tables)
            for family in ("ip", "ip6"):
                if f"{family} libvirt_network" in tables and f"nft/{family}" not in host.evidence.keyed("libvirt_rules"):
                    raise EvidenceMissing(Cause.FAILED, f"nft did not show table {family} libvirt_network", place)
        elif key.startswith("nft/"):
            rules[f"table {key.removeprefix('nft/')} libvirt_network"] = host.evidence.parsed(place, parse_nft_table)
        elif key.endswith("tables-save"):
            rules[key] = host.evidence.parsed(place, parse_iptables)
    return LibvirtRules(filter_tools(host), rules)
