"""Write the one POSIX sh script that asks a target everything, and the argument that carries it there.

The reply is a sequence of frames. Each of its lines that is ours starts with ``@`` and a secret, which the target makes when the
script runs; the script, which every user of the target can read, holds nothing but the token of the first line::

    @<token> HELLO 2 <secret> <encoding> uid=<uid> sudo=<off|granted|denied|absent>
    @<secret> BEGIN <probe>[ gzip]
    <encoded standard output, bounded; compressed before it was encoded when BEGIN says so>
    @<secret> END <probe> <seconds> !<exit code> <encoded standard error, bounded>
    @<secret> DONE

What a frame holds, decoded, begins with a line of its own: the frame's secret, made by the shell that ran the question. It marks
the sections of keyed answers. A frame ``@<number>`` holds the answers of a batch of quick probes, which its BEGIN names
(``BEGIN @0 gzip = uname cmdline``). Both its streams consist of sections::

    @=<frame's secret> BEGIN <probe>
    <output>
    @=<frame's secret> END <probe> <begin>,<end> <exit code>

Decision 14 tells why, and what a user of the target could do otherwise.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count

from pytest_kvmcheck.evidence import RC_DENIED, RC_EMPTY, RC_NOTHING_THERE, RC_SKIPPED
from pytest_kvmcheck.probes import MAX_BYTES, Probe, Root
from pytest_kvmcheck.probes.quiet import QUIET

#: Standard error beyond this is cut.
STDERR_BYTES = 2048

#: Linux refuses a single argument of 128 KiB or more (MAX_ARG_STRLEN).
ARGUMENT_BYTES = 128 * 1024 - 1

#: Questions are asked together, in frames of their own: starting processes is what costs time on a target. Who does not come to
#: an end within the time limit of his batch is asked again by himself.
BATCH = "@"
BATCH_BYTES = 32 * 2**20
BATCH_STDERR_BYTES = 2**16


@dataclass(frozen=True)
class Batches:
    """Probes with a time limit of ``probe_s`` at most are asked ``size`` at a time, within ``timeout_s`` together."""

    probe_s: int
    size: int
    timeout_s: int


#: The quick ones, and those that may take their time now and then.
BATCHES = (Batches(probe_s=10, size=36, timeout_s=25), Batches(probe_s=30, size=12, timeout_s=40))

#: Before an answer stands the secret of its frame, and the end of its line: room beyond the bound of each answer.
SECRET_ROOM = 80

# What the probes are written in. $N is the secret of the frame: it is given to what the shell does itself (echo, printf), and to no
# other command's arguments.
#   g FILE|GLOB...   print files as path:line
#   denied DIR       true when a directory on the way cannot be searched, so that "not there" proves nothing
#   rnd              make a secret; without /proc of random bytes, less what has a meaning in URIs and patterns
#   named, owned, awake, system   see probes/quiet.py
#   s PROBE, z       begin the first answer of a batch, and end the last, on both streams; y PROBE ends one and begins the next
HELPERS = f"""\
denied() {{ _d=$1; while [ "$_d" ] && [ ! -d "$_d" ]; do _d=${{_d%/*}}; done; [ ! -x "${{_d:-/}}" ]; }}
up() {{ read -r T _ </proc/uptime 2>/dev/null || T=; }}
rnd() {{
  {{ read -r N; }} 2>/dev/null </proc/sys/kernel/random/uuid && return
  N=; IFS='+/=
 '; for r in $(head -c 24 /dev/urandom | {{ base64 2>/dev/null || od -An -v -tx1; }}); do N=$N$r; done; unset IFS
}}
s() {{ i=$1; up; B=$T; echo "@=$N BEGIN $i"; echo "@=$N BEGIN $i" >&2; }}
y() {{
  c=$?; up; echo "
@=$N END $i $B,$T $c
@=$N BEGIN $1"; echo "
@=$N END $i
@=$N BEGIN $1" >&2; i=$1 B=$T
}}
z() {{ c=$?; up; echo "
@=$N END $i $B,$T $c"; echo "
@=$N END $i" >&2; }}
g() {{
  n=0 x= r=
  for i; do
    if [ -f "$i" ] && [ -r "$i" ]; then set -- "$@" "$i"; n=$((n+1))
    elif [ -d "$i" ]; then :
    elif [ -e "$i" ] || denied "${{i%/*}}"; then
      if [ "$SUDO" ]; then set -- "$@" "$i"; n=$((n+1)) r=sudo
      else echo "grep: $i: Permission denied" >&2; x=1; fi
    fi
    shift
  done
  if [ $n = 0 ]; then [ "$x" ] && return {RC_DENIED}; return {RC_NOTHING_THERE}; fi
  if [ -z "$r" ]; then grep -H ^ -- "$@"; [ $? = 1 ] && return {RC_EMPTY}; return 0; fi
  r= z=
  for i; do
    if [ -r "$i" ]; then grep -H ^ -- "$i"; [ $? = 1 ] && z=1 || r=1; continue; fi
    {{ e=$($SUDO grep -H ^ -- "$i" 2>&1 >&4); c=$?; }} 4>&1
    # sudo ends with 1 when it refuses, as grep does for an empty file.
    case $c,$e in
    0,*) r=1 ;;
    1,) z=1 ;;
    *"No such file"*) echo "grep: $i: No such file or directory" >&2 ;;
    *) echo "grep: $i: Permission denied" >&2; x=1 ;;
    esac
  done
  [ "$r" ] || [ "$z$x" = 11 ] && return 0
  [ "$x" ] && return {RC_DENIED}; [ "$z" ] && return {RC_EMPTY}; return {RC_NOTHING_THERE}
}}
{QUIET}"""


def _kind(probe: Probe) -> Batches | None:
    """Return which batches *probe* is asked in, None when it is asked by itself."""
    if probe.first or probe.alone:
        return None
    return next((kind for kind in BATCHES if probe.timeout_s <= kind.probe_s), None)


def _batches(kind: Batches, probes: list[Probe]) -> Iterator[list[Probe]]:
    """Part *probes* into batches whose answers fit into one frame."""
    batch: list[Probe] = []
    for probe in probes:
        if batch and (len(batch) == kind.size or sum(item.max_bytes for item in (*batch, probe)) > BATCH_BYTES):
            yield batch
            batch = []
        batch.append(probe)
    if batch:
        yield batch


def _lines(probes: list[Probe], numbers: Iterator[int]) -> Iterator[str]:
    """Yield the lines that ask *probes*, in their order: those in batches first."""
    for kind in BATCHES:
        for batch in _batches(kind, [probe for probe in probes if _kind(probe) == kind]):
            yield from (_line(probe, "w") for probe in batch)
            yield f"x {BATCH}{next(numbers)} {kind.timeout_s}"
    yield from (_line(probe, "p") for probe in probes if _kind(probe) is None)


def _line(probe: Probe, verb: str) -> str:
    """Return the line that asks *probe*: with *verb* ``w`` in a batch, with ``p`` by itself; ``n`` says why it is not asked."""
    script = probe.script
    if probe.when:
        script = f"{probe.when} || exit {RC_SKIPPED}\n{script}"
    line = f"{verb} {probe.id} {probe.timeout_s} {probe.max_bytes + SECRET_ROOM} {shlex.quote(script)}"
    if probe.root is Root.NO:
        return f"SUDO=; {line}"
    if probe.root is Root.MAY:
        return f"SUDO=$S; {line}"
    return f'if [ $U = 0 ] || [ "$S" ]; then SUDO=$S; {line}; else n {probe.id} {RC_DENIED}; fi'


def build(probes: Iterable[Probe], token: str, *, sudo: bool = False, active: bool = False) -> str:
    """Return the script that runs *probes* and frames their answers. Its reply begins with *token* (letters and digits).

    The token is no secret: it tells our reply from a banner.

    With *sudo*, what needs root is run by ``sudo -n``: it never asks for a password. Active probes are answered by "not asked"
    unless *active*.
    """
    if not re.fullmatch(r"[0-9A-Za-z]{8,64}", token):
        raise ValueError(f"not a token: {token!r}")
    asked = list(probes)
    may = [probe for probe in asked if active or not probe.active]
    first = [probe for probe in may if probe.first]
    middle, last = ([probe for probe in may if not probe.first and probe.last is late] for late in (False, True))
    held = [f"n {probe.id} {RC_SKIPPED}" for probe in asked if probe.active and not active]
    numbers = count()
    lines = "\n".join([*(line for group in (first, middle, last) for line in _lines(group, numbers)), *held])
    return f"""\
# pytest-kvmcheck: reads, never writes; answers on standard output.
exec 3>&1 </dev/null
unset LANGUAGE GZIP N M Q R D
LC_ALL=C PATH=$PATH:/usr/sbin:/sbin
export LC_ALL PATH SUDO S
U=$(id -u) S= A={"wanted" if sudo else "off"}
if [ $A = wanted ] && [ "$U" != 0 ]; then
  if ! command -v sudo >/dev/null 2>&1; then A=absent
  elif sudo -n -l >/dev/null 2>&1; then S='sudo -n' A=granted
  else A=denied; fi
fi
H={shlex.quote(HELPERS)}
eval "$H"
rnd
[ "$N" ] || {{ echo 'kvmcheck: neither /proc nor /dev/urandom gives random numbers here' >&2; exit 1; }}
# What a command is given as arguments, every user can read. Where the shell has no printf of its own (mksh), its print does it.
case $(command -v printf) in
*/*) command -v print >/dev/null || {{ echo 'kvmcheck: sh has no printf of its own' >&2; exit 1; }}
  F='printf() {{
  case $1,$(command -v print) in "%s\\n",?*) shift; ( IFS="
"; print -r -- "$*" ) ;; *) command printf "$@" ;; esac
}}
'; H=$F$H; eval "$F" ;;
esac
if command -v base64 >/dev/null 2>&1; then e() {{ base64; }}; W=base64
else e() {{ od -An -v -tx1; }}; W=hex; fi
# t -s KILL SECONDS COMMAND: with a softer signal, a child that ignores it would be left behind.
# GNU's timeout stops the command and its children; busybox's only the command itself.
case $(timeout --version 2>/dev/null) in
*GNU*) t() {{ timeout "$@"; }} ;;
*) if command -v setsid >/dev/null 2>&1; then
  t() {{
    shift 2; n=$1; shift
    setsid "$@" & j=$!
    ( exec >/dev/null 2>&1 3>&- 5>&-; sleep $n; kill -9 -$j ) & k=$!
    wait $j; r=$?; kill $k 2>/dev/null; return $r
  }}
  else t() {{ shift 3; "$@"; }}; fi ;;
esac
# What may be large is compressed where there is a gzip; the head of its frame says so.
if command -v gzip >/dev/null 2>&1; then Z=gzip; packed() {{ head -c $1 | gzip -1 -c | e; }}
else Z=; packed() {{ head -c $1 | e; }}; fi
# p PROBE SECONDS BYTES SCRIPT [BYTES OF ERRORS, PROBES OF A BATCH]: one frame. The script's streams end in pipes of their own below
# timeout, so that a process that cannot be killed (stuck in the kernel) holds up nothing but itself. Its secret, its exit code and
# its errors come back through descriptor 5, the secret before anything that a stranger may have a part in.
# Errors beyond the bound are drained: a command that names a thousand missing files must not die of it.
# head keeps what it has read until it ends; cat, for what may be large, passes on what came before a file that hangs.
# u SECRET: take the exit code that stands behind the secret out of the errors.
u() {{ case $R in *"!$1!"*) C=${{R##*"!$1!"}}; C=${{C%%!*}}; R=${{R%%"!$1!"*}}${{R##*"!$1!$C!"}} ;; esac; }}
p() {{
  up; B=$T I="head -c $3" O=e F=
  [ $3 -le {MAX_BYTES + SECRET_ROOM} ] || I=cat O="packed $3" F=${{Z:+ $Z}}
  echo "@$N BEGIN $1$F${{6:+ =$6}}"
  R=$({{ {{ t -s KILL $2 sh -c "${{H}}rnd; echo \\$N >&5; {{ {{ {{ echo \\$N; ( exec 2>&7 5>&- 6>&- 7>&-
$4
  ); echo \\"!\\$N!\\$?!\\" >&5; }} | $I; }} 7>&1 >&6 | {{ head -c ${{5:-{STDERR_BYTES}}}; cat >/dev/null; }} >&5; }} 6>&1" 3>&-
    c=$?; [ $c = 0 ] || echo "!$N!$c!" >&5; }} | $O >&3; }} 5>&1)
  Q=$R M=${{R%%"$NL"*}} C=; R=${{R#"$M"}}
  [ -z "$M" ] || u "$M"
  u "$N"
  case $R in *[![:space:]]*) R=$(printf '%s\\n' "$R" | e) ;; *) R= ;; esac
  up
  echo "@$N END $1 $B,$T !$C" $R
}}
NL='
'
# w PROBE SECONDS BYTES SCRIPT: add it to the batch; x NAME SECONDS: ask the batch, and again by itself who did not come to an end.
w() {{
  Y=y; [ "$K" ] || Y=s
  L="$L
$Y $1
( SUDO='$SUDO'
$4
)"
  K="$K $1"; eval "a_$1=\\$2 b_$1=\\$3 c_$1=\\$SUDO d_$1=\\$4"
}}
x() {{
  p $1 $2 {BATCH_BYTES + SECRET_ROOM} "$L
z" {BATCH_STDERR_BYTES} "$K"
  k=$K K= L= D="$Q " m=$M
  for k in $k; do
    case $D in *"@=$m END $k"[!0-9a-z_]*) ;;
    *) eval "SUDO=\\$c_$k; p $k \\$a_$k \\$b_$k \\"\\$d_$k\\"" ;; esac
  done
}}
K= L=
n() {{ echo "@$N BEGIN $1"; echo "@$N END $1 , !$2"; }}
echo "@{token} HELLO 2 $N $W uid=$U sudo=$A"
{lines}
echo "@$N DONE"
"""


#: csh refuses words beyond about a thousand characters.
WORD_BYTES = 800

_AWKWARD = re.compile(r"[\n'\"$`\\!]|[^ -~]")


def carry(script: str) -> str:
    """Return a command for any login shell (sh, csh, fish) that makes a POSIX sh run *script*.

    The script travels as one argument, as not every transport has a standard input, and in printable characters that no
    shell treats specially within single quotes. Raises ValueError beyond Linux's bound for one argument.

    It is cut into words of a few hundred characters, as csh knows no longer ones.

    >>> print(carry("echo 'a'"))
    sh -c 'eval "$(printf %b "$@")"' sh 'echo \\0047a\\0047'
    """
    awkward = set(_AWKWARD.findall(script))
    escaped = script.translate({ord(char): "".join(f"\\0{byte:03o}" for byte in char.encode()) for char in awkward})
    words, begin = list[str](), 0
    while begin < len(escaped):
        end = begin + WORD_BYTES
        cut = escaped.rfind("\\", end - 4, end)  # an escape is five characters long and stays whole
        end = cut if begin < cut else end
        words.append(escaped[begin:end])
        begin = end
    quoted = " ".join(f"'{word}'" for word in words)
    command = f"""sh -c 'eval "$(printf %b "$@")"' sh {quoted}"""
    if len(command) > ARGUMENT_BYTES:
        raise ValueError(f"the script takes {len(command)} bytes, more than one argument may have")
    return command
