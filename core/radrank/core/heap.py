"""The process's own memory."""

from __future__ import annotations

import ctypes


def give_back() -> None:
    """Gives what has been freed back to the system, where glibc would keep it for what is allocated next."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
