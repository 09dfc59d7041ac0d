"""The probe of package repositories and of updates that wait.

Read from files, and nothing written: apt-get asks as nobody, with its logs switched off. dnf and zypper are not asked at all, as
they write logs, caches and locks, and zypper connects: what they would tell is in the metadata that they keep.
"""

from __future__ import annotations

from pytest_kvmcheck.probes.model import Probe, shell
from pytest_kvmcheck.probes.quiet import RPM_SYSTEM, UNPRIVILEGED

#: Compares versions as rpm does, and prints the packages for which a security advisory has a newer one than is installed. It reads
#: the tags of updateinfo.xml one by one, and before them, in the same form, the files, the enabled modules and the packages.
ADVISORIES = r"""
function seg(s, r) { return match(s, r) == 1 ? substr(s, 1, RLENGTH) : "" }
function vc(a, b,  x, y) {
  while (a != "" || b != "") {
    sub(/^[^A-Za-z0-9~^]+/, "", a); sub(/^[^A-Za-z0-9~^]+/, "", b)
    if (a ~ /^~/ || b ~ /^~/) {
      if (a !~ /^~/) return 1; if (b !~ /^~/) return -1
      a = substr(a, 2); b = substr(b, 2); continue }
    if (a ~ /^\^/ || b ~ /^\^/) {
      if (a == "") return -1; if (b == "") return 1
      if (a !~ /^\^/) return 1; if (b !~ /^\^/) return -1
      a = substr(a, 2); b = substr(b, 2); continue }
    if (a == "" || b == "") break
    if (a ~ /^[0-9]/) {
      x = seg(a, "^[0-9]+"); y = seg(b, "^[0-9]+"); if (y == "") return 1
      a = substr(a, length(x) + 1); b = substr(b, length(y) + 1); sub(/^0+/, "", x); sub(/^0+/, "", y)
      if (length(x) != length(y)) return length(x) > length(y) ? 1 : -1
    } else {
      x = seg(a, "^[A-Za-z]+"); y = seg(b, "^[A-Za-z]+"); if (y == "") return -1
      a = substr(a, length(x) + 1); b = substr(b, length(y) + 1) }
    if ((x "") != (y "")) return (x "") > (y "") ? 1 : -1
  }
  return a == b ? 0 : a != "" ? 1 : -1
}
function newer(e, v, r, o,  w, c) {
  split(o, w, " "); if (e + 0 != w[1] + 0) return e + 0 > w[1] + 0
  c = vc(v, w[2]); return c ? c > 0 : vc(r, w[3]) > 0
}
function at(k) { return match($0, "[ \t\n]" k "=\"[^\"]*\"") ? substr($0, RSTART + length(k) + 3, RLENGTH - length(k) - 4) : "" }
BEGIN { RS = "<" }
/^kvmcheck-file / { sub(/^[^ ]* /, ""); sub(/\n.*/, ""); f = $0; next }
/^kvmcheck-damaged / { sub(/\n.*/, ""); print "damaged " $2; next }
/^kvmcheck-module / { M[$2]; next }
/^kvmcheck-package / { n++; A[$3]; if (!($2 in I) || newer($4, $5, $6, I[$2])) I[$2] = $4 " " $5 " " $6; next }
/^update[ \t\n]/ { s = at("type") == "security" && at("status") != "retracted"; next }
!s { next }
/^collection/ { m = "" }
/^module[ \t\n]/ { m = at("name") ":" at("stream") }
/^package[ \t\n]/ {
  k = at("name"); if (!(k in I) || !(at("arch") in A) || (m != "" && !(m in M))) next
  if (newer(at("epoch"), at("version"), at("release"), I[k]) && !((f, k) in D)) { D[f, k]; print "waits " k " " f }
}
END { print "installed " n + 0 }
"""

#: What the package managers keep on the disk about repositories; of apt, also what apt-get makes of it.
_UPDATES = f"""\
q() {{ t=$1; shift; o=$(timeout $t "$@" 2>&1); r=$?; printf '%s\\n' "$o"; echo rc=$r; }}
unpack() {{ case $1 in *.gz) gzip -dc "$1" ;; *.xz) xz -dc "$1" ;; *.bz2) bzip2 -dc "$1" ;; *.zst) zstd -qdc "$1" ;;
  *.zck) unzck --stdout "$1" ;; *) cat "$1" ;; esac; }}
repos() {{ for f; do [ -e "$f" ] || continue; echo "file $f"
  sed -nE 's/^[[:space:]]*(\\[[^]]*\\]|enabled[[:space:]]*[=:].*)/\\1/p' "$f" 2>&1; done; }}
waits() {{
  p=$(timeout 25 $D rpm -qa --qf '<kvmcheck-package %{{NAME}} %{{ARCH}} %{{EPOCH}} %{{VERSION}} %{{RELEASE}}\\n' 2>&1) ||
    {{ printf '%s\\n' "$p"; return 1; }}
  {{ printf '%s\\n' "$p"
    for f in /etc/dnf/modules.d/*.module; do [ -r "$f" ] || continue; s= n= e=
      while IFS='= ' read -r k v; do case $k in name) n=$v ;; stream) s=$v ;; state) e=$v ;; esac; done <"$f"
      [ "$e" != enabled ] || echo "<kvmcheck-module $n:$s "
    done
    for f; do [ -e "$f" ] || continue
      echo "<kvmcheck-file $f"; unpack "$f" 2>&1 || echo "<kvmcheck-damaged $f"; done
  }} | timeout 30 awk '{ADVISORIES}'
}}
if {RPM_SYSTEM}; then
  if command -v zypper >/dev/null; then
    echo @@$N zypper/files; repos /etc/zypp/repos.d/*.repo
    echo @@$N zypper/waits; waits /var/cache/zypp/raw/*/repodata/*updateinfo.xml*; echo rc=$?
    echo @@$N zypper/held; if [ -e /etc/zypp/locks ]; then
      sed -nE 's/^(type|match_type|solvable_name|query_string):/&/p; s/^[[:space:]]*$/--/p' /etc/zypp/locks 2>&1; fi
    echo @@$N zypper/times; stat -c '%Y %n' /var/cache/zypp/raw/*/cookie /var/cache/zypp/raw/*/repodata/*updateinfo.xml* 2>/dev/null
  else
    echo @@$N dnf/times; stat -c '%Y %n' /var/cache/dnf/*/repodata/repomd.xml /var/cache/libdnf5/*/repodata/repomd.xml \\
      /var/cache/yum/*/*/*/repomd.xml /var/cache/dnf/*/repodata/*updateinfo.xml* \\
      /var/cache/libdnf5/*/repodata/*updateinfo.xml* /var/cache/yum/*/*/*/*updateinfo.xml* 2>/dev/null
    echo @@$N dnf/held; for f in /etc/dnf/dnf.conf /etc/dnf/libdnf5.conf.d/*.conf /etc/yum.conf; do
      [ -e "$f" ] || continue
      k=; while IFS= read -r l || [ "$l" ]; do
        case $l in exclude*|includepkgs*) k=1 ;; [[:space:]]*) ;; *) k= ;; esac; [ ! $k ] || printf '%s\\n' "$l"
      done 2>/dev/null <"$f" || echo "$f: Permission denied"; done
    echo @@$N dnf/files; repos /usr/share/dnf5/repos.d/*.repo /etc/yum.repos.d/*.repo /etc/distro.repos.d/*.repo \\
      /etc/yum/repos.d/*.repo /etc/dnf/repos.override.d/*.repo
    echo @@$N dnf/waits; waits /var/cache/dnf/*/repodata/*updateinfo.xml* /var/cache/libdnf5/*/repodata/*updateinfo.xml* \\
      /var/cache/yum/*/*/*/*updateinfo.xml*; echo rc=$?
  fi
elif command -v apt-get >/dev/null; then
  echo @@$N apt/sources; for f in /etc/apt/sources.list /etc/apt/sources.list.d/*; do [ -r "$f" ] || continue
    case $f in *.list|*.sources) ;; *) continue ;; esac; echo "file $f"; sed -nE \\
      's#//[^/@ ]*@#//#; s/^[[:space:]]*(deb[[:space:]]|Types:|URIs:|Suites:|Enabled:)/\\1/p; s/^[[:space:]]*$/--/p' "$f"
  done
  echo @@$N apt/lists; for f in /var/lib/apt/lists/*Release; do [ -e "$f" ] && echo "${{f##*/}}"; done
  echo @@$N apt/times; stat -c '%Y %n' /var/lib/apt/lists /var/lib/apt/lists/partial \\
    /var/lib/apt/periodic/update-success-stamp 2>/dev/null
  echo @@$N apt/held; for f in /etc/apt/preferences /etc/apt/preferences.d/*; do
    case ${{f##*/}} in *.pref) ;; *.*) continue ;; esac; [ -e "$f" ] || continue; echo --
    sed -nE 's/^([Pp]ackage|[Pp]in|[Pp]in-[Pp]riority):/&/p; s/^[[:space:]]*$/--/p' "$f" 2>&1; done
  W=; [ "$D" ] && [ -r /var/cache/apt/pkgcache.bin ] || W='-o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache='
  echo @@$N apt/pending; q 50 $D apt-get -s -qq $W -o Debug::NoLocking=1 -o Dir::Log::Planner=/dev/null --ignore-hold dist-upgrade |
    grep -E '^(Inst|E:|rc=)'
else echo 'neither apt, dnf nor zypper' >&2; exit 127; fi; exit 0
"""

UPDATES: tuple[Probe, ...] = (
    shell(
        "updates",
        UNPRIVILEGED + _UPDATES,
        "package repositories, the age of their metadata, and security updates that wait",
        keyed=True,
        timeout_s=60,
    ),
)
