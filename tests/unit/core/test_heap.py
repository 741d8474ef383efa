"""What has been freed goes back to the system."""

from __future__ import annotations

import ctypes

import pytest

from radrank.bench.memory import memory_of
from radrank.core import heap

MIB = 1 << 20


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="glibc alone keeps what is freed")
def test_what_was_freed_below_what_is_in_use_goes_back():
    blocks = [bytearray(b"x" * 100_000) for _ in range(2_000)]  # too small for maps of their own
    in_use = bytearray(b"x" * 100_000)
    del blocks
    before = memory_of().anonymous
    heap.give_back()
    assert before - memory_of().anonymous > 100 * MIB
    assert len(in_use) == 100_000
