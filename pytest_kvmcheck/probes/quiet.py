"""How probes keep to reading: names by files alone, no more rights than reading needs, and no daemon woken that was stopped."""

from __future__ import annotations

#: Functions of the gathering script.
#:
#: ``named USER GROUP`` puts names for the owner and the group into lines whose fields are parted by single blanks; the arguments
#: are the numbers of these fields, 0 for none. The names are those of /etc/passwd and /etc/group: stat and find would ask whatever
#: the host is set up to ask, LDAP in the network as well. A number that the files do not know stays one.
#:
#: ``owned USER GROUP COMMAND...`` does that with what a command prints, and ends with its exit code.
#:
#: ``awake [DAEMON...]`` fails where asking libvirt would start a daemon that did not go to sleep by itself: one that failed, one
#: that never goes to sleep, one whose guests run on; the modular daemons named must not have failed either.
#: See docs/decisions/0015-a-daemon-that-sleeps.md.
#:
#: ``system PID`` holds for a process of root, of a service of systemd, or, where there is no systemd, of an account below 1000:
#: anybody may call a process of his chronyd. The path of a control group is the third field; users make groups of any name below
#: their own (cgroups(7)).
QUIET = r"""system() {
  _u=; while read -r _k _v _; do case $_k in Uid:) _u=$_v; break ;; esac; done 2>/dev/null <"/proc/$1/status"
  case $_u in 0) return ;; ''|*[!0-9]*) return 1 ;; esac
  [ -d /run/systemd/system ] || { [ "$_u" -lt 1000 ]; return; }
  while IFS=: read -r _ _k _v; do case $_k,$_v in ,/system.slice/*|name=systemd,/system.slice/*) return ;; esac
  done 2>/dev/null <"/proc/$1/cgroup"; return 1
}
named() {
  [ -r /etc/passwd ] && [ -r /etc/group ] || { cat; return; }
  awk -F: -v u=$1 -v g=$2 'FILENAME == "/etc/passwd" { if (!($3 in U)) U[$3] = $1; next }
  FILENAME == "/etc/group" { if (!($3 in G)) G[$3] = $1; next }
  { l = $0; h = ""; n = u > g ? u : g
    for (i = 1; i <= n && (p = index(l, " ")); i++) {
      t = substr(l, 1, p - 1); l = substr(l, p + 1)
      if (i == u && (t in U)) t = U[t]
      if (i == g && (t in G)) t = G[t]
      h = h t " "
    }
    print h l }' /etc/passwd /etc/group -
}
owned() { _a=$1 _b=$2; shift 2; { _r=$({ { "$@"; echo $? >&4; } | named $_a $_b >&3; } 4>&1); } 3>&1; return $_r; }
runs() { p=; { read -r p <"$1"; } 2>/dev/null; case $p in ''|*[!0-9]*) return 1 ;; esac; [ -d /proc/$p ]; }
sleeps() { echo "libvirt is not asked, as that would start $1" >&2; return 1; }
awake() {
  if ! runs /run/libvirtd.pid && ! runs /run/virtqemud.pid && [ -d /run/systemd/system ]; then
    case $(systemctl show --no-pager -p ActiveState libvirtd.service virtqemud.service) in
    *=active*|*=activating*|*=reloading*) ;;
    *=failed*) sleeps 'a daemon that failed'; return ;;
    *) if grep -hsE '^(LIBVIRTD|VIRTQEMUD)_ARGS=' /etc/default/libvirtd /etc/sysconfig/libvirtd /etc/default/virtqemud \
         /etc/sysconfig/virtqemud | grep -qv -e --timeout; then
        sleeps 'a daemon that was stopped, as it never stops by itself'; return; fi
      for f in /run/libvirt/qemu/*.pid; do
        case $f in */driver.pid) ;; *) if runs "$f"; then
          sleeps 'a daemon that was stopped while guests run'; return; fi ;; esac
      done ;;
    esac
  fi
  [ $# -gt 0 ] && [ -e /run/virtqemud.pid ] && [ -d /run/systemd/system ] || return 0
  case $(systemctl is-failed "$@" 2>/dev/null) in *failed*) sleeps "one of $* that failed" ;; esac
}
"""

#: Puts into $D what runs a command as nobody, where we are root: what may not write, does not. rpm makes locks and shared memory
#: beside its database, apt-get writes its caches, as soon as they may.
UNPRIVILEGED = (
    'D=; [ "$(id -u)" != 0 ] || ! command -v setpriv >/dev/null || D="setpriv --reuid=65534 --regid=65534 --clear-groups"\n'
)

#: Whether rpm's database tells what is installed. On Debian, rpm would make itself an empty one.
RPM_SYSTEM = "command -v rpm >/dev/null && [ ! -e /var/lib/dpkg/info/dpkg.list ]"
