"""The whole server on this machine under load: started as a user starts it, asked in an open loop."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from radrank.bench.footprint import serving
from radrank.bench.load.channels import OK
from radrank.bench.load.report import JSON_FILE
from radrank.core.errors import RadrankError

KINDS = ("image", "text", "embedding")
_WARM_UP = 3.0
_START_SECONDS = 12.0  # of the load generator: its imports, its queries, its report
_SERVER_SECONDS = 25.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Loads:
    """rate: requests a second, of each kind after the other; objective_ms: for p99; seconds: measured of each kind"""

    rate: float = 500.0
    objective_ms: float = 8.0
    seconds: float = 12.0
    kinds: Sequence[str] = KINDS

    @property
    def needed(self) -> float:
        """Seconds that all of it takes, about."""
        return (_SERVER_SECONDS + len(self.kinds) * self.each) if self.kinds else 0.0

    @property
    def each(self) -> float:
        return self.seconds + _WARM_UP + _START_SECONDS


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """One kind of query. achieved: answered a second; p50, p99: milliseconds of the answered, from when they were due

    errors: those not answered, by gRPC code; runtime, precision: of the encoder that answered; reason: why there are no
    figures, or why they count for nothing
    """

    kind: str
    rate: float
    objective_ms: float
    achieved: float | None = None
    p50: float | None = None
    p99: float | None = None
    met: bool = False
    errors: str = ""
    runtime: str = ""
    precision: str = ""
    reason: str = ""


def under_load(bundle: Path, archive: Path, loads: Loads, out: Path, left: Callable[[], float]) -> Iterator[Load]:
    """Every kind in turn; the generator's own files go to OUT/load-KIND. left: seconds that remain."""

    def absent(kind: str, reason: str) -> Load:
        return Load(kind=kind, rate=loads.rate, objective_ms=loads.objective_ms, reason=reason)

    waiting = list(loads.kinds)
    if not waiting:
        return
    if left() < _SERVER_SECONDS + loads.each:
        yield from (absent(kind, "no time left") for kind in waiting)
        return
    try:
        with serving(bundle, archive) as server:
            while waiting:
                kind = waiting.pop(0)
                if left() < loads.each:
                    yield absent(kind, "no time left")
                    continue
                words = _command(server.address, kind, loads, out / f"load-{kind}")
                yield _ran(words, absent(kind, ""), out / f"load-{kind}", limit=2 * loads.each)
    except RadrankError as error:
        yield from (absent(kind, str(error)) for kind in waiting)


def read(told: Any, load: Load) -> Load:
    """Figures of a load.json with one run."""
    run, server = told["runs"][0], told["server"]
    latency = run["latency_ms"].get(OK, {})
    return replace(
        load,
        achieved=run["achieved"],
        p50=latency.get("p50"),
        p99=latency.get("p99"),
        met=bool(run["meets_objective"]) and not run["void"],
        errors=", ".join(
            f"{name} {count:,}" for name, count in {**run["errors"], "skipped": run["skipped"]}.items() if count
        ),
        runtime=server["runtime"],
        precision=server["precision"],
        reason=run["reason"],
    )


def _command(address: str, kind: str, loads: Loads, out: Path) -> list[str]:
    """In a process of its own: it sends on time only where nothing else has the interpreter's lock."""
    asked = ["--server", address, "--kind", kind, "--rate", f"{loads.rate:g}", "--out", str(out)]
    timed = ["--objective-ms", f"{loads.objective_ms:g}", "--seconds", f"{loads.seconds:g}", "--warm-up", f"{_WARM_UP}"]
    return [sys.executable, "-m", "radrank.client.cli", "bench", "load", *asked, *timed]


def _ran(words: list[str], load: Load, out: Path, *, limit: float) -> Load:
    (out / JSON_FILE).unlink(missing_ok=True)
    try:
        ran = subprocess.run(  # noqa: S603 - this interpreter, and values that the caller gave
            words, capture_output=True, text=True, timeout=limit, check=False
        )
        return read(json.loads((out / JSON_FILE).read_text(encoding="utf-8")), load)
    except subprocess.TimeoutExpired:
        return replace(load, reason=f"the load generator took more than {limit:g} s")
    except OSError:  # it has written nothing
        said = ran.stderr.strip().splitlines()
        return replace(load, reason=said[-1] if said else f"the load generator ended with {ran.returncode}")
