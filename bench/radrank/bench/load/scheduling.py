"""The load generator's place at the processor."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

REAL_TIME, NORMAL = "real-time", "normal"


@contextmanager
def prompt() -> Iterator[str]:
    """This thread, and those that it starts, run as soon as they are due: REAL_TIME, or NORMAL where that is refused.

    A client on a machine of its own never waits for the server's threads; one that shares its cores would, and would
    send late. Real-time scheduling needs root or CAP_SYS_NICE.
    """
    if sys.platform != "linux":
        yield NORMAL
        return
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except PermissionError:
        yield NORMAL
        return
    try:
        yield REAL_TIME
    finally:
        os.sched_setscheduler(0, *before)
