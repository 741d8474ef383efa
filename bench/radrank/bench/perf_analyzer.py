"""NVIDIA's perf_analyzer as a measuring tool: a closed loop, or Poisson arrivals, on a model served by KServe v2."""

from __future__ import annotations

import base64
import csv
import json
import os
import shlex
import shutil
import struct
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from radrank.core.errors import Mismatch, NotFound, Unavailable

WINDOWS = 3  # in a row must agree for perf_analyzer to call a measurement stable
STABLE_PERCENT = 25  # their largest throughput and median latency over the smallest
TRIALS = 6  # windows until it gives up
_UNSTABLE = 2  # its exit status then
_SLACK_SECONDS = 60.0
_THROUGHPUT, _P50, _P99 = "Inferences/Second", "p50 latency", "p99 latency"

Query = Mapping[str, NDArray[Any]]
"""Inputs by name; those of words or files are arrays of bytes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """Either so many clients, each waiting for its answer, or so many requests a second at random (Poisson)."""

    concurrency: int | None = None
    rate: float | None = None

    def __str__(self) -> str:
        return f"Poisson, {self.rate:g}/s" if self.concurrency is None else f"{self.concurrency} at once"

    @property
    def options(self) -> tuple[str, ...]:
        if self.concurrency is not None:
            return (f"--concurrency-range={self.concurrency}",)
        return (f"--request-rate-range={self.rate:g}", "--request-distribution=poisson", "--async")


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """throughput: answers a second; p50, p99: milliseconds from sending to the answer"""

    throughput: float
    p50: float
    p99: float


class PerfAnalyzer:
    """Runs it once for each measurement. version: what it says of itself."""

    def __init__(self, command: str, folder: Path) -> None:
        """command: what starts it, with options of its own if need be; folder: for its files. Raises NotFound."""
        self._words = program(command, "--perf-analyzer")
        self._folder = folder
        said = self._ran(["--version"], _SLACK_SECONDS)
        self.version = (said.stdout + said.stderr).strip().removeprefix("Perf Analyzer Version ") or "unknown"

    def measure(self, address: str, model: str, queries: Path, load: Load, *, seconds: float) -> Reading | None:
        """Under this load for about so many seconds; None where it was not stable, nor in a second, longer try.

        queries: written by `write_queries`. Raises Unavailable where it fails, such as at an error of the server.
        """
        asked = ["-i", "grpc", "-u", address, "-m", model, f"--input-data={queries}", *load.options]
        return self._measured(asked, seconds / WINDOWS) or self._measured(asked, 2 * seconds / WINDOWS)

    def _measured(self, asked: Sequence[str], window: float) -> Reading | None:
        found = self._folder / "reading.csv"
        found.unlink(missing_ok=True)
        # The tail is what is measured, and no tail of a few hundred answers repeats itself: the median tells stability.
        steady = ["--percentile=50", f"--stability-percentage={STABLE_PERCENT}", f"--max-trials={TRIALS}"]
        options = [*steady, f"--measurement-interval={round(1_000 * window)}", "-f", str(found)]
        done = self._ran([*asked, *options], 2 * TRIALS * window + _SLACK_SECONDS)
        if done.returncode == _UNSTABLE:
            return None
        if done.returncode or not found.is_file():
            said = " ".join(done.stderr.split())[-300:] or "nothing"
            raise Unavailable(f"perf_analyzer measured nothing and ended with {done.returncode}; it said: {said}")
        return reading(found)

    def _ran(self, options: Sequence[str], seconds: float) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RADRANK_")}
        try:
            return subprocess.run(  # noqa: S603 - the program that the caller named
                [*self._words, *options], capture_output=True, text=True, timeout=seconds, env=environment, check=False
            )
        except subprocess.TimeoutExpired:
            raise Unavailable(f"perf_analyzer did not end within {seconds:.0f} s") from None


def program(command: str, option: str) -> list[str]:
    """Its words. Raises NotFound where the first is no program; option: with which another command is given."""
    words = shlex.split(command)
    if not words or shutil.which(words[0]) is None:
        raise NotFound(f"program {words[0] if words else command!r}", f"say what starts it: {option} 'COMMAND …'")
    return words


def reading(path: Path) -> Reading:
    """From the CSV file of one measurement. Raises Mismatch where perf_analyzer writes others than it did."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    try:
        last = {name: float(rows[-1][name]) for name in (_THROUGHPUT, _P50, _P99)}
    except (IndexError, KeyError, TypeError, ValueError):
        columns = ", ".join(rows[-1]) if rows else "no row"
        raise Mismatch("perf_analyzer's CSV", f"{_THROUGHPUT}, {_P50}, {_P99}", columns) from None
    return Reading(throughput=last[_THROUGHPUT], p50=last[_P50] / 1e3, p99=last[_P99] / 1e3)


def write_queries(path: Path, queries: Sequence[Query]) -> None:
    """For --input-data: perf_analyzer sends them in turn, and begins anew after the last."""
    steps = [{name: {"b64": base64.b64encode(_raw(array)).decode()} for name, array in one.items()} for one in queries]
    path.write_text(json.dumps({"data": steps}), encoding="utf-8")


def _raw(array: NDArray[Any]) -> bytes:
    """Little-endian contents, in row-major order; each element of bytes has its length before it, as KServe has it."""
    if array.dtype == object:
        return b"".join(struct.pack("<I", len(one)) + one for one in array.flat)
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
