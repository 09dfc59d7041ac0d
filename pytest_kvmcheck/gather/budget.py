"""What one host, and all together, may cost us. Beyond it that host alone is unknown (truncated)."""

from __future__ import annotations

#: Connections that are about to be made, at a time: what costs CPU time, here and on a jump host.
STARTING = 32
#: After so long (s) without a word, a host gives up its place among these.
STARTING_S = 0.25
#: Hosts that are waited for at a time: an ssh client takes some 2 MiB, a process and two descriptors.
WAITING = 1000
#: When all these places are taken, the host that has been silent for longest, and for so long (s), gives way.
SILENT_S = 20.0
#: Beyond its deadline (s), a host of any kind is given up: a file on a server that is gone cannot be waited for otherwise.
OVERTIME_S = 20.0
#: Answers that are held at a time, of all hosts together; beyond it, the host that holds most is cut.
HELD_BYTES = 512 * 2**20
