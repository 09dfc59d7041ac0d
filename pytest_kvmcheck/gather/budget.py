"""How much one host may tell us. Beyond it that host, and no other, is unknown: its answers are truncated.

Each number is several times what a host with two thousand guests needs, and small enough that what a hostile host sends costs less
than 512 MiB of memory and ten seconds of CPU.
"""

from __future__ import annotations

MIB = 2**20

#: Both streams of a gathering as they arrive, or a saved reply (encoded; what may be large is compressed before).
REPLY_BYTES = 64 * MIB

#: All answers of a reply, decoded and unpacked, as memory of their texts: a character takes one to four bytes.
DECODED_BYTES = 96 * MIB

#: Answers of a reply, in frames of their own or of a batch. A host is asked some two hundred questions.
FRAMES = 2_000

#: Records of a host: answers, sections of keyed answers. A guest takes five of them.
SECTIONS = 50_000

#: Things of a host that are judged one by one: disks, cards, virtual processors, maps; each by several checks.
SUBJECTS = 20_000

#: Guests of a host. Some fifty verdicts are made of each.
DOMAINS = 5_000

# -- all hosts together ------------------------------------------------------------------------------------------------------

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
HELD_BYTES = 512 * MIB

# -- archives and bundles, which strangers made --------------------------------------------------------------------------------

#: Members of an archive, and files of a bundle.
MEMBERS = 1_000_000
#: What an archive unpacks to, that which is passed over too: a sosreport may hold gigabytes of logs.
STREAM_BYTES = 16 * 1024 * MIB
#: Of one member, what stands before its content: names, extended headers, maps of holes.
HEADER_BYTES = 64 * 1024
#: One file of a bundle: an answer, or the records of a host.
FILE_BYTES = 64 * MIB
#: What a bundle of many hosts takes when it is unpacked, and never more than half of the free space.
BUNDLE_BYTES = 8 * 1024 * MIB
#: One file of a sosreport; of those that nobody asks for, only smaller ones are kept, as links may lead to them.
SOS_FILE_BYTES, SOS_ASIDE_BYTES = 64 * MIB, MIB
#: All that is kept of a sosreport.
SOS_BYTES = 256 * MIB
#: What decompressing xz may take: its dictionary is as large as its maker says.
XZ_BYTES = 256 * MIB
