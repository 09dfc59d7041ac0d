"""Probes of logs, auditing and their settings.

A journal tells an account that may not read it nothing, with exit code 0: each answer begins with a line that must be there.
"""

from __future__ import annotations

from pytest_kvmcheck.probes.model import EVERYWHERE, MAX_BYTES, Probe, Root, command, files, shell

#: Daemons that virt-admin can ask. Only active ones are: a socket would start the others.
_ADMIN = (
    *("libvirtd", "virtqemud", "virtproxyd", "virtnetworkd", "virtstoraged", "virtnodedevd"),
    *("virtsecretd", "virtnwfilterd", "virtinterfaced", "virtlogd", "virtlockd"),
)
_ASK_LOGGING = "daemon-log-filters; daemon-log-outputs"

#: How many messages of libvirt are kept, the last ones.
JOURNAL_LINES = 1000

#: What QEMU or libvirt say in the log of a domain when something went wrong; these lines are kept whether dated or not.
QEMU_LOG_FATAL = (
    r"shutting down, reason=(crashed|failed)",
    r"KVM: entry failed",
    r"KVM internal error",
    r"error: kvm run failed",
    r'Failed to get "write" lock',
    r"Input/output error",
    r"Cannot allocate memory",
)
QEMU_LOG_WARNINGS = (r"host doesn't support requested feature", r"TSC frequency mismatch")

_PICKED = "|".join((*QEMU_LOG_FATAL, *QEMU_LOG_WARNINGS, "is tainted:"))
_DATE = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9][ T][0-9][0-9]:"

#: Reads ``path:line`` and prints, for each file, ``F path``, the time of the last start (``S``), the last lines that were
#: picked (``E``) and the last other dated ones (``D``), each after its time or that of the dated line before it.
_QEMU_LOG_AWK = r"""
function out(  i) {
  if (f == "") return
  print "F " f; if (s != "") print "S " s
  for (i = (d > 40 ? d - 40 : 0); i < d; i++) print "D " D[i % 40]
  for (i = (e > 60 ? e - 60 : 0); i < e; i++) print "E " E[i % 60]
}
{ p = index($0, ".log:"); if (!p) next
  n = substr($0, 1, p + 3); l = substr($0, p + 5)
  if (n != f) { out(); f = n; d = e = 0; s = t = "" }
  dated = l ~ /^DATE/
  if (dated) t = substr(l, 1, 19)
  if (dated && l ~ /: starting up/) s = t
  else if (l ~ /PICKED/) E[e++ % 60] = (dated ? "" : "~") t "|" substr(l, 1, 300)
  else if (dated) D[d++ % 40] = t "|" substr(l, 1, 300)
}
END { out() }
""".replace("DATE", _DATE).replace("PICKED", _PICKED.replace("/", r"\/").replace("'", "."))

#: What of rsyslog's configuration sends messages elsewhere. Passwords of a target are not among it.
_RSYSLOG = (
    r'[[:space:]]@@?[[A-Za-z0-9(:][^;[:space:]]*|type="om[a-z]+"|protocol="[a-z]+"|om(relp|elasticsearch|kafka|fwd):[^;[:space:]]*'
)

LOGS: tuple[Probe, ...] = (
    shell(
        "virt_admin",
        "command -v virt-admin >/dev/null || { echo 'virt-admin: not found' >&2; exit 127; }\n"
        "u=$(systemctl list-units --state=active --plain --no-legend --no-pager"
        f" {' '.join(f'{name}.service' for name in _ADMIN)}) || exit 1\n"
        "echo @@$N active; printf '%s\\n' \"$u\"\n"
        "for d in $(printf '%s\\n' \"$u\" | while read -r n _; do echo ${n%.service}; done); do\n"
        f"  echo @@$N $d; timeout 10 $SUDO virt-admin -c $d:///system '{_ASK_LOGGING}' 2>&1\n"
        "done; exit 0",
        "log filters and outputs of the running libvirt daemons",
        keyed=True,
        root=Root.MUST,
        timeout_s=40,
        alone=True,
        sudo=tuple(f"virt-admin -c {name}:///system '{_ASK_LOGGING}'" for name in _ADMIN),
    ),
    command("audit_status", "auditctl -s", "state of the kernel's audit", root=Root.MUST, sos=("sos_commands/auditd/auditctl_-s",)),
    # Without --input-logs it reads standard input. The exit code is 1 when nothing matches.
    command(
        "audit_failures",
        "ausearch --input-logs -m VIRT_CONTROL -sv no -ts yesterday --raw",
        "failed starts and stops of guests by the audit log",
        root=Root.MUST,
        timeout_s=30,
    ),
    # _TRANSPORT=driver is what journald says itself: on RHEL 7 without an identifier that -t would find.
    shell(
        "journal",
        "command -v journalctl >/dev/null || { echo 'journalctl: not found' >&2; exit 127; }\n"
        'j() { $SUDO journalctl -q --no-pager "$@"; }\n'
        "c=$(j -k -b -n 1 -o short-unix)\n"
        "[ \"$c\" ] || { echo 'the journal shows no line of the kernel to this account' >&2; exit 77; }\n"
        "echo @@$N control; printf '%s\\n' \"$c\"\n"
        "echo @@$N libvirt; j -u libvirtd -u virtqemud -p err --since=-24h -o short-unix"
        f" | tail -n {JOURNAL_LINES}\n"
        "echo @@$N journald; j -b _TRANSPORT=driver -o short-unix |"
        " grep -aE 'Suppressed [0-9]+ messages from .*(libvirt|virt[a-z]+d)' | tail -n 5; exit 0",
        "errors of libvirt of the last day, and messages of libvirt that the journal dropped since boot",
        keyed=True,
        root=Root.MAY,
        timeout_s=30,
        sudo=(
            "journalctl -q --no-pager -k -b -n 1 -o short-unix",
            "journalctl -q --no-pager -u libvirtd -u virtqemud -p err --since=-24h -o short-unix",
            "journalctl -q --no-pager -b _TRANSPORT=driver -o short-unix",
        ),
    ),
    files(
        "journald_conf",
        "/usr/lib/systemd/journald.conf /run/systemd/journald.conf /etc/systemd/journald.conf"
        " /usr/lib/systemd/journald.conf.d/*.conf /usr/local/lib/systemd/journald.conf.d/*.conf"
        " /run/systemd/journald.conf.d/*.conf /etc/systemd/journald.conf.d/*.conf",
        "settings of the journal",
        roles=EVERYWHERE,
    ),
    shell(
        "journal_dirs",
        '[ -d /run ] || exit 66\nfor d in /var/log/journal/* /run/log/journal/*; do [ -d "$d" ] && echo "$d"; done; exit 0',
        "where journals are kept",
        roles=EVERYWHERE,
    ),
    # One process reads all logs of domains: their names are chosen by strangers, and only root may list the directory.
    shell(
        "qemu_log",
        "[ -d /var/log/libvirt/qemu ] || [ ! -x /var/log/libvirt ] || exit 66\n"
        "$SUDO grep -raH --include=*.log . /var/log/libvirt/qemu |"
        f" awk '{_QEMU_LOG_AWK}'; exit 0",
        "what the logs of the domains say: starts, stops and troubles",
        root=Root.MUST,
        timeout_s=30,
        max_bytes=8 * MAX_BYTES,
        sudo=("grep -raH --include='*.log' . /var/log/libvirt/qemu",),
    ),
    shell(
        "log_sizes",
        'set --; for d in /var/log/libvirt /var/log/journal; do [ -e $d ] && set -- "$@" $d; done\n'
        '[ $# -gt 0 ] || exit 66\n$SUDO du -skx "$@"',
        "how large the logs of libvirt and the journals are",
        root=Root.MAY,
        sudo=("du -skx /var/log/libvirt /var/log/journal", "du -skx /var/log/libvirt", "du -skx /var/log/journal"),
    ),
    shell(
        "rsyslog_conf",
        "[ -e /etc/rsyslog.conf ] || exit 66\n"
        'set -- /etc/rsyslog.conf; [ -d /etc/rsyslog.d ] && set -- "$@" /etc/rsyslog.d\n'
        'o=$($SUDO grep -rh --include=*.conf . "$@"); [ $? -le 1 ] || exit 1\n'
        f"printf '%s\\n' \"$o\" | grep -vE '^[[:space:]]*#' | grep -oiE '{_RSYSLOG}'; exit 0",
        "where rsyslog sends messages",
        root=Root.MAY,
        sudo=(
            "grep -rh --include='*.conf' . /etc/rsyslog.conf /etc/rsyslog.d",
            "grep -rh --include='*.conf' . /etc/rsyslog.conf",
        ),
    ),
)
