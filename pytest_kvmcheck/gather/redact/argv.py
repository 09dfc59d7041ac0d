r"""Secrets in the arguments of a process, ``/proc/PID/cmdline`` with one argument a line.

Options keep their names; their values are kept as far as a parser of ours reads them. An argument that goes over several lines,
or belongs to no option, is hidden.

>>> from pytest_kvmcheck.gather.redact.pseudonym import Hide
>>> text = "/usr/bin/qemu-kvm -accel kvm -object secret,id=s0,data=hunter2 -append rootpw=hunter2 -spice port=1,password=hunter2"
>>> print(redact_qemu(text.replace(" ", "\n"), Hide(b"key")))
/usr/bin/qemu-kvm
-accel
kvm
-object
secret,id=s0,data=<redacted:05d210d8>
-append
<redacted:ff126f92>
-spice
port=1,password=<redacted:05d210d8>
"""

from __future__ import annotations

import re

from pytest_kvmcheck.gather.redact.jsontext import redact_json
from pytest_kvmcheck.gather.redact.pseudonym import PSEUDONYM, Hide, words
from pytest_kvmcheck.gather.redact.text import names_a_secret, redact_words

#: The options of QEMU that are kept with what is known of their values; of all others only the name is.
_READ = words("""
        -uuid -accel -machine -M -cpu -m -smp -overcommit -realtime -device -object -vnc -spice -rtc -global -msg -sandbox
        -numa -name -display -vga -boot -mon -k -enable-kvm -netdev -blockdev -drive -chardev -nic -no-shutdown -S -mem-path
        -watchdog -watchdog-action -incoming -balloon -smbios -tpmdev -audiodev -add-fd -compat -run-with
    """)  # fmt: skip

#: Keys within an option whose values are no secrets.
_KEYS = words("""
        qom-type type driver id host bus addr accel mem-lock mlock cpu-pm size mem maxmem slots memory-backend thread kernel-
        irqchip usb dump-guest-core verify-peer dir endpoint priority tls-creds tls-port port sasl tls-authz sasl-authz
        websocket share-policy share power-control disable-ticketing plaintext-channel tls-channel seamless-migration image-
        compression x509-dir unix guest debug-threads policy host-nodes prealloc prealloc-threads mem-path cpus nodeid memdev
        sockets dies cores threads clusters maxcpus pflash0 pflash1 hmat smm vmport base clock driftfix obsolete
        elevateprivileges spawn resourcecontrol mode chardev netdev mac drive scsi-id lun bootindex iothread num-queues
        vectors queues mq backend node-name format if cache discard aio server wait fd fds vhost vhostfd vhostfds chassis
        index multifunction function slot pcie-root-port x-vga sysfsdev model timestamp strict menu merge readonly read-only
        auto-read-only no-flush cache.direct direct hugetlb hugetlbsize seal reserve align discard-data dst val src loader
        secure on-hang order pcie grab_frame tsc-frequency topoext sync kvm-type nvdimm confidential-guest-support guest-memfd
        cbitpos reduced-phys-bits sev-device ioeventfd event_idx host_mtu rx_queue_size tx_queue_size romfile rombar page-per-
        vq iommu_platform ats packed guest-stats-polling-interval deflate-on-oom free-page-reporting action max-bytes period
        rng filename-random resourcename memaddr hpet usb3 ehci display kbd
    """)  # fmt: skip
_SWITCH = re.compile(r"on|off|yes|no|true|false|auto|full|unsafe|none|[0-9]{1,3}")
_NAME = re.compile(r"-{1,2}[A-Za-z][A-Za-z0-9-]{0,30}")


def redact_qemu(text: str, hide: Hide) -> str:
    """Return the arguments of a QEMU process, one a line."""
    lines = text.split("\n")
    option = ""
    for number, line in enumerate(lines):
        if number == 0 or not line or PSEUDONYM.fullmatch(line):
            lines[number], option = redact_words(line, hide), ""
        elif _NAME.fullmatch(line) and not (option and option in _HIDDEN_VALUES):
            option = line
        else:
            lines[number] = _qemu_value(option, line, hide)
            option = ""
    return "\n".join(lines)


#: Options whose value is hidden whatever it looks like, a dash at its beginning among it.
_HIDDEN_VALUES = frozenset({"-append", "-fw_cfg", "-iscsi", "-kernel", "-initrd", "-set", "-smbios"})


def _qemu_value(option: str, value: str, hide: Hide) -> str:
    if option not in _READ or option in _HIDDEN_VALUES:
        return hide(value)
    if value.startswith("{"):
        return redact_json(value, _KEYS, hide)
    if option == "-uuid":
        return value if re.fullmatch(r"[0-9A-Fa-f-]{1,40}", value) else hide(value)
    parts = []
    # ``,,`` is a comma within a value
    for number, part in enumerate(value.replace(",,", "\0").split(",")):
        key, equals, inner = part.partition("=")
        inner = inner.replace("\0", ",")
        if not equals:
            known = (number == 0 and re.fullmatch(r"[\w.:+\[\]/-]{1,64}", part)) or (
                option == "-cpu" and re.fullmatch(r"[+-]?[a-z][\w.-]{0,40}", part)
            )
            parts.append(part if known or part in _KEYS or PSEUDONYM.fullmatch(part) else hide(part))
        elif (key in _KEYS and not names_a_secret(key)) or _SWITCH.fullmatch(inner):
            parts.append(f"{key}={redact_words(inner, hide)}".replace(",", ",,"))
        else:
            name = key if re.fullmatch(r"[\w.-]{1,48}", key) else hide(key)
            parts.append(f"{name}={hide(inner)}")
    return ",".join(parts)


def redact_daemon(text: str, hide: Hide) -> str:
    """Return the arguments of a daemon, one a line: its options, and the short words that follow one."""
    lines = text.split("\n")
    after_option = False
    for number, line in enumerate(lines):
        if number == 0 or not line:
            lines[number] = redact_words(line, hide)
        elif re.fullmatch(r"-{1,2}[\w-]{1,40}(?:=(?:[\w/.:@+-]{0,128}|<redacted:[0-9a-f]{8}>))?", line):
            name, equals, value = line.partition("=")
            shown = redact_words(value, hide) if not names_a_secret(name) else hide(value)
            lines[number] = name + equals + shown
            after_option = not equals and not names_a_secret(name)
        elif after_option and re.fullmatch(r"[\w/.:+-]{1,64}", line):
            lines[number], after_option = redact_words(line, hide), False
        else:
            lines[number], after_option = hide(line), False
    return "\n".join(lines)
