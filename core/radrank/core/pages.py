"""Memory-mapped arrays of which no more than a budget stays in the process.

What has been read of a mapped file counts as the process's own memory for as long as it stays mapped, and the kernel
maps far more around a row than was asked for: after some hundred searches all of a large archive. Past the budget its
pages go back a slice at a time. They stay in the page cache: reading one again costs a page fault, and no disk.
"""

from __future__ import annotations

import math
import mmap
import os
import threading
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAPPED_BYTES = 128 << 20  # some 60,000 vectors of 512 numbers: smaller archives are never trimmed
_SLICE = 32 << 20  # given back in about 0.2 ms, on the way of a search
_STATM = Path("/proc/self/statm")  # Linux's alone: elsewhere nothing is trimmed


class MappedFiles:
    """Opens arrays; `trim`, called after reading from them, keeps what is mapped within the budget. Thread-safe.

    budget: bytes of mapped files in this process, beside those that are kept and those of its libraries
    """

    def __init__(self, budget: int = MAPPED_BYTES) -> None:
        self._budget, self._limit = budget, _libraries() + budget
        self._maps: list[mmap.mmap] = []
        self._bytes = 0
        self._trimming = threading.Lock()
        self._next = (0, 0)  # the slice that has been mapped longest: which map, and where in it

    def open(self, path: Path, *, keep: bool = False) -> NDArray[Any]:
        """The array of a .npy file, read-only. keep: never given back, since every search reads all over it."""
        mapped = np.load(path, mmap_mode="r")
        if keep:
            self._limit += len(mapped.base)
        else:
            self._maps.append(mapped.base)
            self._bytes += len(mapped.base)
        # Seen as a plain array: every indexing of a numpy.memmap makes another one, which costs more than the gather.
        return np.asarray(mapped)

    def trim(self) -> None:
        """Gives pages back, the longest mapped first, until the budget holds or all are given back."""
        if self._bytes <= self._budget or not self._trimming.acquire(blocking=False):
            return
        try:
            left = slices = sum(-(-len(one) // _SLICE) for one in self._maps)
            while left > 0 and (excess := mapped_bytes() - self._limit) > 0:
                # As if all of them held alike: asking after each takes Python's lock as often from who searches beside.
                count = min(left, math.ceil(excess * slices / max(self._budget, excess)))
                for _ in range(count):
                    self._give_back()
                left -= count
        finally:
            self._trimming.release()

    def _give_back(self) -> None:
        which, start = self._next
        one = self._maps[which]
        one.madvise(mmap.MADV_DONTNEED, start, min(_SLICE, len(one) - start))
        start += _SLICE
        self._next = (which, start) if start < len(one) else ((which + 1) % len(self._maps), 0)


def mapped_bytes() -> int:
    """Of files that this process has mapped and that are in memory; 0 where the system does not tell."""
    told = _statm(_STATM)
    return 0 if told is None else int(os.pread(told, 256, 0).split()[2]) * mmap.PAGESIZE


@cache
def _statm(path: Path) -> int | None:
    """Open for good: it is read at every search of a large archive."""
    try:
        return os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None


@cache
def _libraries() -> int:
    """What was mapped before the first array."""
    return mapped_bytes()
