r"""Secrets in configuration files: the settings that a parser of ours reads are kept, the values of all others become pseudonyms.

Comments are emptied: what was commented out is often a secret of yesterday. The number of lines stays.

>>> from pytest_kvmcheck.gather.redact.pseudonym import Hide
>>> hide = Hide(b"key")
>>> settings("A='x'\nB=\"hunter2\" # old\n# C=hunter2\n", re.compile("A"), hide)
'A=\'x\'\nB="<redacted:05d210d8>"\n#\n'
>>> virconf('log_level = 3\nvnc_password = "hunter2"\n', hide)
'log_level = 3\nvnc_password = "<redacted:05d210d8>"\n'
>>> kernel_arguments("quiet rootpw=hunter2 hugepages=4 hunter2", hide)
'quiet rootpw=<redacted:05d210d8> hugepages=4 <redacted:05d210d8>'
"""

from __future__ import annotations

import re
from collections.abc import Callable

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.cmdline import parse_cmdline
from pytest_kvmcheck.facts.libvirtconf import parse_conf
from pytest_kvmcheck.gather.redact.forms import redact_keys
from pytest_kvmcheck.gather.redact.pseudonym import PSEUDONYM, Hide
from pytest_kvmcheck.gather.redact.text import names_a_secret, redact_text, redact_words

_LINE = re.compile(
    r"""(?P<head>[ \t]*(?:export[ \t]+)?-?(?P<name>[\w.\-/*\[\]]+)(?:[ \t]*[=:][ \t]*|[ \t]+))(?P<value>\S.*?)(?P<tail>\s*)""",
    re.DOTALL,
)


def uncommented(line: str, marks: str = "#;") -> str:
    """Return *line* without the text of a comment that it begins with."""
    stripped = line.lstrip()
    if not stripped or stripped[0] not in marks:
        return line
    return stripped[0] + ("\r" if line.endswith("\r") else "")


def by_line(text: str, change: Callable[[str], str]) -> str:
    """Return *text* with each line changed; keys in PEM, which take several, are taken out first by the caller."""
    known: dict[str, str] = {}
    lines = text.split("\n")
    for number, line in enumerate(lines):
        shown = known.get(line)
        if shown is None:
            shown = known[line] = change(line)
        lines[number] = shown
    return "\n".join(lines)


def settings(text: str, kept: re.Pattern[str], hide: Hide, marks: str = "#;") -> str:
    """Return a file of ``name = value``, ``name: value`` or ``name value`` in which only names that match *kept* keep theirs."""

    def change(line: str) -> str:
        line = uncommented(line, marks)
        stripped = line.strip()
        if not stripped or stripped in marks or re.fullmatch(r"\[[\w .:@/-]{1,64}\]", stripped):
            return line
        if re.fullmatch(r"(?:<redacted:[0-9a-f]{8}>[\s=:]*)+", stripped):
            return line
        match = _LINE.fullmatch(line)
        if match and kept.fullmatch(match["name"]) and not names_a_secret(match["name"]):
            return redact_words(line, hide)
        if match:
            return redact_words(match["head"], hide) + _in_quotes(match["value"], hide) + match["tail"]
        if re.fullmatch(r"[A-Za-z][\w-]{0,30}=?", stripped):  # a name alone
            return line if kept.fullmatch(stripped.rstrip("=")) else line.replace(stripped, hide(stripped))
        return line.replace(stripped, hide(stripped), 1)

    return by_line(redact_keys(text, hide), change)


def _in_quotes(value: str, hide: Hide) -> str:
    """Hide *value* so that a quote that it opens is closed, or left open, as before."""
    if value[0] in "\"'":
        end = value.rfind(value[0])
        rest = value[end + 1 :].strip()
        if end > 0 and (not rest or rest.startswith("#")):
            return value[0] + hide(value[1:end]) + value[0]
        return value[0] + hide(value[1:])
    return hide(value)


#: Settings of libvirt's daemons, of its QEMU driver and of its locks, by the families of their names; passwords are none of them.
_LIBVIRT = re.compile(
    r"(?:log|auth|listen|tls|tcp|unix|mdns|sasl|access|max|min|admin|keepalive|host|audit|ovs|polkit|cert|key|ca|crl|remote|prio|default"
    r"|vnc|spice|nographics|nbd|migrate|migration|backup|chardev|swtpm|user|group|dynamic|remember|cgroup|save|dump|snapshot|auto|hugetlbfs"
    r"|bridge|pr|slirp|set|dbus|virtiofsd|qemu|security|seccomp|namespaces|clear|mac|relaxed|nvram|stdio|lock|memory|gluster|capability"
    r"|deprecation|shared|sched|storage|stop|allow|sanlock|disk|require|ip|file|lvm|scsi|rx|tx|debug|firewall|process|vfio|passt|rdp)_\w+|user|group|host_uuid"
)
_PASSWORDS = re.compile(r"\w*(?:passw|secret(?!_uuid)|token|cookie|credential)\w*", re.IGNORECASE)

_SETTING = re.compile(
    r"""(?P<head>[ \t]*(?P<name>[A-Za-z]\w*)[ \t]*=[ \t]*)
    (?P<value>[+-]?\d+|\"\"\".*?\"\"\"|"[^"\n]*"|'[^'\n]*'|\[(?:[^\]"'\#]|"[^"\n]*"|'[^'\n]*'|\#[^\n]*)*\])
    (?P<tail>[ \t]*(?:\#[^\n]*|;)?)""",
    re.VERBOSE | re.DOTALL | re.ASCII,
)
_COMMENT = re.compile(r"#[^\n]*")


def virconf(text: str, hide: Hide) -> str:
    """Return a configuration file of libvirt; one that libvirt could not read either is taken out whole.

    Source: libvirt src/util/virconf.c.
    """
    try:
        parse_conf(text)
    except ParseError:
        return "\n".join(hide(line) if line.strip() else line for line in text.split("\n"))
    parts, place = [], 0
    for match in re.finditer(r"#[^\n]*|[A-Za-z]\w*[ \t]*=", text):
        if match.start() < place:
            continue
        parts.append(text[place : match.start()])
        if match[0].startswith("#"):
            parts.append("#")
            place = match.end()
            continue
        found = _SETTING.match(text, match.start())
        if not found:  # parse_conf has read it: cannot be
            return hide(text)
        value = found["value"]
        if _LIBVIRT.fullmatch(found["name"]) and not _PASSWORDS.fullmatch(found["name"]):
            value = _listed(value, hide)
        elif value.startswith('"""'):
            value = f'"""{hide(value[3:-3])}"""'
        elif value[0] in "\"'":
            value = value[0] + hide(value[1:-1]) + value[0]
        elif value[0] == "[":
            value = f'["{hide(value)}"]' if not re.fullmatch(r'\["<redacted:[0-9a-f]{8}>"\]', value) else value
        else:
            value = f'"{hide(value)}"'
        parts.append(found["head"] + value + _COMMENT.sub("#", found["tail"]))
        place = found.end()
    return "".join(parts) + text[place:]


def _listed(value: str, hide: Hide) -> str:
    """Return a value that is kept, without comments and secrets in its texts."""
    return re.sub(
        r""""[^"\n]*"|'[^'\n]*'|#[^\n]*""",
        lambda item: "#" if item[0][0] == "#" else item[0][0] + redact_words(item[0][1:-1], hide) + item[0][0],
        value,
    )


#: Parameters of the kernel and of early user space whose values are no secrets: what a check reads, and the usual company.
_KERNEL_NAMES = re.compile(
    r"(?:ro|rw|quiet|splash|rhgb|debug|nosplash|nomodeset|single|emergency|rescue|text|verbose|nosmt|nosmp|noapic|nolapic|nohpet|notsc|noibrs"
    r"|nopti|nospectre_v[12]|nokaslr|norandmaps|no-kvmclock|no-steal-acc|no_timer_check|noresume|nowatchdog|nosoftlockup|skew_tick|threadirqs"
    r"|hugepages|hugepagesz|default_hugepagesz|hugetlb_cma|hugetlb_free_vmemmap|transparent_hugepage|isolcpus|nohz|nohz_full|rcu_nocbs"
    r"|rcu_nocb_poll|irqaffinity|kthread_cpus|mitigations|spectre_v2|spec_store_bypass_disable|l1tf|mds|tsx|tsx_async_abort|retbleed|srbds"
    r"|mmio_stale_data|gather_data_sampling|spec_rstack_overflow|reg_file_data_sampling|pti|intel_iommu|amd_iommu|iommu|iommu\.\w+"
    r"|intel_idle\.\w+|processor\.\w+|cpuidle\.\w+|cpufreq\.\w+|intel_pstate|amd_pstate|idle|audit|audit_backlog_limit|clocksource|tsc|hpet"
    r"|numa|numa_balancing|numa_zonelist_order|acpi|acpi_\w+|pci|pcie_\w+|pcie_aspm|apparmor|selinux|enforcing|security|lsm|cgroup_\w+"
    r"|systemd\.unified_cgroup_hierarchy|systemd\.unit|systemd\.show_status|systemd\.journald\.\w+|psi|swapaccount|crashkernel|panic|panic_\w+|oops"
    r"|softlockup_panic|hung_task_panic|nmi_watchdog|watchdog|elevator|scsi_mod\.\w+|nvme_core\.\w+|dm_mod\.\w+|multipath|rd\.multipath"
    r"|console|earlyprintk|earlycon|loglevel|log_buf_len|printk\.\w+|ignore_loglevel|vga|video|net\.ifnames|biosdevname|ipv6\.disable"
    r"|ipv6\.disable_ipv6|BOOT_IMAGE|root|rootfstype|rootflags|rootwait|rootdelay|resume|resume_offset|rd\.lvm|rd\.lvm\.lv|rd\.lvm\.vg|rd\.md|rd\.md\.uuid"
    r"|rd\.luks\.uuid|rd\.dm|rd\.auto|rd\.shell|rd\.break|rd\.driver\.blacklist|modprobe\.blacklist|module_blacklist|initcall_blacklist"
    r"|vconsole\.\w+|locale\.LANG|LANG|KEYTABLE|SYSFONT|kvm[-_.]\w+(?:[._]\w+)*|kvm\.\w+|kvm|vfio[-_\w]*\.\w+|vhost[-_\w]*\.\w+|bridge\.\w+"
    r"|mem|memmap|memory_corruption_check|movable_node|movablecore|kernelcore|maxcpus|nr_cpus|possible_cpus|efi|efivars\.\w+|fips|edd|mce"
    r"|random\.trust_cpu|fsck\.\w+|fastboot|consoleblank|delayacct|workqueue\.\w+|slab_nomerge|slub_debug|init_on_alloc|init_on_free|nouveau\.\w+"
    r"|ignition\.platform\.id|ostree|machine\.type|rhash_entries|usbcore\.\w+|libata\.\w+|ima_policy|integrity|iomem|lockdown|zswap\.\w+|rcutree\.\w+"
    r"|tp_printk|trace_\w+|dyndbg|nopat|nox2apic|x2apic_phys|nopvspin|kvm-guest\.\w+|xen_\w+|sched_\w+|preempt|spec_\w+|srso|its|vmscape|tsa|bhi)"
)
_WORD = re.compile(r'(?:[^\s"]|"[^"]*(?:"|$))+')


#: The kernel's own bound is COMMAND_LINE_SIZE, 2 to 4 KiB.
_LONGEST = 65536


def kernel_arguments(text: str, hide: Hide) -> str:
    """Return a kernel command line: known parameters keep their values, others their names, and other words nothing.

    What cannot be read as one is taken as text, so that it stays unreadable.
    """
    if len(text) > _LONGEST:
        return f"overlong: {hide(text)}"
    try:
        parse_cmdline(text)
    except ParseError:
        return redact_text(text, hide)

    def change(match: re.Match[str]) -> str:
        word = match[0]
        bare = word.strip('"')
        name, equals, value = word.partition("=")
        if word in ("--", "---") or PSEUDONYM.fullmatch(bare):
            return word
        known = _KERNEL_NAMES.fullmatch(name.strip('"').replace("-", "_")) or _KERNEL_NAMES.fullmatch(name.strip('"'))
        if known and not names_a_secret(name):
            if not equals:
                return word
            if name == "root" and not re.fullmatch(
                r'"?(?:/dev/[\w/.:-]+|(?:PART)?(?:UUID|LABEL)=[\w.:-]+|ZFS=[\w/.:-]+|live:[\w/.:=-]+)"?', value
            ):
                return f"{name}={_quoted(value, hide)}"
            return f"{name}={redact_words(value, hide)}"
        if equals and re.fullmatch(r'"?[A-Za-z][\w.-]{0,63}', name):
            return f"{name}={_quoted(value, hide)}"
        return hide(bare)

    return _WORD.sub(change, text)


def _quoted(value: str, hide: Hide) -> str:
    return '"' * value.startswith('"') + hide(value.strip('"')) + '"' * (value.endswith('"') and len(value) > 1)


#: Options of mounts whose names and values are no secrets.
_MOUNT = re.compile(
    r"r[ow]|(?:no)?(?:suid|dev|exec|atime|diratime|relatime|iversion|lock|ac|acl|cto|intr|quota|usrquota|grpquota|prjquota|barrier|barriers|discard|resvport"
    r"|user_xattr|sharecache|rdirplus|swap|datacow|datasum|autodefrag|flushoncommit|delalloc|journal_checksum|inode64|strictatime|lazytime"
    r"|mand|fsc|migration|posix|share|serverino|mapposix|unix|attr2|ikeep|largeio|filestreams|space_cache|ssd|ssd_spread|treelog|enospc_debug)"
    r"|relatime|strictatime|lazytime|sync|async|dirsync|remount|bind|rbind|hard|soft|softerr|bg|fg|inode32|inode64|posixacl|default_permissions"
    r"|allow_other|seclabel|nsdelegate|memory_recursiveprot|memory_hugetlb_accounting|cpu|cpuset|cpuacct|blkio|memory|devices|freezer|net_cls|net_prio|perf_event|hugetlb|pids"
    r"|rdma|misc|xattr|clone_children|release_agent|direct|indirect|offset|errors|stripe|data|commit|journal_ioprio|minixdf|bsddf|debug|jqfmt"
    r"|vers|nfsvers|minorversion|proto|rsize|wsize|namlen|timeo|retrans|retry|sec|local_lock|lookupcache|clientaddr|addr|mountaddr|mountport|mountproto|mountvers"
    r"|port|nconnect|max_connect|xprtsec|trunkdiscovery|acregmin|acregmax|acdirmin|acdirmax|actimeo|size|nr_inodes|nr_blocks|mode|uid|gid|dmask|fmask|umask|codepage"
    r"|iocharset|shortname|utf8|user_id|group_id|max_read|blksize|fd|pgrp|timeout|pipe_ino|mpol|huge|pagesize|min_size|logbufs|logbsize|sunit|swidth|subvol|subvolid"
    r"|compress|compress-force|thread_pool|max_inline|metadata_ratio|degraded|lowerdir|upperdir|workdir|index|metacopy|redirect_dir|xino|uuid|hidepid|ptmxmode|gid"
    r"|name|none|all|trans|access|cache|msize|version|dfltuid|dfltgid|forceuid|forcegid|file_mode|dir_mode|bsize|echo_interval|max_channels|multichannel|cruid"
    r"|domain|username|snapdirname|recover_session|wsync|caps_max|readdir_max_entries|ms_mode|mds_namespace|mon_addr|rasize|rbytes|norbytes|norequire_active_mds|inline_data|case_sensitive"
    r"|gfs2|lockproto|locktable|hostdata|quota_quantum|statfs_quantum|ocfs2_stack|heartbeat|coherency|localalloc|resv_level|dir_resv_level|intr|nointr|cluster_stack|localflocks"
)


def mounts(text: str, hide: Hide) -> str:
    """Return /proc/mounts: of the options, those that are known keep their values."""

    def change(line: str) -> str:
        fields = line.split(" ")
        if len(fields) != 6:
            return redact_words(line, hide)
        fields[0] = redact_words(fields[0], hide).replace(" ", r"\040")
        fields[3] = ",".join(_option(option, hide) for option in fields[3].split(","))
        return " ".join(fields)

    return by_line(text, change)


def _option(option: str, hide: Hide) -> str:
    name, equals, value = option.partition("=")
    if not _MOUNT.fullmatch(name):
        return f"{name}={hide(value)}" if equals and re.fullmatch(r"[A-Za-z][\w.-]{0,40}", name) else hide(option)
    return f"{name}={redact_words(value, hide)}" if equals else option


def certificates(text: str, hide: Hide) -> str:
    """Return the certificates of a file; what stands around them, private keys among it, is taken out."""
    inside = False

    def change(line: str) -> str:
        nonlocal inside
        stripped = line.strip()
        if stripped == "-----BEGIN CERTIFICATE-----":
            inside = True
            return line
        if stripped == "-----END CERTIFICATE-----":
            inside = False
            return line
        if not stripped or (inside and re.fullmatch(r"[A-Za-z0-9+/=]{1,76}", stripped)):
            return line
        return line.replace(stripped, hide(stripped), 1)

    return "\n".join(map(change, text.split("\n")))


_PUBLIC_KEY = re.compile(r"(?P<key>(?:ssh|ecdsa|sk)-[\w@.-]{1,60} AAAA[A-Za-z0-9+/]+={0,2})(?P<rest>.*)", re.DOTALL)


def public_keys(text: str, hide: Hide) -> str:
    """Return public SSH keys with what secrets stand beside them taken out."""

    def change(line: str) -> str:
        match = _PUBLIC_KEY.fullmatch(line)
        return match["key"] + redact_text(match["rest"], hide) if match else redact_words(line, hide)

    return by_line(redact_keys(text, hide), change)


def commented(text: str, hide: Hide) -> str:
    """Return a file whose lines are all read, but for its comments."""
    return redact_words(by_line(text, uncommented), hide)
