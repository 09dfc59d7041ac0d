"""What ``date`` and ``chronyc`` print for people, as our own probes ask for it.

Source: date(1); client.c of chrony. A conversion returns None where the text does not tell the answer.
"""

from __future__ import annotations

import calendar
import re
from datetime import datetime

from pytest_kvmcheck.gather.sosip import whole_lines

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTH = rf"(?P<month>{'|'.join(_MONTHS)})"
_CLOCK = r"(?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d)(?: (?P<half>AM|PM))?"
#: By C and C.UTF-8, of 12 and 24 hours; by en_US.UTF-8.
_DATES = (
    re.compile(rf"(?P<weekday>\w{{3}}) {_MONTH} +(?P<day>\d{{1,2}}) {_CLOCK}(?: UTC)? (?P<year>\d{{4}})", re.ASCII),
    re.compile(rf"(?P<weekday>\w{{3}}) (?P<day>\d{{1,2}}) {_MONTH} (?P<year>\d{{4}}) {_CLOCK}(?: UTC)?", re.ASCII),
)


def now(text: str) -> str | None:
    """Return ``date +%s`` from ``date --utc``.

    Only UTC is taken: what other zones are called is ambiguous.

    >>> now("Fri Feb 11 19:23:39 UTC 2022\\n"), now("Fri Feb 11 07:23:39 PM UTC 2022\\n"), now("Fri 11 Feb 2022 07:23:39 PM UTC\\n")
    ('1644607419\\n', '1644607419\\n', '1644607419\\n')
    >>> now("Fri Feb 11 19:23:39 IST 2022\\n"), now("Mon Feb 11 19:23:39 UTC 2022\\n")
    (None, None)
    """
    moment = _moment(text.strip(), "UTC")
    return None if moment is None else f"{moment}\n"


def _moment(text: str, zone: str) -> int | None:
    """Return the seconds since 1970 of a date that names *zone*, or none where that is empty."""
    match = next(filter(None, (form.fullmatch(text) for form in _DATES)), None)
    if not match or ("UTC" in text) != bool(zone):
        return None
    hour = int(match["hour"])
    if match["half"]:
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + (12 if match["half"] == "PM" else 0)
    month = _MONTHS.index(match["month"]) + 1
    try:
        found = datetime(int(match["year"]), month, int(match["day"]), hour, int(match["minute"]), int(match["second"]))
    except ValueError:
        return None
    return calendar.timegm(found.timetuple()) if _DAYS[found.weekday()] == match["weekday"] else None


_TRACKING = (
    *("Reference ID", "Stratum", "Ref time (UTC)", "System time", "Last offset", "RMS offset", "Frequency", "Residual freq"),
    *("Skew", "Root delay", "Root dispersion", "Update interval", "Leap status"),
)
_NUMBER = r"([+-]?\d{1,12}(?:\.\d{1,12})?)"


def chrony_tracking(text: str) -> str | None:
    """Return ``chronyc -c tracking`` from ``chronyc tracking``. That no daemon answers is said in the same words by both.

    >>> chrony_tracking('''Reference ID    : A29FC87B (time.cloudflare.com)
    ... Stratum         : 4
    ... Ref time (UTC)  : Fri May 01 10:00:00 2026
    ... System time     : 0.000049000 seconds fast of NTP time
    ... Last offset     : +0.000010000 seconds
    ... RMS offset      : 0.000100000 seconds
    ... Frequency       : 1.200 ppm slow
    ... Residual freq   : +0.000 ppm
    ... Skew            : 0.100 ppm
    ... Root delay      : 0.001200000 seconds
    ... Root dispersion : 0.000500000 seconds
    ... Update interval : 64.2 seconds
    ... Leap status     : Normal
    ... ''')
    'A29FC87B,time.cloudflare.com,4,1777629600.0,-0.000049000,+0.000010000,0.000100000,-1.200,+0.000,0.100,0.001200000,0.000500000,64.2,Normal\\n'
    """
    lines = whole_lines(text)
    if lines and lines[0].startswith("506 "):
        return f"{lines[0]}\n"
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(" : ") for line in lines if line.strip())}
    if tuple(fields) != _TRACKING:
        return None
    reference = re.fullmatch(r"([0-9A-F]{8}|\d{1,3}(?:\.\d{1,3}){3}) \(([^\s,()]*)\)", fields["Reference ID"], re.ASCII)
    moment = _moment(fields["Ref time (UTC)"], "")
    offset = re.fullmatch(rf"{_NUMBER} seconds (slow|fast) of NTP time", fields["System time"], re.ASCII)
    frequency = re.fullmatch(rf"{_NUMBER} ppm (slow|fast)", fields["Frequency"], re.ASCII)
    others = [re.fullmatch(rf"{_NUMBER} (?:seconds|ppm)", fields[name], re.ASCII) for name in (*_TRACKING[4:6], *_TRACKING[7:12])]
    if not (reference and offset and frequency and all(others)) or moment is None or not fields["Stratum"].isdigit():
        return None
    number = reference[1]
    if "." in number:  # chrony before 3.0
        number = "".join(f"{int(part) % 256:02X}" for part in number.split("."))
    last, rms, *rest = (other[1] for other in others if other)
    signed = f"{'-' if offset[2] == 'fast' else ''}{offset[1]}", last, rms, f"{'-' if frequency[2] == 'slow' else ''}{frequency[1]}"
    return ",".join((number, reference[2], fields["Stratum"], f"{moment}.0", *signed, *rest, fields["Leap status"])) + "\n"


_SOURCES_HEAD = re.compile(r"MS +Name/IP address +Stratum +Poll +Reach +LastRx +Last sample *")
_SAMPLE = r"([+-]?\d{1,9}(?:\.\d)?)(ns|us|ms|[smhdy])"
_SOURCE = re.compile(
    r"(?P<mode>[\^=#])(?P<state>[*+\-x~?]) (?P<address>[^\s,>]+) +(?P<stratum>\d{1,2}) +(?P<poll>-?\d{1,2}) +(?P<reach>[0-7]{1,3})"
    rf" +(?P<last>-|\d{{1,4}}[mhdy]?) +{_SAMPLE}\[ *{_SAMPLE}\] +\+/- +{_SAMPLE}",
    re.ASCII,
)
_SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600, "d": 86400, "y": 365 * 86400}


def chrony_sources(text: str) -> str | None:
    """Return ``chronyc -n -c sources`` from ``chronyc -n sources``. Of times in minutes or more, the longest that is meant.

    >>> chrony_sources('''MS Name/IP address         Stratum Poll Reach LastRx Last sample
    ... ===============================================================================
    ... ^* 192.0.2.1                     3   6   377    25   +243us[ +393us] +/- 1763us
    ... #? PPS0                          0   4     0     -     +0ns[   +0ns] +/-    0ns
    ... ''')
    '^,*,192.0.2.1,3,6,377,25,0.000243000,0.000393000,0.001763000\\n#,?,PPS0,0,4,0,4294967295,0.000000000,0.000000000,0.000000000\\n'
    """
    lines = whole_lines(text)
    if lines and lines[0].startswith("506 "):
        return f"{lines[0]}\n"
    count = re.fullmatch(r"210 Number of sources = (\d{1,5})", lines[0], re.ASCII) if lines else None
    lines = lines[1:] if count else lines
    if len(lines) < 2 or not _SOURCES_HEAD.fullmatch(lines[0]) or not re.fullmatch("=+", lines[1]):
        return None
    found = []
    for line in lines[2:]:
        match = _SOURCE.fullmatch(line.rstrip())
        if not match:
            return None
        last = match["last"]
        if last == "-":
            seconds = 2**32 - 1
        else:
            seconds = int(last) if last.isdigit() else (int(last[:-1]) + 1) * int(_SECONDS[last[-1]]) - 1
        numbers = [f"{float(value) * _SECONDS[unit]:.9f}" for value, unit in zip(*[iter(match.groups()[-6:])] * 2, strict=True)]
        fields = [match[name] for name in ("mode", "state", "address", "stratum", "poll", "reach")]
        found.append(",".join((*fields, str(seconds), *numbers)) + "\n")
    return "".join(found) if not count or int(count[1]) == len(found) else None
