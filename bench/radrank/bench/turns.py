"""Times taken in turn: what is compared runs side by side, so that what else the machine does falls on all alike."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

REST_SECONDS = 0.01  # before every turn: what threads of the last one still spin must not fall on it
COUNTED = 3  # calls of a turn, in a row, after one that warms caches which the last turn filled with other things
DRAWS = 1_000
COVERAGE = 0.95
PACKAGES = ("numpy", "onnxruntime", "onnxruntime-gpu", "openvino", "torch", "torch-geometric", "hnswlib", "grpcio")

Call = Callable[[], Mapping[str, float]]
"""Does something once, and tells the milliseconds of each thing that it timed, by name."""
Times = Mapping[str, NDArray[np.float64]]
"""Milliseconds by name, float64 [questions, rounds]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ratio:
    """A ratio and the interval about it; of `ratio`, that into which 95 % of bootstrap draws over questions fall."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def clocked(name: str, action: Callable[[], object]) -> Call:
    """A call that times the action as a whole."""

    def call() -> Mapping[str, float]:
        start = time.perf_counter_ns()
        action()
        return {name: (time.perf_counter_ns() - start) / 1e6}

    return call


def in_turn(questions: Sequence[Sequence[Call]], *, rounds: int, step: Callable[[], None]) -> Times:
    """Every call of every question has a turn in each round, whoever was first being last in the next one.

    A turn is one call to warm up, then the median of COUNTED calls; a first round is not counted at all.
    step: called after each of the 1 + `rounds` rounds
    """
    found: dict[str, NDArray[np.float64]] = {}
    for number in range(-1, rounds):
        for place, calls in enumerate(questions):
            first = (number + place) % len(calls)
            for call in (*calls[first:], *calls[:first]):
                for name, milliseconds in _turn(call, COUNTED if number >= 0 else 0).items():
                    taken = found.setdefault(name, np.full((len(questions), rounds), np.nan))
                    taken[place, number] = milliseconds
        step()
    return found


def _turn(call: Call, count: int) -> Mapping[str, float]:
    time.sleep(REST_SECONDS)
    call()
    told = [call() for _ in range(count)]
    return {name: float(np.median([one[name] for one in told])) for name in (told[0] if told else ())}


def median(taken: NDArray[np.float64]) -> float:
    """Over questions, of each one's median over rounds."""
    return float(np.median(np.median(taken, axis=1)))


def fastest(taken: NDArray[np.float64]) -> float:
    """Over questions, the median of each one's fastest round: what other work on the machine disturbs least."""
    return float(np.median(np.min(taken, axis=1)))


def ratio(over: NDArray[np.float64], under: NDArray[np.float64], *, draws: int = DRAWS, seed: int = 0) -> Ratio:
    """Of the medians of two things that were timed in turn; the same questions are drawn for both."""
    upper, lower = np.median(over, axis=1), np.median(under, axis=1)
    drawn = np.random.default_rng(seed).integers(0, len(upper), (draws, len(upper)))
    found = np.median(upper[drawn], axis=1) / np.median(lower[drawn], axis=1)
    tail = (1.0 - COVERAGE) / 2.0
    low, high = np.quantile(found, [tail, 1.0 - tail])
    return Ratio(value=median(over) / median(under), low=float(low), high=float(high))


def machine() -> dict[str, str]:
    """What the times are taken on, and how busy it is: 1-minute load average, to be asked before the first of them."""
    found = {"processor": _processor(), "cores": str(len(os.sched_getaffinity(0)))}
    found |= {"load before": f"{os.getloadavg()[0]:.1f}", "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
