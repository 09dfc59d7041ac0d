"""What commands print in a sosreport, as our own probes print it: the same facts, or no answer.

``iproute2-6.1`` holds what iproute2 6.1 printed of one network namespace, for people and as JSON.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.chrony import parse_sources, parse_tracking
from pytest_kvmcheck.facts.df import parse_space
from pytest_kvmcheck.facts.iplink import parse_links
from pytest_kvmcheck.facts.iproute import parse_interfaces, parse_routes, parse_rules
from pytest_kvmcheck.facts.iscsi import parse_nodes, parse_sessions
from pytest_kvmcheck.facts.kernellog import begins_at_boot, parse_kernel_log
from pytest_kvmcheck.facts.microcode import parse_microcode
from pytest_kvmcheck.facts.ntp import parse_epoch
from pytest_kvmcheck.facts.systemd import parse_units
from pytest_kvmcheck.facts.versions import parse_packages
from pytest_kvmcheck.gather import sosip, sostext, sostime
from pytest_kvmcheck.gather.sostext import FORMS, Convert
from tests.facts.hostile import BINARY, EMPTY, ERRORS
from tests.facts.test_parsers import DAMAGE

PRINTED = Path(__file__).parent / "iproute2-6.1"


def printed(name: str) -> str:
    return (PRINTED / name).read_text("utf-8")


BOND = """\
1: lo: <LOOPBACK,UP,LOWER_UP> mtu 65536 qdisc noqueue state UNKNOWN mode DEFAULT group default qlen 1000
    link/loopback 00:00:00:00:00:00 brd 00:00:00:00:00:00 promiscuity 0 addrgenmode eui64 numtxqueues 1 numrxqueues 1
2: eno1: <BROADCAST,MULTICAST,SLAVE,UP,LOWER_UP> mtu 9000 qdisc mq master bond0 state UP mode DEFAULT group default qlen 1000
    link/ether 0c:42:a1:00:00:01 brd ff:ff:ff:ff:ff:ff promiscuity 0 minmtu 68 maxmtu 9978
    bond_slave state ACTIVE mii_status UP link_failure_count 0 perm_hwaddr 0c:42:a1:00:00:01 queue_id 0 ad_aggregator_id 1 \
ad_actor_oper_port_state 61 <active,short_timeout> ad_partner_oper_port_state 61 addrgenmode eui64 numtxqueues 8 numrxqueues 8
    RX: bytes  packets  errors  dropped overrun mcast
    0          1        0       0       0       0
    vf 0     link/ether 52:54:00:00:00:0a brd ff:ff:ff:ff:ff:ff, vlan 7, spoof checking on, link-state auto, trust off
    vf 1     link/ether 00:00:00:00:00:00 brd ff:ff:ff:ff:ff:ff, spoof checking off, link-state auto
    altname enp59s0f0
3: bond0: <BROADCAST,MULTICAST,MASTER,UP,LOWER_UP> mtu 9000 qdisc noqueue state UP mode DEFAULT group default qlen 1000
    link/ether 0c:42:a1:00:00:01 brd ff:ff:ff:ff:ff:ff promiscuity 0 minmtu 68 maxmtu 65535
    bond mode 802.3ad miimon 100 updelay 0 downdelay 0 use_carrier 1 arp_interval 0 arp_validate none arp_all_targets any \
xmit_hash_policy layer3+4 min_links 0 lacp_rate slow ad_select stable ad_aggregator 1 ad_num_ports 1 ad_actor_key 15 \
ad_partner_key 7 ad_partner_mac 02:00:00:00:00:99 ad_actor_sys_prio 65535 addrgenmode eui64 numtxqueues 16 numrxqueues 16
4: bond0.7@bond0: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1500 qdisc noqueue state UP mode DEFAULT group default qlen 1000
    link/ether 0c:42:a1:00:00:01 brd ff:ff:ff:ff:ff:ff promiscuity 0 minmtu 0 maxmtu 65535
    vlan protocol 802.1Q id 7 <REORDER_HDR>
      egress-qos-map { 0:1 } addrgenmode eui64 numtxqueues 1 numrxqueues 1
5: gre0@NONE: <NOARP> mtu 1476 qdisc noop state DOWN mode DEFAULT group default qlen 1000
    link/gre 0.0.0.0 brd 0.0.0.0 promiscuity 0
    gre remote any local any ttl inherit nopmtudisc addrgenmode eui64 numtxqueues 1 numrxqueues 1
"""
UNITS = (
    "Type=notify\nId=a.service\nNames=a.service\nLoadState=loaded\nActiveState=active\nSubState=running\nUnitFileState=enabled\n"
)
CPU = "processor\t: 0\ncpu family\t: 6\nmodel\t\t: 85\nmodel name\t: X\nstepping\t: 7\nmicrocode\t: 0x10\n"
TRACKING = """\
Reference ID    : C0000201 (192.0.2.1)
Stratum         : 3
Ref time (UTC)  : Fri Feb 11 19:20:01 2022
System time     : 0.000012345 seconds slow of NTP time
Last offset     : -0.000005000 seconds
RMS offset      : 0.000020000 seconds
Frequency       : 12.345 ppm fast
Residual freq   : -0.001 ppm
Skew            : 0.050 ppm
Root delay      : 0.010000000 seconds
Root dispersion : 0.002000000 seconds
Update interval : 1040.1 seconds
Leap status     : Normal
"""
SOURCES = """\
MS Name/IP address         Stratum Poll Reach LastRx Last sample
===============================================================================
^* 192.0.2.1                     2   6   377    25   +243us[ +393us] +/- 1763us
^- 2001:db8::1                   3  10   377   20m    -12ms[  -12ms] +/-   43ms
^? 192.0.2.9                     0  10     0     -     +0ns[   +0ns] +/-    0ns
#x PPS0                          0   4    17    3h  -1504.5s[-1504.5s] +/-  3m
"""
DF = """\
Filesystem     1K-blocks    Used Available Use% Mounted on
/dev/vda1       40470732 3590360  36863988   9% /
proc                   0       0         0    - /proc
"""
SESSION = """\
iSCSI Transport Class version 2.0-870
version 6.2.1.4-1
Target: iqn.2003-01.org.example:vm (non-flash)
\tCurrent Portal: [fd00::7]:3260,1
\tPersistent Portal: [fd00::7]:3260,1
\t\t**********
\t\tInterface:
\t\t**********
\t\tIface Name: default
\t\tIface Transport: tcp
\t\tSID: 1
\t\tiSCSI Connection State: TRANSPORT WAIT
\t\tiSCSI Session State: FREE
\t\tInternal iscsid Session State: REOPEN
\t\t*********
\t\tTimeouts:
\t\t*********
\t\tRecovery Timeout: 5
"""
NODE = """\
# BEGIN RECORD 2.1.8
node.name = iqn.2003-01.org.example:vm
node.tpgt = 1
node.startup = manual
iface.iscsi_ifacename = default
node.conn[0].address = fd00::7
node.conn[0].port = 3260
# END RECORD
"""
DMESG = """\
[    0.000000] microcode: microcode updated early to revision 0xf0, date = 2021-11-12
[    0.000000] Linux version 6.1.0-56-amd64 (x@y) #1 SMP PREEMPT_DYNAMIC
[    3.100000][    T1] systemd[1]: Inserted module 'kvm_intel'
[  900.250000] EDAC MC0: 1 CE memory read error on CPU_SrcID#0
"""
STAT = "cpu  1 0 1 1 0 0 0 0 0 0\nbtime 1700000000\n"
RPMS = "glibc-2.34-60.el9.x86_64     Mon 01 May\nlibvirt-daemon-9.0.0-10.el9.x86_64     Mon 01 May\nzlib-1.2-1.el9.x86_64 Mon\n"
DEBS = (
    f"Desired=Unknown/Install\n||/ Name        Version\n+++-{'=' * 100}\n"
    "ii  libc6:amd64   2.36-9  amd64   x\nii  libvirt-daemon   9.0.0-4   amd64   x\nrc  ovmf   2022.11   all   x\n"
)

#: A valid sample of each text, and what parses the answer made of it.
SAMPLES: dict[Convert, list[tuple[str, Callable[[str], Any]]]] = {
    sostext.units: [(UNITS + "\n" + UNITS.replace("a.service", "b.service"), parse_units)],
    sostext.microcode: [(CPU, parse_microcode)],
    sostime.now: [("Fri Feb 11 19:23:39 UTC 2022\n", parse_epoch)],
    sosip.ip_link: [(printed("ip_-s_-d_link"), parse_links), (printed("ip_-d_address"), parse_links), (BOND, parse_links)],
    sosip.ip_addr: [(printed("ip_-d_address"), parse_interfaces)],
    sosip.ip_addr_lines: [(printed("ip_-o_addr"), parse_interfaces)],
    sosip.ip_route: [(printed("ip_route_show_table_all"), parse_routes)],
    sosip.ip_route6: [(printed("ip_-6_route_show_table_all"), parse_routes)],
    sosip.ip_rule: [(printed("ip_-4_rule"), parse_rules)],
    sostime.chrony_tracking: [(TRACKING, parse_tracking)],
    sostime.chrony_sources: [(SOURCES, parse_sources)],
    sostext.df: [(DF, parse_space)],
    sostext.kvm_modules: [
        (
            "Module                  Size  Used by\nkvm_intel             282624  0\nkvm                   663552  1 kvm_intel\n",
            str.split,
        ),
        ("kvm_amd 155648 0 - Live 0xffffffffc0a00000\nkvm 1056768 1 kvm_amd, Live 0xffffffffc08f0000 (O)\n", str.split),
    ],
    sostext.kernel_log: [(DMESG, parse_kernel_log)],
    sostext.rpms: [(RPMS, parse_packages)],
    sostext.debs: [(DEBS, parse_packages)],
    sostext.host_name: [("kvm01.example.org\n", str.split)],
    sostext.scsi_disks: [
        (
            "/sys/block:\ntotal 0\ndrwxr-xr-x  2 0 0 0 Feb 11 19:23 .\nlrwxrwxrwx  1 0 0 0 Feb 11 19:23 sda -> ../devices/a/sda\n",
            str.split,
        )
    ],
    sostext.iscsi: [(SESSION, parse_sessions), ("iscsiadm: No active sessions.\n", parse_sessions)],
    sostext.iscsi_nodes: [(NODE, parse_nodes)],
}
#: The second text of those that take two.
BESIDE = {sostext.kernel_log: (STAT,)}
each_form = pytest.mark.parametrize("convert", sorted(SAMPLES, key=lambda item: item.__name__), ids=lambda item: item.__name__)


def attempt(convert: Convert, text: str) -> str | None:
    """What is made of *text*, having been parsed as far as the parser takes it."""
    told = convert(text, *BESIDE.get(convert, ()))
    if told is not None:
        for _, parse in SAMPLES[convert]:
            # evidence.parsing makes "unparsable" of these
            with contextlib.suppress(ParseError, ValueError, OverflowError):
                parse(told)
    return told


def test_each_form_has_a_sample() -> None:
    assert {form.convert for forms in FORMS.values() for form in forms} == set(SAMPLES)


@each_form
def test_a_valid_text_is_told(convert: Convert) -> None:
    assert SAMPLES[convert]
    for text, parse in SAMPLES[convert]:
        told = attempt(convert, text)
        assert told is not None
        assert parse(told) is not None
        assert attempt(convert, text.replace("\n", "\r\n")) == told


@each_form
def test_no_hostile_text_is_told(convert: Convert) -> None:
    for text in (*ERRORS, *BINARY, *EMPTY):
        assert attempt(convert, text) is None, text
        for good, parse in SAMPLES[convert]:
            for mixed in (text + good, good.rstrip("\n") + "\n" + text):
                told = attempt(convert, mixed)
                # What is told beside a message is the same, or refused by the parser.
                if told is not None and mixed.strip() != good.strip() and told != attempt(convert, good):
                    with contextlib.suppress(ParseError):
                        assert parse(told) == parse(attempt(convert, good) or ""), (mixed, told)


@each_form
def test_cut_and_damaged_texts_raise_nothing(convert: Convert) -> None:
    assert SAMPLES[convert]
    for good, _ in SAMPLES[convert]:
        for part in range(48):
            attempt(convert, good[: len(good) * part // 48])
        for pattern, new in DAMAGE:
            attempt(convert, re.sub(pattern, new, good))
            sostext.sysctl_files(re.sub(pattern, new, good))


def test_links_are_those_of_the_json() -> None:
    wanted = parse_links(printed("ip_-j_-d_link"))
    for name in ("ip_-s_-d_link", "ip_-d_address"):
        found = parse_links(sosip.ip_link(printed(name)) or "")
        assert list(found) == list(wanted)
        for mine, theirs in zip(found.values(), wanted.values(), strict=True):
            assert replace(mine, data={}, slave_data={}) == replace(theirs, data={}, slave_data={})
            for told, whole in ((mine.data, theirs.data), (mine.slave_data, theirs.slave_data)):
                assert {key: (type(value), value) for key, value in told.items()} == {
                    key: (type(whole[key]), whole[key]) for key in told
                }
        data = found["br0"].data
        assert {
            "stp_state",
            "forward_delay",
            "vlan_filtering",
            "nf_call_iptables",
            "nf_call_ip6tables",
            "nf_call_arptables",
        } <= set(data)
        assert found["eno1"].slave_data["state"] == "listening"
        assert found["vnet0"].number("numdisabled") == 0
        assert found["k2b"].lower == ""


def test_addresses_routes_and_rules_are_those_of_the_json() -> None:
    wanted = parse_interfaces(printed("ip_-j_addr"))
    assert parse_interfaces(sosip.ip_addr(printed("ip_-d_address")) or "") == wanted
    assert parse_interfaces(sosip.ip_addr_lines(printed("ip_-o_addr")) or "") == wanted
    assert parse_routes(sosip.ip_route(printed("ip_route_show_table_all")) or "") == parse_routes(printed("ip_-j_route"))
    assert parse_routes(sosip.ip_route6(printed("ip_-6_route_show_table_all")) or "") == parse_routes(printed("ip_-j_-6_route"))
    assert parse_rules(sosip.ip_rule(printed("ip_-4_rule")) or "") == parse_rules(printed("ip_-j_rule"))


def test_bonds_vlans_and_functions() -> None:
    found = parse_links(sosip.ip_link(BOND) or "")
    assert found["bond0"].data["mode"] == "802.3ad"
    assert found["bond0"].data["ad_info"] == {"aggregator": 1, "num_ports": 1, "partner_mac": "02:00:00:00:00:99"}
    assert found["eno1"].slave_kind == "bond"
    assert (found["eno1"].slave_data["mii_status"], found["eno1"].slave_data["ad_aggregator_id"]) == ("UP", 1)
    assert found["eno1"].kind == ""
    assert (found["bond0.7"].lower, found["bond0.7"].data["id"]) == ("bond0", 7)
    assert found["gre0"].lower == ""
    assert [(vf.number, vf.mac, vf.spoofchk, vf.trust) for vf in found["eno1"].vfs or ()] == [
        (0, "52:54:00:00:00:0a", True, False),
        (1, "00:00:00:00:00:00", False, None),
    ]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("promiscuity 0", "", id="without -d"),
        pytest.param("addrgenmode eui64 numtxqueues 16 numrxqueues 16", "", id="details without their end"),
        pytest.param("bond mode 802.3ad miimon 100", "bond mode 802.3ad", id="a bond without miimon"),
        pytest.param(" arp_interval 0", "", id="a bond without arp_interval"),
        pytest.param(" id 7", "", id="a VLAN without its number"),
        pytest.param("@bond0:", "@elsewhere:", id="below a device that is not there"),
        pytest.param("1: lo: ", "9: lo: ", id="the beginning is lost"),
        pytest.param("link/ether 52:54:00:00:00:0a", "?", id="a function without an address"),
        pytest.param("2: eno1:", "Dump was interrupted and may be inconsistent.\n2: eno1:", id="a message within"),
        pytest.param("5: gre0", "4: gre0", id="one number twice"),
    ],
)
def test_links_that_are_not_told_in_full(old: str, new: str) -> None:
    assert sosip.ip_link(BOND.replace(old, new)) is None


def test_a_bridge_of_an_old_iproute2_is_not_judged() -> None:
    """It names the kind and no setting: a bridge without vlan_filtering would be one without VLANs."""
    text = printed("ip_-d_address")
    assert sosip.ip_link(re.sub(r"    bridge forward_delay .* nf_call_arptables 0 ", "    bridge ", text)) is None


@pytest.mark.parametrize(
    ("text", "routes"),
    [
        ("default via inet6 fe80::1 dev br0 \n", 1),
        ("default dev tun0 scope link \n", 1),
        ("default dev tun0 metric 50 pref medium\n", 0),
        ("unreachable 10.0.0.0/8 metric 5 \n", 1),
        ("10.0.0.0/8 dev table proto static \n", 1),
        ("10.0.0.0/8 dev br0 table 7 proto static \n", 0),
        ("default dev tun0 \n", None),
        ("16 as to 17 via inet 192.0.2.1 dev br0 \n", None),
        ("default via 192.0.2.1 dev br0", None),
        ("RTNETLINK answers: Operation not supported\n", None),
    ],
)
def test_families_and_tables_of_routes(text: str, routes: int | None) -> None:
    told = sosip.ip_route(text)
    assert (None if told is None else len(parse_routes(told))) == routes


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Fri Feb 11 19:23:39 UTC 2022", "1644607419"),
        ("Fri Feb 11 07:23:39 PM UTC 2022", "1644607419"),
        ("Sat Feb 12 12:00:01 AM UTC 2022", "1644624001"),
        ("Fri 11 Feb 2022 07:23:39 PM UTC", "1644607419"),
        ("Fri Feb 11 19:23:39 CET 2022", None),
        ("Fri Feb 11 19:23:39 2022", None),
        ("Fri Feb 31 19:23:39 UTC 2022", None),
        ("Fri Feb 11 19:23:39 PM UTC 2022", None),
        ("Fr 11. Feb 19:23:39 UTC 2022", None),
    ],
)
def test_dates(text: str, seconds: str | None) -> None:
    assert (sostime.now(text + "\n") or "").strip() == (seconds or "")


def test_chrony() -> None:
    tracking = parse_tracking(sostime.chrony_tracking(TRACKING) or "")
    assert (tracking.reference_id, tracking.stratum, tracking.synchronized) == ("C0000201", 3, True)
    assert (tracking.offset_s, tracking.root_delay_s, tracking.reference_s) == (0.000012345, 0.01, 1644607201)
    old = parse_tracking(sostime.chrony_tracking(TRACKING.replace("C0000201 (192.0.2.1)", "192.0.2.1 (ntp.example)")) or "")
    assert old.reference_id == "C0000201"
    sources = parse_sources(sostime.chrony_sources(SOURCES) or "")
    assert [(item.address, item.state, item.reach, item.last_rx_s) for item in sources] == [
        ("192.0.2.1", "*", 0o377, 25),
        ("2001:db8::1", "-", 0o377, 1259),
        ("192.0.2.9", "?", 0, None),
        ("PPS0", "x", 0o17, 4 * 3600 - 1),
    ]
    assert sostime.chrony_sources("210 Number of sources = 5\n" + SOURCES) is None
    assert sostime.chrony_sources(SOURCES.replace("192.0.2.1 ", "a-long-name-that-is-cut.e> ")) is None
    for convert in (sostime.chrony_tracking, sostime.chrony_sources):
        assert convert("506 Cannot talk to daemon\n") == "506 Cannot talk to daemon\n"
        assert convert("Could not open connection to daemon\n") is None


def test_a_module_that_is_built_in_is_not_listed() -> None:
    assert sostext.kvm_modules("Module                  Size  Used by\nveth                   32768  0\n") is None
    assert sostext.kvm_modules("Module                  Size  Used by\nkvm                   663552  0\n") == "kvm\n"


def test_space_is_told_as_by_df_without_all() -> None:
    assert set(parse_space(sostext.df("df: '/run/x': Permission denied\n" + DF) or "")) == {"/"}
    head = "Filesystem Type Inodes IUsed IFree IUse% Mounted on\n"
    inodes = head + "/dev/sda1 ext4 9 4 5 45% /\n/dev/sdb1 btrfs 0 0 0 - /b\nx y - - - - /hidden\n"
    assert {target: space.total for target, space in parse_space(sostext.df(inodes) or "").items()} == {"/": 9, "/b": 0}


def test_packages() -> None:
    assert parse_packages(sostext.rpms(RPMS) or "") == {"libvirt-daemon": "9.0.0-10.el9"}
    assert parse_packages(sostext.debs(DEBS) or "") == {"libvirt-daemon": "9.0.0-4"}
    assert sostext.rpms(RPMS.replace("glibc", "bash")) is None
    assert sostext.debs(DEBS.replace("=" * 100, "=" * 76)) is None


def test_the_kernel_log_is_that_of_the_whole_boot() -> None:
    told = sostext.kernel_log(DMESG, STAT) or ""
    assert begins_at_boot(told)
    assert [(item.time_s, item.text[:8]) for item in parse_kernel_log(told)] == [
        (1700000000.0, "microcod"),
        (1700000900.25, "EDAC MC0"),
    ]
    assert sostext.kernel_log(DMESG, "cpu  1 0 1 1 0 0 0 0 0 0\n") is None
    assert sostext.kernel_log("\n".join(DMESG.split("\n")[2:]), STAT) is None
    for text in (*ERRORS, *BINARY, *EMPTY):
        assert sostext.kernel_log(DMESG, text) is None


def test_iscsi() -> None:
    [session] = parse_sessions(sostext.iscsi(SESSION) or "")
    assert (session.portals, session.state, session.logged_in, session.recovery_s) == (("fd00::7",), "FREE", False, 5)
    assert sostext.iscsi(SESSION.replace("TRANSPORT WAIT", "Unknown")) is None
    assert sostext.iscsi(SESSION.rpartition("\t\tTimeouts")[0]) is None
    [node] = parse_nodes(sostext.iscsi_nodes(NODE) or "")
    assert (node.target, node.address, node.startup) == ("iqn.2003-01.org.example:vm", "fd00::7", "manual")
    assert sostext.iscsi_nodes("iscsiadm: No records found\n") == ""
    assert sostext.iscsi_nodes(NODE.partition("# END")[0]) is None
