"""libvirt's side of a host: its daemon, its domains, and the QEMU processes that run them."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from pytest_kvmcheck.errors import Cause, EvidenceMissing, ParseError
from pytest_kvmcheck.evidence import KEY_SEPARATOR, NOT_PERMITTED, Record, parsing
from pytest_kvmcheck.facts.domain import DomainXml, parse_domain
from pytest_kvmcheck.facts.domainlist import parse_uuids
from pytest_kvmcheck.facts.dominfo import DomInfo, parse_dominfo, parse_state
from pytest_kvmcheck.facts.domstats import DomStats, parse_domstats
from pytest_kvmcheck.facts.pool import Info, Pool, parse_info, parse_pool
from pytest_kvmcheck.facts.virtnet import VirtNetwork, parse_network
from pytest_kvmcheck.facts.virttables import parse_table
from pytest_kvmcheck.gather import budget
from pytest_kvmcheck.probes import PROBES
from pytest_kvmcheck.views.host import Host, fact

T = TypeVar("T")

_NO_POLKIT = re.compile(r"system bus|\bD-?Bus\b|PolicyKit1? was not provided", re.IGNORECASE)

#: The check that reports a libvirt daemon that does not answer; what depends on it is blocked by it.
DAEMON_CHECK = "KVM-SVC-001"


def virsh(host: Host, section: str) -> str:
    """Return what virsh answered to *section* (``all``, ``running``, ``capabilities`` ...).

    Raises :class:`EvidenceMissing`, blocked by ``DAEMON_CHECK``, when no connection came about.
    """
    _virsh_answered(host)
    probe = f"virsh{KEY_SEPARATOR}{section}"
    if probe not in host.evidence.records:
        host.evidence.whole("virsh")  # it was stopped before it came to this
    record = host.evidence.whole(probe)
    if record.stdout.startswith("error:"):
        raise EvidenceMissing(Cause.FAILED, f"virsh {section}: {record.complaint}", record.probe)
    return record.stdout


@fact
def _virsh_answered(host: Host) -> bool:
    return _answered(host, "virsh")


def _answered(host: Host, probe: str) -> bool:
    """Raise :class:`EvidenceMissing`, blocked by ``DAEMON_CHECK``, when *probe*, a call of virsh, got no connection.

    One that was stopped half-way got one: what it told until then holds.
    """
    record = host.evidence.record(probe)
    if record.cause is Cause.TIMEOUT and len(host.evidence.keyed(probe)) > 1:
        return True
    # Only the first question tells of the daemon when time runs out: the others are about domains, one of which may hang.
    ours = record.cause is Cause.TIMEOUT and not (probe == "virsh" and daemon_hangs(record))
    if ours or record.cause in (Cause.LOST, Cause.NOT_COLLECTED, Cause.TRUNCATED):
        host.evidence.whole(probe)
    if record.cause or (record.rc and not host.evidence.keyed(probe)) or record.stdout.strip():
        why = f"{record.cause}: {record.complaint}" if record.cause else record.complaint
        what = "libvirt refuses to answer" if refusal(record) else "no libvirt daemon answers"
        raise EvidenceMissing(Cause.BLOCKED, f"{what} ({why})", probe, DAEMON_CHECK)
    return True


def daemon_hangs(record: Record) -> bool:
    """Return whether virsh waited for the daemon for as long as it was given."""
    return record.overran(PROBES["virsh"].timeout_s)


def refusal(record: Record) -> Cause | None:
    """Return why a call of virsh was refused by a daemon that is there: not permitted, or it failed to find out whether it is.

    None when nothing says that anybody is there. Without polkit, or D-Bus to ask it, libvirtd refuses all but root.
    """
    said = f"{record.stderr}\n{record.stdout}"
    if _NO_POLKIT.search(said):
        return Cause.FAILED
    return Cause.NOT_PERMITTED if NOT_PERMITTED.search(said) else None


#: The same for other views whose probes call virsh.
answered = _answered


@dataclass(eq=False)
class Domain:
    """A domain of a host. What its definitions could not tell is raised as :class:`EvidenceMissing` when it is asked for."""

    host: Host
    uuid: str

    @cached_property
    def name(self) -> str:
        """The domain's name; its UUID when no definition can be read."""
        with self.host.evidence.quietly():
            for part in ("saved", "live"):
                try:
                    return self._parsed(part).name
                except EvidenceMissing:
                    continue
        return self.uuid

    def _parsed(self, part: str) -> DomainXml:
        probe = f"domain{KEY_SEPARATOR}{self.uuid}/{part}"
        known = self._definitions.get(part)
        if known is None:
            try:
                known = self.host.evidence.parsed(probe, parse_domain)
            except EvidenceMissing as exc:
                known = exc
            self._definitions[part] = known
        else:
            self.host.evidence.note(probe)
        if isinstance(known, EvidenceMissing):
            raise known.with_traceback(None)
        return known

    @cached_property
    def _definitions(self) -> dict[str, DomainXml | EvidenceMissing]:
        return {}

    @property
    def saved(self) -> DomainXml:
        """What the domain will be at its next start (``dumpxml --inactive``)."""
        return self._parsed("saved")

    @property
    def live(self) -> DomainXml:
        """What the domain is now; only of a running one."""
        return self._parsed("live")

    @property
    def running(self) -> bool:
        """Whether the domain runs."""
        return self.uuid in running_uuids(self.host)

    @property
    def autostart(self) -> bool:
        """Whether the domain starts with the host."""
        return self.uuid in autostart_uuids(self.host)

    @property
    def persistent(self) -> bool:
        """Whether the domain has a saved definition; a transient one is gone when it stops."""
        return self.uuid in persistent_uuids(self.host)

    @property
    def tags(self) -> frozenset[str]:
        """Tags by the inventory, and by the metadata of the domain itself."""
        tags = set(self.saved.tags)
        for pattern, names in self.host.target.tags:
            if fnmatch.fnmatchcase(self.name, pattern):
                tags |= names
        return frozenset(tags)

    @property
    def critical(self) -> bool:
        """Whether someone depends on this domain: tagged critical, database or realtime."""
        return bool(self.tags & {"critical", "database", "realtime"})

    @property
    def info(self) -> DomInfo:
        """State and messages of the domain (``virsh dominfo``)."""
        return self.host.evidence.parsed(f"domain{KEY_SEPARATOR}{self.uuid}/info", parse_dominfo)

    @property
    def state(self) -> str:
        """State and reason (``virsh domstate --reason``): ``running (booted)``, ``paused (migrating)`` ..."""
        return self.host.evidence.parsed(f"domain{KEY_SEPARATOR}{self.uuid}/state", parse_state)

    @property
    def stats(self) -> DomStats:
        """Counters of the domain, first sample; only of a running one."""
        return self._stats("domstats")

    @property
    def stats_later(self) -> DomStats:
        """Counters of the vCPUs, second sample; ``seconds_between`` tells how much later."""
        return self._stats("domstats_later")

    def _stats(self, probe: str) -> DomStats:
        _answered(self.host, probe)
        return self.host.evidence.parsed(f"{probe}{KEY_SEPARATOR}{self.uuid}", parse_domstats)

    @property
    def snapshots(self) -> str:
        """The table of ``virsh snapshot-list``."""
        return self.host.evidence.text(f"domain{KEY_SEPARATOR}{self.uuid}/snapshots")

    def __str__(self) -> str:
        return self.name


def _uuids(host: Host, section: str) -> frozenset[str]:
    probe = f"virsh{KEY_SEPARATOR}{section}"
    found = frozenset(parsing(probe, parse_uuids, virsh(host, section)))
    if len(found) > budget.DOMAINS:
        raise EvidenceMissing(Cause.TRUNCATED, f"{host} lists {len(found)} domains, more than {budget.DOMAINS}", probe)
    return found


@fact
def running_uuids(host: Host) -> frozenset[str]:
    """UUIDs of the domains that run."""
    return _uuids(host, "running")


@fact
def autostart_uuids(host: Host) -> frozenset[str]:
    """UUIDs of the domains that start with the host."""
    return _uuids(host, "autostart")


@fact
def persistent_uuids(host: Host) -> frozenset[str]:
    """UUIDs of the domains that have a saved definition."""
    return _uuids(host, "persistent")


def _sorted(host: Host, uuids: Iterable[str]) -> tuple[Domain, ...]:
    return tuple(sorted((Domain(host, uuid) for uuid in uuids), key=lambda domain: (domain.name, domain.uuid)))


@fact
def domains(host: Host) -> tuple[Domain, ...]:
    """All domains of the host, sorted by name. Some definitions without the list of all are not all domains."""
    if host.evidence.partial and f"virsh{KEY_SEPARATOR}all" not in host.evidence.records and not host.evidence.failure:
        raise EvidenceMissing(Cause.NOT_COLLECTED, "which domains there are was not collected", "virsh")
    return _sorted(host, _uuids(host, "all"))


def known_domains(host: Host) -> tuple[tuple[Domain, ...], EvidenceMissing | None]:
    """Return the domains that can be judged one by one, and what is missing when there may be others.

    A sosreport holds the definitions that sos copied, and often no list of all domains.
    """
    try:
        return domains(host), None
    except EvidenceMissing as missing:
        if not host.evidence.partial or missing.cause is not Cause.NOT_COLLECTED:
            raise
        return _sorted(host, {key.partition("/")[0] for key in host.evidence.keyed("domain")}), missing


@fact
def owners_of_macs(host: Host) -> tuple[dict[str, list[Domain]], EvidenceMissing | None]:
    """Return the domains by the MAC addresses of their cards, and what is missing when there may be others."""
    owners: dict[str, list[Domain]] = {}
    known, missing = known_domains(host)
    for domain in known:
        try:
            attached = domain.live.nics if domain.running else ()
            for mac in {nic.name.lower() for nic in (*domain.saved.nics, *attached)}:
                owners.setdefault(mac, []).append(domain)
        except EvidenceMissing as exc:
            missing = missing or exc
    return owners, missing


def running_domains(host: Host) -> list[Domain]:
    """Return the domains that run."""
    return [domain for domain in domains(host) if domain.running]


@fact
def uptime(host: Host) -> float:
    """Seconds since the host was booted, when the first sample of the domains' counters was taken."""
    return _uptime_at(host, "domstats")


@fact
def seconds_between_stats(host: Host) -> float:
    """Seconds between the first and the second sample of the domains' counters, by the host's uptime."""
    return _uptime_at(host, "domstats_later") - uptime(host)


def _uptime_at(host: Host, probe: str) -> float:
    _answered(host, probe)
    return host.evidence.parsed(f"{probe}{KEY_SEPARATOR}uptime", _uptime)


def _uptime(text: str) -> float:
    try:
        return float(text.strip())
    except ValueError:
        raise ParseError(f"not an uptime: {text.strip()[:40]!r}") from None


def _objects(host: Host, kind: str, parse: Callable[[str], T]) -> tuple[tuple[T, Info], ...]:
    _answered(host, "objects")
    # With the secondary daemon of this kind down, the list is an error, and "none" would be a lie.
    if f"{kind}s" in host.evidence.keyed("objects") or host.evidence.partial:
        host.evidence.parsed(f"objects{KEY_SEPARATOR}{kind}s", parse_uuids)
    found = []
    for key in host.evidence.keyed("objects"):
        if key.startswith(f"{kind}/") and key.endswith("/xml"):
            place = f"objects{KEY_SEPARATOR}{key.removesuffix('/xml')}"
            found.append((host.evidence.parsed(f"{place}/xml", parse), host.evidence.parsed(f"{place}/info", parse_info)))
    return tuple(found)


@fact
def filters(host: Host) -> frozenset[str]:
    """Names of the network filters that are defined."""
    _answered(host, "objects")
    return frozenset(host.evidence.parsed(f"objects{KEY_SEPARATOR}filters", parse_table).values())


@fact
def secrets(host: Host) -> dict[str, str]:
    """Use of the secrets that are defined, by UUID."""
    _answered(host, "objects")
    return host.evidence.parsed(f"objects{KEY_SEPARATOR}secrets", parse_table)


@fact
def networks(host: Host) -> dict[str, tuple[VirtNetwork, Info]]:
    """Networks of libvirt and their state by name; those that are off too."""
    return {network.name: (network, info) for network, info in _objects(host, "net", parse_network)}


@fact
def storage_pools(host: Host) -> dict[str, tuple[Pool, Info]]:
    """Storage pools of libvirt and their state by name; those that are off too."""
    return {pool.name: (pool, info) for pool, info in _objects(host, "pool", parse_pool)}
