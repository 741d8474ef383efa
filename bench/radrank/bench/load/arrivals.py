"""When the requests of an open loop are due."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def poisson(rate: float, seconds: float, *, seed: int) -> NDArray[np.float64]:
    """Times of a Poisson process of `rate` per second in [0, seconds): float64 [n], ascending.

    The same arguments give the same times, and one seed gives every rate the same times on another scale.
    """
    generator = np.random.default_rng(seed)
    block = int(rate * seconds) + 64
    times = np.cumsum(generator.exponential(size=block))
    while times[-1] < rate * seconds:
        times = np.append(times, times[-1] + np.cumsum(generator.exponential(size=block)))
    due: NDArray[np.float64] = times[times < rate * seconds] / rate
    return due
