"""Probes of the clock and of what keeps it right."""

from __future__ import annotations

from pytest_kvmcheck.probes.model import EVERYWHERE, Probe, Root, command, file, files, shell

_CHRONY_CONF = "/etc/chrony.conf /etc/chrony.d/*.conf /etc/chrony/chrony.conf /etc/chrony/conf.d/*.conf"


def _chronyc(what: str) -> str:
    """Return the script that asks chronyd by UDP on the loopback: chronyc of root would otherwise make a socket file of its own.

    Where chronyd takes no commands there (cmdport 0, another bindcmdaddress), only that file is left. chronyc prints its own errors
    on standard output, so the exit code decides.
    """
    return (
        "h='-h 127.0.0.1'\n"
        f"! grep -qsE '^[[:space:]]*(cmdport[[:space:]]+0|bindcmdaddress[[:space:]]+[^/])' {_CHRONY_CONF} || h=\n"
        f"chronyc $h -n -c {what}"
    )


CLOCK: tuple[Probe, ...] = (
    # The controller notes when it asked and when this answer arrived (gather/live.py): what lies between is the doubt.
    shell(
        "clock",
        "date +%s.%N\necho zone $(readlink /etc/localtime)\necho digest $(md5sum /etc/localtime 2>/dev/null)",
        "the target's clock to the fraction of a second, and its time zone",
        roles=EVERYWHERE,
        first=True,
    ),
    files(
        "clocksource",
        "/sys/devices/system/clocksource/clocksource0/current_clocksource"
        " /sys/devices/system/clocksource/clocksource0/available_clocksource",
        "the kernel's clock source",
        roles=EVERYWHERE,
    ),
    shell("chrony_tracking", _chronyc("tracking"), "chrony: reference, offset and error of the clock", roles=EVERYWHERE),
    # An address, as a name could make it ask DNS.
    command("ntpd_variables", "ntpq -n -c rv 127.0.0.1", "ntpd: reference, offset and error of the clock", roles=EVERYWHERE),
    # systemd before 239 has no such file: then it is not known, while no stamp beside a running daemon says that it never did.
    shell(
        "timesyncd_stamp",
        "if [ -d /run/systemd/timesync ] || ! grep -sqx systemd-timesyn /proc/[0-9]*/comm; then\n"
        "  stat -c %Y /run/systemd/timesync/synchronized\n"
        "else echo 'systemd-timesyncd of this release does not tell when it set the clock' >&2; exit 1; fi",
        "when systemd-timesyncd last set the clock",
        roles=EVERYWHERE,
    ),
    shell(
        "chrony_sources",
        _chronyc("sources"),
        "chrony: the servers and reference clocks, and how they answer",
        roles=EVERYWHERE,
    ),
    files("ptp_clocks", "/sys/class/ptp/ptp*/clock_name", "PTP hardware clocks", roles=EVERYWHERE),
    command("ntpd_peers", "ntpq -pn 127.0.0.1", "ntpd: the servers, and how they answer", sos=("sos_commands/ntp/ntpq_-pn",)),
    files(
        "chrony_conf",
        _CHRONY_CONF,
        "configuration of chrony",
        roles=EVERYWHERE,
    ),
    # The options decide who steers the system clock. Processes of strangers, who may have any name, are left out. They are not
    # counted: chronyd may be two (a helper of its own).
    shell(
        "time_daemons",
        "[ -d /proc/self ] || exit 66\n"
        "for f in $(grep -sxlE 'chronyd|ntpd|phc2sys|ptp4l|timemaster' /proc/[0-9]*/comm); do\n"
        "  p=${f#/proc/} p=${p%/comm}; system $p || continue; echo @@$N $p; tr '\\0' '\\n' </proc/$p/cmdline\n"
        "done 2>/dev/null; exit 0",
        "command lines of the processes that keep clocks",
        keyed=True,
    ),
    files("ptp_conf", "/etc/ptp4l.conf /etc/linuxptp/*.conf", "configuration of ptp4l"),
    # Anybody may log under any name; by whom a line was logged is journald's own word (systemd.journal-fields(7)).
    shell(
        "ptp_log",
        "command -v journalctl >/dev/null || { echo 'journalctl: not found' >&2; exit 127; }\n"
        "$SUDO journalctl -q -b -t ptp4l -t phc2sys -n 400 -o short-unix --no-pager _UID=0",
        "the last words of ptp4l and phc2sys",
        root=Root.MAY,
        when="grep -sxqE 'ptp4l|phc2sys' /proc/[0-9]*/comm",
        timeout_s=20,
        sudo=("journalctl -q -b -t ptp4l -t phc2sys -n 400 -o short-unix --no-pager _UID=0",),
    ),
    # The two clocks are read one after the other, so that they can be compared.
    shell(
        "clock_devices",
        "[ -d /sys/class ] || exit 66\n"
        "if [ -e /sys/class/rtc/rtc0/since_epoch ]; then\n"
        "  read -r r </sys/class/rtc/rtc0/since_epoch || exit 1; echo rtc $r $(date +%s)\n"
        "else echo rtc none; fi\n"
        'if [ -h /etc/localtime ]; then l=$(readlink /etc/localtime) || exit 1; echo "zone $l"\n'
        "elif [ -e /etc/localtime ]; then echo zone file; else echo zone none; fi\n"
        "for f in /dev/ptp*; do [ -e $f ] && echo ptp $f; done; exit 0",
        "the battery clock beside the system clock, the time zone, and the nodes of PTP clocks",
        roles=EVERYWHERE,
    ),
    file("adjtime", "/etc/adjtime", "whether the battery clock keeps UTC", roles=EVERYWHERE),
)
