"""Probes of the clock and of what keeps it right."""

from __future__ import annotations

from pytest_kvmcheck.probes.model import EVERYWHERE, Probe, command, files

CLOCK: tuple[Probe, ...] = (
    files(
        "clocksource",
        "/sys/devices/system/clocksource/clocksource0/current_clocksource"
        " /sys/devices/system/clocksource/clocksource0/available_clocksource",
        "the kernel's clock source",
        roles=EVERYWHERE,
    ),
    # chronyc prints its own errors on standard output, so the exit code decides.
    command("chrony_tracking", "chronyc -n -c tracking", "chrony: reference, offset and error of the clock", roles=EVERYWHERE),
    command("ntpd_variables", "ntpq -c rv", "ntpd: reference, offset and error of the clock", roles=EVERYWHERE),
    command(
        "timesyncd_stamp",
        "stat -c %Y /run/systemd/timesync/synchronized",
        "when systemd-timesyncd last set the clock",
        roles=EVERYWHERE,
    ),
    command(
        "chrony_sources",
        "chronyc -n -c sources",
        "chrony: the servers and reference clocks, and how they answer",
        roles=EVERYWHERE,
    ),
    files("ptp_clocks", "/sys/class/ptp/ptp*/clock_name", "PTP hardware clocks", roles=EVERYWHERE),
)
