"""Checks of huge pages and of guest memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from pytest_kvmcheck import Findings, Params, Severity, check, note
from pytest_kvmcheck.conditions import condition
from pytest_kvmcheck.facts.numa import NumaNode
from pytest_kvmcheck.views.domains import Domain, domains, running_domains
from pytest_kvmcheck.views.host import Host, fact
from pytest_kvmcheck.views.memory import (
    choice,
    default_page_bytes,
    meminfo,
    node_pools,
    numa_nodes,
    pools,
    requested_pages,
)
from pytest_kvmcheck.views.placement import size

MIB = 2**20
GIB = 2**30


@dataclass(frozen=True)
class Need:
    """Huge pages that one domain needs: of a size, on a host node (None: any), and whether it runs now."""

    domain: str
    page_bytes: int
    node: frozenset[int] | None
    pages: int
    running: bool


@fact
def huge_page_needs(host: Host) -> tuple[Need, ...]:
    """What running domains hold, and what those that must start (autostart, critical) will need."""
    return tuple(need for domain in domains(host) for need in _needs(domain))


def _needs(domain: Domain) -> Iterator[Need]:
    running = domain.running
    if not running and not (domain.autostart or domain.critical):
        return
    xml = domain.live if running else domain.saved
    if xml.hugepages is None:
        return
    default = default_page_bytes(domain.host)
    everywhere = next((page.size_bytes for page in xml.hugepages if page.nodeset is None), default)
    everything = xml.numatune_nodeset if xml.numatune_mode == "strict" else None
    if not xml.cells:
        yield Need(domain.name, everywhere, everything, -(-xml.memory_bytes // everywhere), running)
    for cell in xml.cells:
        own = next((page.size_bytes for page in xml.hugepages if page.nodeset and cell.id in page.nodeset), everywhere)
        node = cell.memnode if cell.memnode is not None and cell.memnode_mode == "strict" else everything
        if cell.memnode is not None and cell.memnode_mode != "strict":
            node = None
        yield Need(domain.name, own, node, -(-cell.memory_bytes // own), running)


@condition
def huge_pages_used(host: Host) -> str | None:
    """Hold where a domain that runs or has to start uses huge pages."""
    if any(domain.saved.hugepages is not None for domain in domains(host)):
        return None
    return "no domain uses huge pages"


def _who(needs: list[Need]) -> str:
    totals: dict[str, int] = defaultdict(int)
    for need in needs:
        totals[need.domain] += need.pages
    return ", ".join(f"{name} ({pages})" for name, pages in sorted(totals.items())[:8]) + (" ..." if len(totals) > 8 else "")


@check(
    "KVM-MEM-001",
    title="The huge-page pool covers every domain that needs it, per size and node",
    severity=Severity.HIGH,
    reads=("virsh", "domain", "hugepages", "hugepages_node", "numa", "meminfo", "cpu_lists"),
    applies=huge_pages_used,
)
def test_pool_covers_domains(host: Host, numa_node: NumaNode) -> None:
    """Each guest that runs on huge pages, or has to start on them, finds its pages on the node where it wants them.

    What it checks
        For each page size: what domains bound strictly to this node need is in its pool, and what those of them need that are
        off is free there. On the first node, the same summed over the whole host, for domains that may use any node. Domains
        that run, have autostart or are critical count.

    Why it matters
        A domain with huge pages does not start when the pool of the right size on the right node is short.

    How to fix
        now: virsh allocpages --pagesize 2048 --pagecount COUNT --cellno $NODE (memory may be too fragmented for all of them)
        after a reboot: hugepagesz=2M hugepages=COUNT on the kernel command line, or vm.nr_hugepages in /etc/sysctl.d
        roll back: the same with the former count
        verify: grep . /sys/devices/system/node/node$NODE/hugepages/*/nr_hugepages

    When not to
        Domains that are never started on this host can be left without autostart.

    References
        https://docs.kernel.org/admin-guide/mm/hugetlbpage.html
        https://libvirt.org/formatdomain.html#memory-backing
    """
    with Findings() as findings:
        needs = huge_page_needs(host)
        here = [need for need in needs if need.node == frozenset({numa_node.id})]
        for page in sorted({need.page_bytes for need in here}):
            mine = [need for need in here if need.page_bytes == page]
            pool = node_pools(host).get((numa_node.id, page))
            if pool is None:
                findings.fail(f"{host}: node {numa_node.id} has no pool of {size(page)} pages, needed by {_who(mine)}.")
                continue
            total, off = sum(need.pages for need in mine), sum(need.pages for need in mine if not need.running)
            if total > pool.total:
                findings.fail(
                    f"{host}: {size(page)} pages on node {numa_node.id}: {pool.total} in the pool, {total} needed by {_who(mine)}."
                )
            elif off > pool.free:
                findings.fail(
                    f"{host}: {size(page)} pages on node {numa_node.id}: {pool.free} free, {off} needed by domains that are off."
                )
        if numa_node.id != min(node.id for node in numa_nodes(host)):
            return
        for page in sorted({need.page_bytes for need in needs}):
            mine = [need for need in needs if need.page_bytes == page]
            whole = pools(host).get(page)
            total, off = sum(need.pages for need in mine), sum(need.pages for need in mine if not need.running)
            if whole is None:
                findings.fail(f"{host}: no pool of {size(page)} pages, needed by {_who(mine)}.")
            elif total > whole.total:
                findings.fail(f"{host}: {size(page)} pages: {whole.total} in the pool, {total} needed by {_who(mine)}.")
            elif off > whole.free - whole.reserved:
                findings.fail(
                    f"{host}: {size(page)} pages: {whole.free - whole.reserved} free, {off} needed by domains that are off."
                )


@condition
def pages_wanted(host: Host) -> str | None:
    """Hold where huge pages are asked for at boot, or are in a pool."""
    if any(pool.total for pool in pools(host).values()) or any(
        count for sources in requested_pages(host).values() for count in sources.values()
    ):
        return None
    return "no huge pages are requested, and the pools are empty"


@check(
    "KVM-MEM-002",
    title="The huge-page pool is exactly what was requested: complete, without surplus, not idle",
    severity=Severity.HIGH,
    reads=("hugepages", "cmdline", "meminfo", "sysctl_files", "virsh", "domain"),
    params={"max_overcommit": 0, "max_idle_ratio": 0.25},
    applies=pages_wanted,
)
def test_pool_is_as_requested(host: Host, params: Params) -> None:
    """The kernel gave all the pages it was asked for, makes no more of them on demand, and few lie idle.

    What it checks
        Per size: the pool holds what sysctl.d (default size only) or else the kernel command line asks for, has no surplus pages
        and no more overcommit than allowed. Pages that neither run nor are planned for guests that must start are a warning
        above max_idle_ratio.

    Why it matters
        The kernel silently allocates fewer pages than asked; surplus pages come and go; idle ones are lost to all others.

    How to fix
        now: free memory (echo 1 > /proc/sys/vm/compact_memory) and ask again: sysctl -w vm.nr_hugepages=COUNT
        after a reboot: reserve on the kernel command line, where memory is not fragmented yet
        verify: grep . /sys/kernel/mm/hugepages/*/*_hugepages

    When not to
        Overcommit may be wanted on test hosts.

    References
        https://docs.kernel.org/admin-guide/mm/hugetlbpage.html
    """
    with Findings() as findings:
        requested = requested_pages(host)
        for page in sorted(set(requested) | set(pools(host))):
            sources, pool = requested.get(page, {}), pools(host).get(page)
            wanted = sources.get("sysctl.d", sources.get("command line", 0))
            source = "sysctl.d" if "sysctl.d" in sources else "the command line"
            if pool is None:
                findings.fail_if(wanted > 0, f"{host}: no pool of {size(page)} pages, though {source} asks for {wanted}.")
                continue
            findings.fail_if(pool.total < wanted, f"{host}: {pool.total} of {wanted} {size(page)} pages that {source} asks for.")
            findings.fail_if(pool.surplus > 0, f"{host}: {pool.surplus} surplus pages of {size(page)}, expected none.")
            findings.fail_if(
                pool.overcommit > params.max_overcommit,
                f"{host}: nr_overcommit_hugepages of {size(page)} is {pool.overcommit}, at most {params.max_overcommit} allowed.",
            )
        for page, pool in sorted(pools(host).items()):
            if not pool.total:
                continue
            planned = sum(need.pages for need in huge_page_needs(host) if need.page_bytes == page and not need.running)
            idle = (pool.free - pool.reserved - planned) / pool.total
            if idle > params.max_idle_ratio:
                findings.warn(
                    f"{host}: {idle:.0%} of {pool.total} {size(page)} pages are idle, {params.max_idle_ratio:.0%} allowed."
                )


@condition
def pool_filled(host: Host) -> str | None:
    """Hold where a pool has pages."""
    return None if any(pool.total for pool in pools(host).values()) else "the huge-page pools are empty"


@check(
    "KVM-MEM-003",
    title="The huge-page reservation survives a reboot",
    severity=Severity.MEDIUM,
    reads=("hugepages", "cmdline", "meminfo", "sysctl_files", "hugepage_sources"),
    applies=pool_filled,
)
def test_pool_survives_reboot(host: Host) -> None:
    """What is in the pool now comes from a file or the kernel command line, not from someone's shell.

    What it checks
        Each size with pages has a source at boot that yields as many: sysctl.d (default size only) or the kernel command line.
        Only a unit, tmpfiles or TuneD file that mentions huge pages is a warning, as its number is not computed; so are 1 GiB
        pages that do not come from the kernel command line.

    Why it matters
        A reservation made by echo or ``sysctl -w`` is gone after a reboot, and guests do not start.

    How to fix
        now: nothing is wrong until the reboot
        after a reboot: echo 'vm.nr_hugepages = COUNT' > /etc/sysctl.d/80-hugepages.conf, or hugepagesz= and hugepages= on the
            kernel command line (grubby, grub2-mkconfig)
        verify: grep -rs nr_hugepages /etc/sysctl.d /etc/sysctl.conf; cat /proc/cmdline

    When not to
        Test hosts.

    References
        https://docs.kernel.org/admin-guide/mm/hugetlbpage.html
        https://www.freedesktop.org/software/systemd/man/latest/sysctl.d.html
    """
    requested = requested_pages(host)
    with Findings() as findings:
        for page, pool in sorted(pools(host).items()):
            if not pool.total:
                continue
            sources = requested.get(page, {})
            # sysctl.d is applied after the command line and wins, upwards and downwards.
            found = sources.get("sysctl.d", sources.get("command line", 0))
            if found < pool.total:
                others = host.evidence.text("hugepage_sources").split()
                what = f"{host}: {pool.total} pages of {size(page)} now, {found} after a reboot"
                if others:
                    findings.warn(f"{what} by sysctl.d and command line; {', '.join(others[:4])} may add some.")
                else:
                    findings.fail(f"{what}.")
            elif page >= GIB and "command line" not in sources:
                findings.warn(f"{host}: {size(page)} pages are not reserved on the kernel command line, and may not be had later.")


@check(
    "KVM-MEM-005",
    title="Transparent huge pages are available to guests",
    severity=Severity.MEDIUM,
    reads=("thp", "virsh", "domain"),
    params={"latency_sensitive": False, "allowed": ("always", "madvise")},
)
def test_transparent_huge_pages(host: Host, params: Params) -> None:
    """Guest memory can be backed by huge pages without anyone reserving them.

    What it checks
        /sys/kernel/mm/transparent_hugepage/enabled is one of the allowed values, or all domains use static huge pages. Where
        latency matters, defrag is not always.

    Why it matters
        QEMU asks for huge pages with madvise, so madvise gives them to guests and to nobody else.

    How to fix
        now: echo madvise > /sys/kernel/mm/transparent_hugepage/enabled
        after a reboot: transparent_hugepage=madvise on the kernel command line, or a TuneD profile
        verify: grep . /sys/kernel/mm/transparent_hugepage/enabled /sys/kernel/mm/transparent_hugepage/defrag

    When not to
        Advice to switch them off for databases is meant for the inside of the guest.

    References
        https://docs.kernel.org/admin-guide/mm/transhuge.html
    """
    root = "/sys/kernel/mm/transparent_hugepage"
    enabled = choice(host, "thp", f"{root}/enabled")
    with Findings() as findings:
        if params.latency_sensitive and choice(host, "thp", f"{root}/defrag") == "always":
            findings.fail(f"{host}: transparent_hugepage/defrag is always: guests wait while memory is defragmented.")
        if enabled in params.allowed:
            return
        found = domains(host)
        if not found or not all(domain.saved.hugepages is not None for domain in found):
            expected = " or ".join(params.allowed)
            findings.fail(f"{host}: transparent_hugepage/enabled is {enabled}, expected {expected}.")
        else:
            note(f"enabled is {enabled}, but all domains use static huge pages")


@check(
    "KVM-MEM-007",
    title="Locked guest memory is bounded by hard_limit",
    severity=Severity.HIGH,
    reads=("virsh", "domain", "meminfo"),
    params={"min_overhead_mib": 1024, "reserve_mib": 4096},
)
def test_locked_memory_is_bounded(host: Host, domain: Domain, params: Params) -> None:
    """A guest whose memory is locked cannot take all memory of the host with it.

    What it checks
        A domain with <locked/> has a hard_limit of at least its RAM, its video RAM and min_overhead_mib; all running locked
        domains together leave min(reserve_mib, 10 %) of the host's memory.

    Why it matters
        libvirt lifts the memlock limit of locked guests: a hostile one could pin all memory of the host.

    How to fix
        now: virsh memtune $DOM --hard-limit KIB --live
        after a reboot: virsh memtune $DOM --hard-limit KIB --config, with generous headroom; or remove <locked/>
        verify: virsh memtune $DOM

    When not to
        Hosts without swap and guests on huge pages need no <locked/> at all.

    References
        https://libvirt.org/formatdomain.html#memory-backing
        https://libvirt.org/formatdomain.html#memory-tuning
    """
    running = domain.running
    xml = domain.live if running else domain.saved
    if not xml.locked:
        note("not locked")
        return
    needed = xml.memory_bytes + xml.video_ram_bytes + params.min_overhead_mib * MIB
    with Findings() as findings:
        if xml.hard_limit_bytes is None:
            findings.fail(f"{domain}: memory is locked without a hard_limit; expected {needed // MIB} MiB or more.")
        elif xml.hard_limit_bytes < needed:
            findings.fail(f"{domain}: hard_limit is {xml.hard_limit_bytes // MIB} MiB, expected {needed // MIB} MiB or more.")
        if running:
            total = meminfo(host)["MemTotal"]
            reserve = min(params.reserve_mib * MIB, total // 10)
            locked = _locked_bytes(host)
            if locked > total - reserve:
                findings.fail(
                    f"{domain}: locked domains may take {locked // MIB} of {total // MIB} MiB; {reserve // MIB} MiB have to stay."
                )


@fact
def _locked_bytes(host: Host) -> int:
    """What all running locked domains may take."""
    definitions = [domain.live for domain in running_domains(host)]
    return sum(xml.hard_limit_bytes or xml.memory_bytes for xml in definitions if xml.locked)
