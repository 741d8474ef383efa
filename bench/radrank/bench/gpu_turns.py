"""Many times of each side, taken in turn, within so many seconds."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from radrank.bench import turns
from radrank.bench.turns import Call

ROUNDS = 5
MOST = 400  # calls of one turn: of a side that takes microseconds they are enough


def sampled(calls: Mapping[str, Call], *, seconds: float, rounds: int = ROUNDS) -> dict[str, NDArray[np.float64]]:
    """Milliseconds [n] of every call, by the side's name, whoever was first being last in the next round.

    Every turn is one call to warm up, and then as many as fit its share of the time, at least one. Where single calls
    take longer than that, none is thrown away, and rounds past the time are left out.
    """
    found: dict[str, list[float]] = {name: [] for name in calls}
    share = seconds / (rounds * max(1, len(calls)))
    names, end = list(calls), time.perf_counter() + seconds
    for number in range(rounds):
        if number and time.perf_counter() >= end:
            break
        first = number % max(1, len(names))
        for name in (*names[first:], *names[:first]):
            found[name] += _turn(calls[name], name, share)
    return {name: np.array(taken) for name, taken in found.items()}


def _turn(call: Call, name: str, seconds: float) -> list[float]:
    time.sleep(turns.REST_SECONDS)
    end = time.perf_counter() + seconds
    warming = call()[name]
    taken = [warming] if time.perf_counter() >= end else []
    while len(taken) < MOST and (not taken or time.perf_counter() < end):
        taken.append(call()[name])
    return taken
