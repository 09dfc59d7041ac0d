"""What gathering touches besides reading files: the whole list, each with its reason. Whatever is not in it, a test refuses.

``tests/live/test_read_only.py`` runs every probe under strace on a real machine and compares. `kvmcheck commands` shows the
list, and ``docs/touches.md`` is made of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True)
class Touch:
    """Something that is touched.

    ``events``: how tests/live/strace.py tells it, as patterns of shells; empty where strace cannot see it.
    ``probes``: which probes do it; empty for what belongs to no probe (the login, sudo).
    ``active``: only with --kvmcheck-active.
    """

    what: str
    why: str
    probes: tuple[str, ...]
    events: tuple[str, ...] = ()
    active: bool = False

    def covers(self, probe: str, event: str) -> bool:
        """Whether *event* of *probe* is this one."""
        return probe in self.probes and any(fnmatchcase(event, pattern) for pattern in self.events)


_VIRSH = ("virsh", "domain", "domstats", "objects", "images", "domblkerror", "image_modes", "pool_files", "domstats_later")
_SYSTEMCTL = (
    *("systemd_units", "systemd_failed", "systemd_state", "virt_admin", "audit_denials", "firewalld", "multipath_maps"),
    *("multipath_maps_later", "multipath_config", *_VIRSH, "domcapabilities"),
)

TOUCHES: tuple[Touch, ...] = (
    Touch(
        "libvirt's read-only socket; a daemon that went to sleep wakes up by it, and goes to sleep again when it has nothing to do",
        "only libvirt knows its guests, and its sockets are made to wake it. A daemon that failed, that was stopped while guests"
        " run, or that never goes to sleep by itself is not woken (decision 15)",
        _VIRSH,
        ("connect unix */libvirt/*-sock-ro",),
    ),
    Touch(
        "libvirt's read-write socket",
        "it refuses this question on the other one (decision 10); nothing is changed",
        ("domcapabilities",),
        ("connect unix */libvirt/*-sock",),
    ),
    Touch(
        "the sockets for administration of libvirt's daemons that run",
        "only they know with which filters they log now; nothing is changed, and those that do not run are not asked",
        ("virt_admin",),
        ("connect unix */libvirt/*-admin-sock",),
    ),
    Touch(
        "/dev/tty is opened and closed",
        "virsh and virt-admin look whether there is a terminal to ask for a password; nothing is written to it",
        (*_VIRSH, "domcapabilities", "virt_admin"),
        ("write /dev/tty",),
    ),
    Touch(
        "systemd's private socket (root) or the system's message bus",
        "systemctl and firewall-cmd have no other way; firewalld and the like are asked only while they run",
        _SYSTEMCTL,
        (
            "connect unix /run/systemd/private",
            "connect unix */run/dbus/system_bus_socket",
            "connect unix /run/dbus/system_bus_socket",
        ),
    ),
    Touch(
        "multipathd's socket, while the daemon runs",
        "only multipathd knows the state of its path checkers; a stopped one would be started by its socket, and is not asked",
        ("multipath_maps", "multipath_maps_later", "multipath_config"),
        ("connect unix @/org/kernel/linux/storage/multipathd*", "connect unix */multipathd.socket"),
    ),
    Touch(
        "packets to chronyd and ntpd on the loopback: they never leave the host",
        "chronyc and ntpq have no other way without a socket file of their own",
        ("chrony_tracking", "chrony_sources", "ntpd_variables", "ntpd_peers"),
        ("connect udp 127.0.0.1:323", "connect udp 127.0.0.1:123", "send udp*"),
    ),
    Touch(
        "a socket file of chronyc in /run/chrony for a moment, as root, where chronyd has cmdport 0 or another bindcmdaddress",
        "chronyd answers to that file; it is removed at once",
        ("chrony_tracking", "chrony_sources"),
        (
            "bind unix /run/chrony/chronyc.*.sock",
            "connect unix */run/chrony/chronyd.sock",
            "mark /run/chrony/chronyc.*.sock",
            "remove /run/chrony/chronyc.*.sock",
            "send udp*",
            "connect udp* ::1:323",
        ),
    ),
    Touch(
        "block devices are opened for reading",
        "the first bytes of guests' disks tell their format, LVM's labels what belongs to it",
        ("images", "lvm"),
        ("device /dev/*",),
    ),
    Touch(
        "/dev/mapper/control is opened for writing, where the kernel has a device mapper",
        "the kernel takes questions about maps in no other way; only their state is asked",
        ("lvm", "multipath_dmsetup"),
        ("write /dev/mapper/control",),
    ),
    Touch(
        "locks and hints of LVM below /run, with releases that know neither --nohints nor --nolocking",
        "LVM before 2.03 cannot be asked without",
        ("lvm",),
        (),
    ),
    Touch(
        "the kernel's audit, by its netlink socket",
        "auditctl -s has no other way; it is asked for its state only",
        ("audit_status",),
        ("socket NETLINK_AUDIT",),
    ),
    Touch(
        "network cards, by the kernel's generic netlink socket",
        "ethtool and teamdctl ask so; nothing is set",
        ("ethtool", "guest_channels", "teams"),
        ("socket NETLINK_GENERIC",),
    ),
    Touch(
        "the kernel's packet filter, by its netlink or raw socket",
        "nft and iptables-save list rules so; they are asked only about what is loaded, as they might load the rest",
        ("nftables", "iptables", "libvirt_rules"),
        ("socket NETLINK_NETFILTER", "socket AF_INET SOCK_RAW", "socket AF_INET6 SOCK_RAW"),
    ),
    Touch(
        "the sockets of teamd and of Open vSwitch's database, while they are there",
        "nobody else knows the state of teams and switches",
        ("teams", "ovs"),
        ("connect unix */teamd/*.sock", "connect unix */openvswitch/db.sock"),
    ),
    Touch(
        "a nameless temporary file of apt-get, gone when it ends",
        "apt-get unpacks signed indexes into one. It runs as nobody, who can write nothing else, with its logs switched off",
        ("updates",),
        ("write /tmp",),
    ),
    Touch(
        "the cache of account names (nscd), where it runs",
        "ausearch and apt-get look for the names of their own accounts, which are local ones",
        ("audit_failures", "audit_denials", "updates"),
        ("connect unix /var/run/nscd/socket",),
    ),
    Touch(
        "rpm's locks and shared memory beside its database, as root where there is no setpriv",
        "rpm is asked as nobody otherwise, who cannot write them",
        ("packages", "updates"),
        (),
    ),
    Touch(
        "names and accounts wherever the host looks for them: DNS, LDAP",
        "what the host's files do not tell; only on request",
        ("hostname_fqdn", "name_lookup", "libvirt_accounts"),
        (),
        active=True,
    ),
    Touch(
        "pings to the peers of storage",
        "large frames show whether the MTU holds on the way; only on request",
        ("storage_ping",),
        (),
        active=True,
    ),
    Touch(
        "with --sudo: sudo's own log lines and time stamps, and what it does to find the host's name",
        "sudo writes down what is run; the rules of kvmcheck commands --sudoers bound it",
        (),
    ),
    Touch(
        "the login: what sshd (or another way in) writes down about it",
        "one connection a run; its log lines are your proof of what was run",
        (),
    ),
)


def is_published(probe: str, event: str) -> bool:
    """Whether *event* (as tests/live/strace.py tells it) of *probe* is in the list."""
    return any(touch.covers(probe, event) for touch in TOUCHES)
