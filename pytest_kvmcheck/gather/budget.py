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

#: Things of a host that are judged one by one: guests, disks, cards, virtual processors, maps.
SUBJECTS = 50_000

#: Pieces of evidence that one verdict names.
REFERENCES = 1_000

#: What one host's folder of a bundle, or a sosreport, holds when it is unpacked.
UNPACKED_BYTES = 1024 * MIB
