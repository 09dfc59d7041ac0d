"""Checks of huge pages and of guest memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from pytest_kvmcheck import Choice, EvidenceMissing, Findings, Items, Number, Params, Severity, Whole, check, note
from pytest_kvmcheck.conditions import condition
from pytest_kvmcheck.errors import Cause
from pytest_kvmcheck.evidence import parsing
from pytest_kvmcheck.facts.hugepages import parse_size
from pytest_kvmcheck.facts.listing import parse_paths
from pytest_kvmcheck.facts.mounts import Mount
from pytest_kvmcheck.facts.numa import NumaNode
from pytest_kvmcheck.facts.procfs import size as process_size
from pytest_kvmcheck.views.domains import Domain, domains, running_domains
from pytest_kvmcheck.views.host import Host, fact
from pytest_kvmcheck.views.memory import (
    choice,
    default_page_bytes,
    login_limits,
    meminfo,
    node_pools,
    numa_nodes,
    pools,
    requested_pages,
    swaps,
    sysctl_conf,
    sysctl_passed_over,
    thp_exists,
    vm_setting,
)
from pytest_kvmcheck.views.placement import size
from pytest_kvmcheck.views.processes import cgroup_file, limits_of, out_of_memory_of, status_of, strays
from pytest_kvmcheck.views.services import qemu_conf
from pytest_kvmcheck.views.system import counters, mounts

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


#: The modes of <numatune> that leave memory no other node: by policy, or by the cgroup alone.
_BINDING = ("strict", "restrictive")


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
    everything = xml.numatune_nodeset if xml.numatune_mode in _BINDING else None
    if not xml.cells and (everywhere := xml.huge_page_of(None, default)):
        yield Need(domain.name, everywhere, everything, -(-xml.memory_bytes // everywhere), running)
    for cell in xml.cells:
        own = xml.huge_page_of(cell.id, default)
        if own is None:
            continue
        node = cell.memnode if cell.memnode is not None and cell.memnode_mode in _BINDING else everything
        if cell.memnode is not None and cell.memnode_mode not in _BINDING:
            node = None
        yield Need(domain.name, own, node, -(-cell.memory_bytes // own), running)


@condition
def huge_pages_used(host: Host) -> str | None:
    """Hold where a domain uses huge pages, or will at its next start."""
    for domain in domains(host):
        if domain.saved.hugepages is not None or (domain.running and domain.live.hugepages is not None):
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
        For each page size: what domains bound to this node (mode strict or restrictive) need is in its pool, and what those of
        them need that are off is free there. On the first node, the same summed over the whole host, for domains that may use any
        node. Domains that run, have autostart or are critical count.

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
    params={"max_overcommit": Whole(0, 0, 100_000), "max_idle_ratio": Number(0.25, 0, 0.95)},
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
        roll back: the same with the former count
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
        Only a unit (other than a mount), tmpfiles or TuneD file that mentions huge pages is a warning, as its number is not
        computed; so are 1 GiB pages that do not come from the kernel command line. /etc/sysctl.conf counts where a file of
        sysctl.d links to it: systemd reads nothing else, and Debian 13 has no such link.

    Why it matters
        A reservation made by echo or ``sysctl -w`` is gone after a reboot, and guests do not start.

    How to fix
        now: nothing is wrong until the reboot
        after a reboot: echo 'vm.nr_hugepages = COUNT' > /etc/sysctl.d/80-hugepages.conf, or hugepagesz= and hugepages= on the
            kernel command line (grubby, grub2-mkconfig)
        roll back: remove the file; the former kernel command line, and reboot
        verify: grep -rs nr_hugepages /etc/sysctl.d /run/sysctl.d /usr/lib/sysctl.d; cat /proc/cmdline

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
                # A mount unit says where pages can be had, and reserves none.
                others = [path for path in host.evidence.parsed("hugepage_sources", parse_paths) if not path.endswith(".mount")]
                what = f"{host}: {pool.total} pages of {size(page)} now, {found} after a reboot"
                if page == default_page_bytes(host) and "vm.nr_hugepages" in sysctl_passed_over(host):
                    what += " (systemd does not read /etc/sysctl.conf here: no file of sysctl.d links to it)"
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
    reads=("thp", "cpu_lists", "virsh", "domain"),
    params={"latency_sensitive": False, "allowed": Items(("always", "madvise"), Choice("always", "madvise", "never"), least=1)},
)
def test_transparent_huge_pages(host: Host, params: Params) -> None:
    """Guest memory can be backed by huge pages without anyone reserving them.

    What it checks
        /sys/kernel/mm/transparent_hugepage/enabled is one of the allowed values, or all domains use static huge pages. Where
        latency matters, defrag is not always. A kernel without transparent huge pages (PREEMPT_RT) counts as never.

    Why it matters
        QEMU asks for huge pages with madvise, so madvise gives them to guests and to nobody else.

    How to fix
        now: echo madvise > /sys/kernel/mm/transparent_hugepage/enabled
        after a reboot: transparent_hugepage=madvise on the kernel command line, or a TuneD profile
        roll back: echo the former word into the same file; the former kernel command line, and reboot, or the former TuneD profile
        verify: grep . /sys/kernel/mm/transparent_hugepage/enabled /sys/kernel/mm/transparent_hugepage/defrag

    When not to
        Advice to switch them off for databases is meant for the inside of the guest.

    References
        https://docs.kernel.org/admin-guide/mm/transhuge.html
    """
    root = "/sys/kernel/mm/transparent_hugepage"
    there = thp_exists(host)
    enabled = choice(host, "thp", f"{root}/enabled") if there else "never"
    with Findings() as findings:
        if not there:
            note("the kernel has none, as if they were set to never")
        elif params.latency_sensitive and choice(host, "thp", f"{root}/defrag") == "always":
            findings.fail(f"{host}: transparent_hugepage/defrag is always: guests wait while memory is defragmented.")
        if enabled in params.allowed:
            return
        found = domains(host)
        if not found or not all(domain.saved.hugepages is not None for domain in found):
            expected = " or ".join(params.allowed)
            found_as = f"transparent_hugepage/enabled is {enabled}" if there else "the kernel has none (never)"
            findings.fail(f"{host}: {found_as}, expected {expected}.")
        else:
            note(f"enabled is {enabled}, but all domains use static huge pages")


@check(
    "KVM-MEM-007",
    title="Locked guest memory is bounded by hard_limit",
    severity=Severity.HIGH,
    reads=("virsh", "domain", "meminfo"),
    params={"min_overhead_mib": Whole(1024, 64, 65_536), "reserve_mib": Whole(4096, 256, 1_048_576)},
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
        roll back: virsh memtune $DOM --hard-limit KIB --live --config with the limit that virsh memtune $DOM told before (-1 for
            none)
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


@condition
def mounts_needed(host: Host) -> str | None:
    """Hold where a domain uses huge pages by way of hugetlbfs: memfd needs no mount."""
    used = [domain for domain in domains(host) if domain.saved.hugepages is not None]
    if not used:
        return "no domain uses huge pages"
    return None if any(domain.saved.memory_source != "memfd" for domain in used) else "all huge pages are memfd"


@check(
    "KVM-MEM-004",
    title="hugetlbfs is mounted for every page size in use and visible to libvirt",
    severity=Severity.MEDIUM,
    reads=("mounts", "qemu_conf", "virsh", "domain", "meminfo"),
    applies=mounts_needed,
)
def test_hugetlbfs_is_mounted(host: Host) -> None:
    """There is a directory for the huge pages of each guest, and libvirt knows it.

    What it checks
        For each page size that a domain uses there is a hugetlbfs mount of that size; one without the option pagesize serves the
        default size. hugetlbfs_mount in qemu.conf, if set, is not empty, names mounts that exist, and these serve all sizes.

    Why it matters
        Without a mount for its size, a guest on huge pages does not start, however many pages are free.

    How to fix
        now: mkdir -p /dev/hugepages1G && mount -t hugetlbfs -o pagesize=1G none /dev/hugepages1G, then restart libvirtd or
            virtqemud: it looks for mounts only when it starts
        after a reboot: systemctl enable dev-hugepages.mount; for 1 GiB pages a unit dev-hugepages1G.mount with
            Options=pagesize=1G, ordered before the libvirt daemon
        roll back: umount /dev/hugepages1G while no guest uses it
        verify: grep hugetlbfs /proc/mounts; grep hugetlbfs_mount /etc/libvirt/qemu.conf

    When not to
        Guests whose memory is backed by memfd do not need a mount.

    References
        https://docs.kernel.org/admin-guide/mm/hugetlbpage.html
        https://libvirt.org/formatdomain.html#memory-backing
    """
    users: dict[int, list[str]] = defaultdict(list)
    for domain in domains(host):
        xml = domain.saved
        if xml.hugepages is None or xml.memory_source == "memfd":
            continue
        cells: list[int | None] = [cell.id for cell in xml.cells] or [None]
        for page in {xml.huge_page_of(cell, default_page_bytes(host)) for cell in cells}:
            if page:
                users[page].append(domain.name)
    found = {mount.target: _page_of_mount(host, mount) for mount in mounts(host) if mount.type == "hugetlbfs"}
    with Findings() as findings:
        for page, names in sorted(users.items()):
            findings.fail_if(
                page not in found.values(),
                f"{host}: no hugetlbfs mount with pages of {size(page)}, needed by {', '.join(sorted(names)[:8])}.",
            )
        text = host.evidence.files("qemu_conf").get("/etc/libvirt/qemu.conf")
        setting = qemu_conf(host).get("hugetlbfs_mount") if text is not None else None
        if setting is None:
            return
        named = [place.rstrip("/") for place in ((str(setting),) if isinstance(setting, str | int) else setting) if place]
        if not named:
            findings.fail(
                f'{host}: hugetlbfs_mount in qemu.conf is "", which forbids huge pages; expected the mounts, or no such line.'
            )
            return
        for place in named:
            findings.fail_if(place not in found, f"{host}: hugetlbfs_mount names {place[:80]}, where no hugetlbfs is mounted.")
        for page, names in sorted(users.items()):
            findings.fail_if(
                page in found.values() and page not in {found[place] for place in named if place in found},
                f"{host}: hugetlbfs_mount names no mount with pages of {size(page)}, needed by {', '.join(sorted(names)[:8])}.",
            )


def _page_of_mount(host: Host, mount: Mount) -> int:
    """Return the page size of a hugetlbfs mount: the kernel writes 1 GiB as 1024M."""
    option = mount.option("pagesize")
    return parsing("mounts", parse_size, option) if option else default_page_bytes(host)


@check(
    "KVM-MEM-006",
    title="Large or critical guests use static huge pages",
    severity=Severity.LOW,
    reads=("virsh", "domain", "qemu_process", "qemu_proc"),
    params={"large_guest_gib": Number(32, 0, 1024)},
)
def test_large_guests_use_huge_pages(domain: Domain, params: Params) -> None:
    """The memory of guests that matter lies on reserved huge pages.

    What it checks
        A domain tagged critical, database or realtime, or with large_guest_gib of memory or more, has <hugepages/> in its saved
        definition; while it runs, at least 95 % of its memory is on huge pages (HugetlbPages in /proc/PID/status).

    Why it matters
        They need fewer TLB entries and page tables, and are never swapped, merged or taken by a balloon.

    How to fix
        now: nothing can be done while it runs
        after a reboot: virsh edit $DOM: <memoryBacking><hugepages/></memoryBacking>, reserve the pages on the host first, and
            start it cold
        roll back: remove the element, and start it again
        verify: grep HugetlbPages /proc/PID/status

    When not to
        Hosts that overcommit memory. A guest with virtio-mem owns less memory than its definition allows.

    References
        https://libvirt.org/formatdomain.html#memory-backing
        https://docs.kernel.org/admin-guide/mm/hugetlbpage.html
    """
    saved = domain.saved
    large = saved.memory_bytes >= params.large_guest_gib * GIB
    if not (large or domain.critical):
        note(f"neither critical nor large ({saved.memory_bytes // MIB} MiB)")
        return
    who = f"{domain} ({'critical' if domain.critical else 'large'}, {saved.memory_bytes // MIB} MiB)"
    with Findings() as findings:
        findings.fail_if(saved.hugepages is None, f"{who}: its saved definition has no <hugepages/>.")
        if not domain.running:
            return
        live = domain.live
        if live.hugepages is None:
            findings.fail_if(saved.hugepages is not None, f"{who}: it runs without huge pages until it is started again.")
            return
        huge = parsing("qemu_proc", lambda status: process_size(status, "HugetlbPages"), status_of(domain))
        if huge is None:
            raise EvidenceMissing(Cause.MISSING, f"the kernel tells no HugetlbPages of {domain}", "qemu_proc")
        findings.fail_if(
            huge < live.memory_bytes * 0.95,
            f"{who}: {huge // MIB} of {live.memory_bytes // MIB} MiB are on huge pages now, expected 95 % or more.",
        )


@check(
    "KVM-MEM-008",
    title="hard_limit is absent, or large enough not to kill the guest",
    severity=Severity.MEDIUM,
    reads=("virsh", "domain", "qemu_process", "qemu_proc", "qemu_cgroup"),
    params={"min_overhead_mib": Whole(1024, 64, 65_536), "overhead_pct": Whole(10, 0, 100)},
)
def test_hard_limit_leaves_room(domain: Domain, params: Params) -> None:
    """No guest dies of a limit that forgot what QEMU itself needs.

    What it checks
        hard_limit is unset or unlimited, or at least memory, video RAM and the larger of min_overhead_mib and overhead_pct of
        the memory; in the saved definition and, of a running domain, in the live one. The cgroup of a running domain counts
        neither oom nor oom_kill.

    Why it matters
        At the limit the kernel kills QEMU, and what it needs besides the guest's memory cannot be foretold.

    How to fix
        now: virsh memtune $DOM --hard-limit -1 --live
        after a reboot: virsh memtune $DOM --hard-limit -1 --config; with <locked/> give it generous headroom instead
        roll back: virsh memtune $DOM --hard-limit KIB --live --config with the limit that virsh memtune $DOM told before
        verify: virsh memtune $DOM --config; cat /sys/fs/cgroup/machine.slice/machine-qemu*.scope/memory.events

    When not to
        <locked/> needs a hard_limit (KVM-MEM-007).

    References
        https://libvirt.org/formatdomain.html#memory-tuning
        https://docs.kernel.org/admin-guide/cgroup-v2.html
    """
    running = domain.running
    states = {"saved": domain.saved, "live": domain.live} if running else {"saved": domain.saved}
    with Findings() as findings:
        for state, xml in states.items():
            room = max(params.min_overhead_mib * MIB, xml.memory_bytes * params.overhead_pct // 100)
            needed = xml.memory_bytes + xml.video_ram_bytes + room
            if xml.hard_limit_bytes is not None and xml.hard_limit_bytes < needed:
                findings.fail(
                    f"{domain}: hard_limit in its {state} definition is {xml.hard_limit_bytes // MIB} MiB, expected none or"
                    f" {needed // MIB} MiB and more."
                )
        if not running:
            return
        counters = out_of_memory_of(domain)
        if counters is None and domain.live.hard_limit_bytes is not None:
            raise EvidenceMissing(Cause.MISSING, f"no cgroup tells whether {domain} hit its limit", "qemu_cgroup")
        if counters is None:
            note("no cgroup counts its memory")
            return
        bad = [f"{name} {count}" for name, count in counters.items() if count]
        findings.fail_if(bool(bad), f"{domain}: its cgroup ran out of memory: {', '.join(bad)}, expected 0.")


@condition
def domain_runs(domain: Domain) -> str | None:
    """Hold for domains that run."""
    return None if domain.running else "it does not run"


@check(
    "KVM-MEM-009",
    title="Critical guests run with their full memory (no balloon shrink)",
    severity=Severity.MEDIUM,
    reads=("virsh", "domain", "domstats"),
    params={"min_ratio": Number(0.5, 0.05, 1)},
    applies=domain_runs,
)
def test_balloon_is_not_shrunk(domain: Domain, params: Params) -> None:
    """Guests that matter have all the memory that they were sized for.

    What it checks
        virsh domstats: balloon.current is balloon.maximum for domains tagged critical, database or realtime, and at least
        min_ratio of it for the others. A saved currentMemory below memory of a critical domain is a warning: it is what its next
        start brings.

    Why it matters
        A balloon takes memory that a database has planned for its caches, and the guest starts to swap.

    How to fix
        now: virsh setmem $DOM FULL --live
        after a reboot: virsh setmem $DOM FULL --config
        roll back: virsh setmem $DOM SIZE --live --config with the former size
        verify: virsh domstats --balloon $DOM

    When not to
        Guests that are meant to give memory back (MoM of oVirt, desktops).

    References
        https://libvirt.org/formatdomain.html#memory-allocation
        https://libvirt.org/manpages/virsh.html#domstats
    """
    stats = domain.stats
    current, maximum = (parsing("domstats", stats.kib, f"balloon.{name}") for name in ("current", "maximum"))
    if not current or not maximum:
        raise EvidenceMissing(Cause.MISSING, f"domstats tells no balloon of {domain}", "domstats")
    least = maximum if domain.critical else int(maximum * params.min_ratio)
    with Findings() as findings:
        findings.fail_if(
            current < least,
            f"{domain}: it has {current // MIB} of {maximum // MIB} MiB now, expected {least // MIB} MiB"
            f"{' as it is critical' if domain.critical else ' or more'}.",
        )
        saved = domain.saved
        findings.warn_if(
            domain.critical and saved.current_memory_bytes < saved.memory_bytes,
            f"{domain}: currentMemory in its saved definition is {saved.current_memory_bytes // MIB} of"
            f" {saved.memory_bytes // MIB} MiB: it will be short of memory after its next start.",
        )


@check(
    "KVM-MEM-010",
    title="Host memory is not overcommitted beyond policy",
    severity=Severity.HIGH,
    reads=("meminfo", "hugepages", "virsh", "domain", "domstats"),
    params={"max_ratio": Number(1.5, 0.1, 16), "overhead_mib": Whole(300, 0, 16_384), "reserve_mib": Whole(4096, 0, 1_048_576)},
)
def test_memory_is_not_overcommitted(host: Host, params: Params) -> None:
    """If all guests used all the memory they were promised, the host would still do.

    What it checks
        A = MemTotal without all huge-page pools and without min(reserve_mib, 10 %). What running guests may take at most beside
        huge pages (balloon.maximum), with overhead_mib for each, is at most max_ratio times A.

    Why it matters
        Beyond that, one busy hour means swapping, or the kernel kills whole guests.

    How to fix
        now: migrate a guest away, or virsh setmem one to less
        after a reboot: virsh setmaxmem DOM SIZE --config, fewer guests, or more memory
        roll back: migrate it back; virsh setmaxmem and setmem with the former sizes
        verify: grep -E 'MemTotal|Hugetlb' /proc/meminfo; virsh domstats --balloon --list-running

    When not to
        Hosts of similar idle guests that share pages by KSM, with swap to fall back on. On OpenStack, max_ratio is the cloud's
        ram_allocation_ratio.

    References
        https://docs.kernel.org/mm/overcommit-accounting.html
        https://libvirt.org/manpages/virsh.html#domstats
    """
    fields = meminfo(host)
    total = fields["MemTotal"]
    reserved = fields.get("Hugetlb")
    if reserved is None:  # Linux before 4.19 tells only of pages of the default size
        reserved = sum(page * pool.total for page, pool in pools(host).items())
    usable = max(total - reserved - min(params.reserve_mib * MIB, total // 10), 0)
    promised = 0
    with Findings() as findings:
        running = running_domains(host)
        for domain in running:
            promised += params.overhead_mib * MIB
            try:
                live = domain.live
                maximum = live.memory_bytes if live.hugepages else parsing("domstats", domain.stats.kib, "balloon.maximum")
                if not maximum:
                    raise EvidenceMissing(Cause.MISSING, f"domstats tells no balloon of {domain}", "domstats")
                promised += maximum if live.hugepages is None else live.ordinary_memory_bytes
            except EvidenceMissing as missing:
                findings.unknown(missing)
        ratio = promised / usable if usable else float("inf")
        said = (
            f"{len(running)} running guests may take {promised // MIB} MiB beside huge pages, and {usable // MIB} MiB are for them"
        )
        findings.fail_if(
            promised > usable * params.max_ratio,
            f"{host}: {said}: {ratio:.2f} times as much, at most {params.max_ratio} allowed.",
        )
        if promised:
            note(f"{said} ({ratio:.2f}, at most {params.max_ratio})")


#: Two samples closer together than this tell no rate.
MIN_SECONDS = 2.0


@check(
    "KVM-MEM-011",
    title="No guest memory is swapped out on the host",
    severity=Severity.HIGH,
    reads=("virsh", "domain", "qemu_process", "qemu_proc", "qemu_cgroup", "counters", "counters_later"),
    params={"max_swap_mib": Whole(64, 0, 16_384), "max_rate_pages_s": Number(10, 0, 10_000)},
    applies=domain_runs,
)
def test_guest_is_not_swapped_out(host: Host, domain: Domain, params: Params) -> None:
    """All memory of the guest is in RAM, and the host does not page.

    What it checks
        VmSwap of the QEMU process and memory.swap.current of its cgroup (which knows shared memory too) are at most
        max_swap_mib; the host swaps in and out at most max_rate_pages_s between two samples.

    Why it matters
        The guest cannot see it: its memory is simply slow at times, and so is everything in it.

    How to fix
        now: find the overcommit (KVM-MEM-010), migrate a guest, then swapoff -a; swapon -a in a quiet hour
        after a reboot: less guest memory, vm.swappiness=10 (KVM-MEM-012), or huge pages, which are never swapped
        roll back: the former sizes and vm.swappiness; swap is used again by itself
        verify: grep VmSwap /proc/PID/status; cat /sys/fs/cgroup/machine.slice/machine-qemu*.scope/memory.swap.current

    When not to
        Hosts that overcommit memory on purpose.

    References
        https://docs.kernel.org/admin-guide/cgroup-v2.html
        https://man7.org/linux/man-pages/man5/proc_pid_status.5.html
    """
    limit = params.max_swap_mib * MIB
    with Findings() as findings:
        swapped = parsing("qemu_proc", lambda status: process_size(status, "VmSwap"), status_of(domain))
        if swapped is None:
            findings.unknown(EvidenceMissing(Cause.MISSING, f"the kernel tells no VmSwap of {domain}", "qemu_proc"))
        else:
            findings.fail_if(
                swapped > limit, f"{domain}: VmSwap of QEMU is {swapped // MIB} MiB, at most {params.max_swap_mib} MiB allowed."
            )
        try:
            _judge_cgroup_swap(findings, domain, limit)
        except EvidenceMissing as missing:
            findings.unknown(missing)
        first, second = counters(host)
        seconds = second.uptime_s - first.uptime_s
        if first.swapped_pages is None or second.swapped_pages is None:
            raise EvidenceMissing(Cause.MISSING, "/proc/vmstat tells no pswpin and pswpout", "counters")
        if second.swapped_pages == 0:  # never since boot
            return
        if seconds < MIN_SECONDS:
            raise EvidenceMissing(Cause.EMPTY, f"samples {seconds:.1f} s apart tell no rate of swapping", "counters_later")
        rate = (second.swapped_pages - first.swapped_pages) / seconds
        findings.fail_if(
            rate > params.max_rate_pages_s,
            f"{domain}: {host} swaps {rate:.0f} pages a second, at most {params.max_rate_pages_s} allowed.",
        )


def _judge_cgroup_swap(findings: Findings, domain: Domain, limit: int) -> None:
    text = cgroup_file(domain, "memory.swap.current")
    if text is not None:
        if not text.strip().isdigit():
            raise EvidenceMissing(Cause.UNPARSABLE, f"memory.swap.current is {text.strip()[:40]!r}", "qemu_cgroup")
        findings.fail_if(
            int(text) > limit,
            f"{domain}: memory.swap.current of its cgroup is {int(text) // MIB} MiB, at most {limit // MIB} MiB allowed.",
        )
    elif domain.live.memory_source in ("memfd", "file") and domain.live.hugepages is None:
        raise EvidenceMissing(
            Cause.MISSING, f"{domain} has shared memory, and no cgroup tells how much of that is swapped out", "qemu_cgroup"
        )


@check(
    "KVM-MEM-012",
    title="Swappiness, swap space and the free-memory reserve suit a hypervisor",
    severity=Severity.LOW,
    reads=("vm_settings", "swaps", "meminfo", "sysctl_files"),
    params={
        "max_swappiness": Whole(10, 0, 100),
        "min_swap_mib": Whole(1024, 16, 1_048_576),
        "allow_no_swap": True,
        "min_free_min_pct": Number(0.03, 0, 10),
        "min_free_max_pct": Number(5.0, 0.1, 50),
    },
)
def test_swapping_suits_a_hypervisor(host: Host, params: Params) -> None:
    """The host prefers to drop its page cache to paging out guests.

    What it checks
        No swap, where allow_no_swap; otherwise at least min_swap_mib of it and vm.swappiness of at most max_swappiness, now and,
        where sysctl.d sets it, after a reboot. vm.min_free_kbytes outside min_free_min_pct to min_free_max_pct of the memory is
        only noted.

    Why it matters
        With the default of 60, a backup that fills the page cache pushes guest memory out; a little swap softens a shortage.

    How to fix
        now: sysctl -w vm.swappiness=10
        after a reboot: echo 'vm.swappiness = 10' > /etc/sysctl.d/80-swap.conf, or TuneD's profile virtual-host (RHEL, SUSE)
        roll back: the same with 60
        verify: cat /proc/sys/vm/swappiness /proc/swaps

    When not to
        swappiness 0 is not "no swap": the kernel then kills earlier. With cgroup v1, groups that exist keep the value they
        were made with.

    References
        https://docs.kernel.org/admin-guide/sysctl/vm.html
    """
    swappiness, reserve = vm_setting(host, "swappiness"), vm_setting(host, "min_free_kbytes") * 1024
    share = 100 * reserve / meminfo(host)["MemTotal"]
    if not params.min_free_min_pct <= share <= params.min_free_max_pct:
        note(f"min_free_kbytes is {share:.2f} % of the memory ({params.min_free_min_pct} to {params.min_free_max_pct} is usual)")
    total = sum(swap.size_bytes for swap in swaps(host))
    with Findings() as findings:
        if not total:
            findings.fail_if(not params.allow_no_swap, f"{host}: there is no swap, expected {params.min_swap_mib} MiB or more.")
            note(f"no swap; swappiness is {swappiness}")
            return
        findings.fail_if(
            total < params.min_swap_mib * MIB,
            f"{host}: swap is {total // MIB} MiB, expected {params.min_swap_mib} MiB or more"
            f"{', or none' if params.allow_no_swap else ''}.",
        )
        findings.fail_if(
            swappiness > params.max_swappiness,
            f"{host}: vm.swappiness is {swappiness} now, at most {params.max_swappiness} allowed.",
        )
        saved = sysctl_conf(host).get("vm.swappiness", "")
        if saved and not saved.isdigit():
            raise EvidenceMissing(Cause.UNPARSABLE, f"vm.swappiness = {saved[:40]!r} in sysctl.d", "sysctl_files")
        findings.fail_if(
            bool(saved) and int(saved) > params.max_swappiness,
            f"{host}: vm.swappiness is {saved} after a reboot (sysctl.d), at most {params.max_swappiness} allowed.",
        )


@check(
    "KVM-MEM-013",
    title="memlock entries in limits.conf are not relied upon for libvirt guests",
    severity=Severity.INFO,
    reads=("limits_conf", "qemu_strays", "virsh", "qemu_process", "qemu_proc"),
)
def test_limits_conf_is_not_relied_upon(host: Host) -> None:
    """Guests that lock memory get their limit from libvirt, not from someone's login.

    What it checks
        No QEMU outside of the system's libvirt (qemu:///session, or started by hand) locks memory or owns PCI devices. The
        memlock lines of limits.conf and the limits that the system's guests really have are noted.

    Why it matters
        systemd starts the system's guests: limits.conf never applies to them, and libvirt sets what locked memory and PCI devices
        need. Others live by the limit of the login that started them. Huge pages do not count at all.

    How to fix
        now: move the guest to qemu:///system; for guests of a user, raise memlock for that user and log in again
        after a reboot: remove copied memlock lines from /etc/security/limits.conf and limits.d
        roll back: the former files in /etc/security; define the guest in the user's session again
        verify: grep -rs memlock /etc/security/limits.conf /etc/security/limits.d; grep 'locked memory' /proc/PID/limits

    When not to
        Workstations where users run guests of their own.

    References
        https://libvirt.org/formatdomain.html#memory-backing
        https://man7.org/linux/man-pages/man5/limits.conf.5.html
    """
    lines = [
        f"{limit.who} {limit.type} {limit.value} in {path}"
        for path, limits in login_limits(host).items()
        for limit in limits
        if limit.item == "memlock"
    ]
    said = f"limits.conf has {'; '.join(lines[:4])}" if lines else "limits.conf has no memlock line"
    with Findings() as findings:
        for process, limits in strays(host):
            if process.locks_memory:
                soft = limits.get("Max locked memory", (None, None))[0]
                allowed = "unlimited" if soft is None else f"{soft // MIB} MiB"
                findings.fail(
                    f"{host}: QEMU {process.pid}, not of the system's libvirt, needs locked memory and may lock {allowed}; {said}."
                )
        note(said)
        for domain in running_domains(host)[:8]:
            soft = limits_of(domain).get("Max locked memory", (None, None))[0]
            note(f"{domain} may lock {'everything' if soft is None else f'{soft // MIB} MiB'}")
