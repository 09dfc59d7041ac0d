"""In what form each probe answers, and so how secrets are taken out of it.

What a record's standard output holds is told by its probe, and within a keyed probe by its section. A probe that is not listed is
taken as free text; a test demands that each is listed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from pytest_kvmcheck.evidence import KEY_SEPARATOR
from pytest_kvmcheck.gather.redact import argv, conf, image
from pytest_kvmcheck.gather.redact.forms import redact_keys
from pytest_kvmcheck.gather.redact.jsontext import redact_json
from pytest_kvmcheck.gather.redact.pseudonym import Hide, words
from pytest_kvmcheck.gather.redact.text import names_a_secret, redact_text, redact_words
from pytest_kvmcheck.gather.redact.xmltext import redact_xml

#: Takes the secrets out of an answer.
Kind = Callable[[str, Hide], str]


def _files(kind: Kind) -> Kind:
    """The answer is ``path:line``: each file is of *kind*."""

    def redacted(text: str, hide: Hide) -> str:
        parts: list[str] = []
        path, lines = "", list[str]()

        def close() -> None:
            if lines:
                parts.extend(f"{path}{line}" for line in kind("\n".join(lines), hide).split("\n"))
                lines.clear()

        body = text.removesuffix("\n")
        for line in body.split("\n"):
            match = _PATH.match(line)
            if (match[0] if match else "") != path:
                close()
                path = match[0] if match else ""
            lines.append(line[len(path) :])
        close()
        return "\n".join(parts) + "\n" * text.endswith("\n")

    return redacted


_PATH = re.compile(r"/[^:\n]{0,4096}:")


def _settings(names: str, marks: str = "#;") -> Kind:
    kept = re.compile(names)
    return _files(lambda text, hide: conf.settings(text, kept, hide, marks))


def _xml(root: str) -> Kind:
    return lambda text, hide: redact_xml(text, root, hide)


def _json(names: str) -> Kind:
    kept = frozenset(names.split())

    def redacted(text: str, hide: Hide) -> str:
        """What a tool says of itself stands in lines before the JSON; some print one document a line."""
        start = re.search(r"^[ \t]*[{\[]", text, re.MULTILINE)
        if not start:
            return redact_words(text, hide)
        before, body = text[: start.start()], text[start.start() :]
        lines = body.split("\n")
        if len(lines) > 1 and all(
            line.startswith(("{", "[")) and line.rstrip().endswith(("}", "]")) for line in lines if line.strip()
        ):
            return redact_words(before, hide) + "\n".join(redact_json(line, kept, hide) for line in lines)
        return redact_words(before, hide) + redact_json(body, kept, hide)

    return redacted


def _sections(plain: Kind = redact_words, **kinds: Kind) -> Kind:
    """Mark a keyed probe: the last word of the section's key (or the one before a number) says of what kind it is."""
    return _Sections(plain, kinds)


class _Sections:
    def __init__(self, plain: Kind, kinds: Mapping[str, Kind]) -> None:
        self.plain, self.kinds = plain, kinds

    def __call__(self, text: str, hide: Hide) -> str:
        return self.plain(text, hide)

    def of(self, key: str) -> Kind:
        words = key.split("/")
        # images: local/header/1, local/snapshots/1/2; objects: net/UUID/xml
        for word in (f"{words[0]}_{words[-1]}", words[-1], *words[1:2]):
            if word in self.kinds:
                return self.kinds[word]
        return self.plain


_LINK_NAMES = """
    ifname link_type operstate flags address broadcast master link info_kind info_slave_kind mode mii_status state protocol
    perm_hwaddr partner_mac peer_mac bridge_id root_id primary active_slave xmit_hash_policy ad_lacp_rate ad_select arp_validate
    arp_all_targets primary_reselect fail_over_mac ad_lacp_active qdisc group linkmode parentbus parentdev type trust spoofchk
    inet6_addr_gen_mode vlan_protocol local family scope mac link_state query_rss_en
"""
_ROUTE_NAMES = "dst gateway dev protocol scope prefsrc type flags via table src iif oif action host family"
_NFT_NAMES = "family table name hook policy type chain version release_name dev"
_MULTIPATH_NAMES = """
    name uuid sysfs vend prod rev dev dm_st dev_st chk_st marginal_st checker protocol host_wwnn target_wwnn host_wwpn
    target_wwpn host_adapter queueing features failback write_prot hwhandler selector hcil dev_t size
"""

_AGENT_NAMES = (
    "BLACKLIST_RPC|BLOCK_RPCS|ALLOW_RPCS|FILTER_RPC_ARGS|DAEMON_ARGS|block-rpcs|blacklist|allow-rpcs|method|path|daemon|verbose"
)
_CHRONY_NAMES = (
    "(?i:server|pool|peer|refclock|driftfile|makestep|rtcsync|rtcfile|rtcautotrim|rtcdevice|rtconutc|leapsectz|leapsecmode|maxslewrate"
    "|maxupdateskew|hwtimestamp|local|allow|deny|bindaddress|bindacqaddress|bindacqdevice|binddevice|bindcmdaddress|port|acquisitionport|cmdport"
    "|cmdallow|cmddeny|log|logdir|logchange|logbanner|minsources|maxdistance|maxjitter|stratumweight|sched_priority|lock_all|user|dumpdir"
    "|ntsdumpdir|nocerttimecheck|confdir|sourcedir|include|combinelimit|corrtimeratio|hwclockfile|initstepslew|manual|maxchange|maxclockerror"
    "|maxdrift|reselectdist|smoothtime|tempcomp|pidfile|ptpport|ratelimit|cmdratelimit|clientloglimit|noclientlog|dscp|generatecommandkey"
    "|maxntsconnections|ntsrefresh|authselectmode|minsamples|maxsamples|keyfile|leapseclist|opencommands|fallbackdrift)"
)
_JOURNALD_NAMES = (
    "Storage|Compress|Seal|SplitMode|SyncIntervalSec|RateLimit(?:Interval(?:Sec)?|Burst)|(?:System|Runtime)(?:MaxUse|KeepFree|MaxFileSize|MaxFiles)"
    "|MaxRetentionSec|MaxFileSec|ForwardTo(?:Syslog|KMsg|Console|Wall|Socket)|MaxLevel(?:Store|Syslog|KMsg|Console|Wall|Socket)|TTYPath|LineMax|ReadKMsg|Audit"
)
_GUESTS_NAMES = (
    "ON_BOOT|ON_SHUTDOWN|URIS|START_DELAY|PARALLEL_SHUTDOWN|SHUTDOWN_TIMEOUT|BYPASS_CACHE|SYNC_TIME|CONNECT_RETRIES|RETRIES_SLEEP"
    "|PERSISTENT_ONLY|sysconfdir|initconfdir|LIBVIRT_GUESTS_\\w+|libvirtd"
)


def _irqbalance(text: str, hide: Hide) -> str:
    """Settings of irqbalance; ``Environment=`` of a drop-in is kept when it sets nothing but those."""
    kept = re.compile(r"IRQBALANCE_(?!ARGS)\w+|ONESHOT|OPTIONS")

    def change(line: str) -> str:
        own = re.fullmatch(r'\s*Environment\s*=\s*("?)IRQBALANCE_BANNED_\w+=[\w,.-]*\1\s*', line)
        return line if own else conf.settings(line, kept, hide)

    return conf.by_line(redact_keys(text, hide), change)


def _modprobe(text: str, hide: Hide) -> str:
    """Lines of modprobe.d; of what is run instead of loading a module only that it is nothing, /bin/true or /bin/false."""

    def change(line: str) -> str:
        match = re.fullmatch(
            r"(\s*(?:install|remove)\s+\S+\s+)(?!/(?:usr/)?bin/(?:true|false)\s*$)(\S.*?)(\s*\\?\s*)", line, re.DOTALL
        )
        if match:
            return match[1] + hide(match[2]) + match[3]
        return re.sub(
            r"(?<!\S)(\w+)=(\S+)", lambda item: f"{item[1]}={hide(item[2])}" if names_a_secret(item[1]) else item[0], line
        )

    return conf.by_line(conf.commented(text, hide), change)


def _without_tails(text: str, hide: Hide) -> str:
    """Lines that may end in a comment."""
    return redact_words(conf.by_line(text, lambda line: line.partition("#")[0] + "#" * ("#" in line)), hide)


def _sources(text: str, hide: Hide) -> str:
    """Lines of nsswitch.conf(5): which sources are asked for passwd, hosts and the like."""
    source = (
        r"files|db|dns|nis|nisplus|ldap|sss|systemd|compat|hesiod|winbind|wins|mymachines|myhostname|resolve|cache|altfiles|extrausers"
        r"|usrfiles|libvirt|libvirt_guest|mdns[46]?(?:_minimal)?|gw_name|\[(?:!?[A-Za-z]{2,12}=[a-z]{2,12}\s*)+\]"
    )
    known = re.compile(rf"\s*[a-z]+:(?:\s*(?:{source}))*\s*#?|\s*#?")

    def change(line: str) -> str:
        bare = line.partition("#")[0] + "#" * ("#" in line)
        return bare if known.fullmatch(bare) else redact_words(bare, hide)

    return conf.by_line(redact_keys(text, hide), change)


def _multipath(text: str, hide: Hide) -> str:
    """JSON; or, of releases before 0.6, tables, which may begin a line with a bracket too."""
    return (_json(_MULTIPATH_NAMES) if "{" in text else redact_words)(text, hide)


#: By probe: the form of its answer.
KINDS: dict[str, Kind] = {
    # XML
    "virsh": _sections(capabilities=_xml("capabilities")),
    "domain": _sections(live=_xml("domain"), saved=_xml("domain")),
    "objects": _sections(net_xml=_xml("network"), pool_xml=_xml("pool")),
    "domcapabilities": _xml("domainCapabilities"),
    # JSON
    "ip_addr": _json(_LINK_NAMES),
    "ip_link": _json(_LINK_NAMES),
    "ip_route": _json(_ROUTE_NAMES),
    "ip_route6": _json(_ROUTE_NAMES),
    "ip_rule": _json(_ROUTE_NAMES),
    "nftables": _json(_NFT_NAMES),
    "ovs": _json("headings data[]"),
    "teams": _json("runner_name name ifname state selected"),
    "multipath_maps": _multipath,
    "multipath_maps_later": _multipath,
    "lvm": _sections(lvs=_json("vg_name lv_name lv_active segtype data_percent metadata_percent"), pvs=_json("pv_name vg_name")),
    "cloud_init": _files(_json("stage errors ERROR WARNING DEPRECATED CRITICAL INFO DEBUG")),
    # arguments
    "qemu_process": argv.redact_qemu,
    "qemu_strays": _sections(cmdline=argv.redact_qemu),
    "time_daemons": argv.redact_daemon,
    "cmdline": conf.kernel_arguments,
    # files of settings
    "libvirt_conf": _files(conf.virconf),
    "qemu_conf": _files(conf.virconf),
    "sasl_conf": _settings("mech_list", "#"),
    "libvirt_guests_conf": _settings(_GUESTS_NAMES),
    "irqbalance_conf": _files(_irqbalance),
    "sysctl_files": _settings(
        r"(?:vm|net|kernel|fs|user|dev|abi|sunrpc)[./](?!.*(?:key|core_pattern|hostname|domainname|modprobe|hotplug|usermode)).*"
    ),
    "modprobe_conf": _files(_modprobe),
    "modules_load_conf": _files(conf.commented),
    "limits_conf": _files(_without_tails),
    "ksm_defaults": _settings("KSM_ENABLED|SLEEP_MILLISECS|VHOST_NET_ENABLED|KVM_HUGEPAGES|TAPS|KVM_NESTED"),
    "ksmtuned_conf": _settings("KSM_\\w+|LOGFILE|DEBUG"),
    "chrony_conf": _settings(_CHRONY_NAMES, "#%!;"),
    "ptp_conf": _settings(
        "time_stamping|(?:domain|dataset_comparison|transport|network|delay)\\w*|clientOnly|slaveOnly|priority[12]|log\\w+|step_threshold|verbose"
    ),
    "journald_conf": _settings(_JOURNALD_NAMES),
    "agent_conf": _settings(_AGENT_NAMES),
    "nova_migration": lambda text, hide: conf.settings(text, re.compile(r"live_migration_\w+"), hide),
    "etc_hosts": _files(_without_tails),
    "name_service": _files(_sources),
    "iscsi_initiator": _settings("InitiatorName|InitiatorAlias"),
    "certificates": _files(conf.certificates),
    "ssh_host_keys": _files(conf.public_keys),
    "mounts": conf.mounts,
    # bytes
    "images": _sections(header=image.redact_headers, snapshots=image.redact_snapshots),
}


def _rules(text: str, hide: Hide) -> str:
    """Rules of packet filters; their comments are anybody's."""
    comment = re.compile(r"""(?P<head>\bcomment[ \t]+|\bprefix[ \t=]+)(?P<s>"(?:[^"\\\n]|\\.)*"|[^\s"]+)""")

    def shown(match: re.Match[str]) -> str:
        said = match["s"]
        return match["head"] + (f'"{hide(said[1:-1])}"' if said[0] == '"' else hide(said))

    return redact_words(comment.sub(shown, text), hide)


KINDS |= dict.fromkeys(("iptables", "libvirt_rules", "firewalld"), _rules)


def _kernel_log(text: str, hide: Hide) -> str:
    """The kernel tells its command line once, and a line of it may be among those that were picked."""

    def change(line: str) -> str:
        told, sign, arguments = line.partition("ommand line: ")
        return f"{told}{sign}{conf.kernel_arguments(arguments, hide)}" if sign and arguments.strip() else line

    return redact_text(conf.by_line(text, change) if "ommand line: " in text else text, hide)


#: Logs: sentences of programs, in which strangers have a say.
KINDS |= dict.fromkeys(
    ("ptp_log", "journal", "qemu_log", "audit_failures", "audit_denials", "rsyslog_conf", "libvirt_guests_script"),
    redact_text,
)

KINDS["kernel_log"] = _kernel_log

#: A package that waits, as apt-get -s tells it. Some are called passwd or libsecret-1-0, and what follows is a version.
_INST = re.compile(
    r"Inst [a-z0-9][a-z0-9+.-]{1,128}(?::\w{1,20})? (?:\[[\w.+:~-]{1,128}\] )?"
    r"\([\w.+:~-]{1,128} [\w.:/, +~-]{1,300}(?:\[\w{1,20}\])?\)(?: \[[\w .:+~-]*\])*\s*"
)


def _pending(text: str, hide: Hide) -> str:
    return conf.by_line(text, lambda line: line if _INST.fullmatch(line) else redact_words(line, hide))


KINDS["updates"] = _sections(pending=_pending)

#: Numbers, names and tables: of the kernel, of sysfs, and of tools that print nothing else.
TABLES = words("""
        adjtime audit_status block_devices chrony_sources chrony_tracking clock clock_devices clocksource counters
        counters_later cpu_lists cpu_siblings cpu_topology cpufreq cpuidle cpuinfo detect_virt dev_kvm device_places df
        dm_maps dm_slaves dma_latency_holders dmi domblkerror domstats domstats_later edac ethtool fc_hosts fc_hosts_later
        fc_ports guest_channels guest_disks hostname hostname_fqdn hugepage_sources hugepages hugepages_node image_modes
        iommu_groups iscsi iscsi_nodes isolation journal_dirs kernel_settings kernels key_modes ksm kvm_modules kvm_params
        libvirt_access libvirt_accounts
        listeners log_sizes logrotate_libvirt machine_id managers mdstat meminfo memory_modules microcode
        multipath_config multipath_dmsetup name_lookup net_settings nic_state now ntpd_peers ntpd_variables numa numad nvme
        nvme_identity packages pci polkit_rules pool_files product_uuid programs ptp_clocks qemu_cgroup qemu_huge_maps
        qemu_proc qemu_threads qemu_user qemu_vhost scsi_disk scsi_disks scsi_wwids security_modules smt sriov_conf
        storage_peers storage_ping swaps systemd_failed systemd_state systemd_units tainted thp timesyncd_stamp tuned uname
        vfio_params vhost_net vhost_zcopytx virt_admin virt_host_validate virtio_ports vm_settings vulnerabilities
    """)


def kind_of(record: str) -> Kind:
    """Return the form of the record with this id, ``probe`` or ``probe:section``."""
    probe, _, key = record.partition(KEY_SEPARATOR)
    kind = KINDS.get(probe, redact_words if probe in TABLES else redact_text)
    return kind.of(key) if isinstance(kind, _Sections) and key else kind
