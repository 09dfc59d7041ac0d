"""The frequency of this machine's time stamp counter, which an emulated machine counts by too.

A kernel under emulation measures it against emulated timers, and is wrong by any factor when the processors are busy: its
seconds then last a fraction of one.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import time

#: rdtsc; shl rdx, 32; or rax, rdx; ret
_CODE = bytes.fromhex("0f3148c1e2204809d0c3")


@functools.cache
def khz(seconds: float = 0.5) -> int:
    """Return the counts per millisecond, right to some millionths."""
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(_CODE)
    count = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(ctypes.c_char.from_buffer(page)))

    def moment() -> tuple[int, int]:
        """Return time (ns) and counter, read as close to each other as can be had."""
        tries = []
        for _ in range(200):
            before = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
            counted = count()
            after = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
            tries.append((after - before, (before + after) // 2, counted))
        _, at, counted = min(tries)
        return at, counted

    begin_ns, begin = moment()
    time.sleep(seconds)
    end_ns, end = moment()
    return round((end - begin) * 1_000_000 / (end_ns - begin_ns))
