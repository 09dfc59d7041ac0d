from __future__ import annotations

import pytest

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.timedaemon import parse_daemon


@pytest.mark.parametrize(
    ("command", "steers"),
    [
        ("/usr/sbin/chronyd -F 2", True),
        ("/usr/sbin/chronyd -F 2 -x", False),
        ("/usr/sbin/chronyd -dx", False),
        ("/usr/sbin/chronyd -f /etc/x.conf", True),
        ("/usr/sbin/ntpd -u ntp:ntp -g", True),
        ("/usr/sbin/phc2sys", True),
        ("/usr/sbin/phc2sys -a -r", True),
        ("/usr/sbin/phc2sys -arr -n 24", True),
        ("/usr/sbin/phc2sys -a", False),
        ("/usr/sbin/phc2sys -s ens1f0 -w", True),
        ("/usr/sbin/phc2sys -s ens1f0 -c CLOCK_REALTIME -O 0", True),
        ("/usr/sbin/phc2sys -s CLOCK_REALTIME -c ens2f0 -w", False),
        ("/usr/sbin/phc2sys -s CLOCK_REALTIME -cens2f0", False),
        ("/usr/sbin/phc2sys -a -r -E ntpshm -M 0", False),
        ("/usr/sbin/ptp4l -f /etc/ptp4l.conf -i ens1f0", False),
        ("/usr/sbin/timemaster -f /etc/timemaster.conf", False),
    ],
)
def test_who_steers_the_system_clock(command: str, steers: bool) -> None:
    assert parse_daemon("\n".join(command.split()) + "\n").steers is steers


def test_options() -> None:
    daemon = parse_daemon("ptp4l\n-mH\n-iens1f0\n-f\n/etc/ptp4l.conf\n")
    assert daemon.has("H")
    assert not daemon.has("S")
    assert (daemon.value("i"), daemon.value("f"), daemon.value("l")) == ("ens1f0", "/etc/ptp4l.conf", "")


@pytest.mark.parametrize("text", ["", "/usr/bin/bash\n-c\nptp4l\n", "ptp4l\0-i\0eth0\0"])
def test_other_commands_are_refused(text: str) -> None:
    with pytest.raises(ParseError):
        parse_daemon(text)
