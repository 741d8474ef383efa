"""The runtimes by name: what each needs, and which are tried first."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from radrank.core.errors import InvalidQuery
from radrank.engines.engine import Engine, Model
from radrank.engines.models import BATCHES, RERANKER

AUTO = "auto"


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineSettings:
    """How a bundle's models are run.

    runtime: a name of RUNTIMES, or "auto" for the best that is installed and passes the gate
    precision: None for what suits the runtime: fp32 on a CPU, fp16 on a GPU
    plans: directory of TensorRT plans and converted models; None for BUNDLE.plans, beside the bundle
    threads: of one encoder call on a CPU; None for all cores
    batches: requests that a GPU runs as one, by bucket
    """

    runtime: str = AUTO
    precision: str | None = None
    plans: Path | None = None
    threads: int | None = None
    batches: tuple[int, ...] = BATCHES


Opener = Callable[[Model, EngineSettings], Engine]
"""Opens a model. Raises MissingExtra, NotFound, Mismatch or Unavailable where this runtime can't run it here."""


def _onnxruntime_cpu(model: Model, settings: EngineSettings) -> Engine:
    from radrank.engines.onnxruntime import CpuEngine

    # A re-ranker's graph is small: a second thread costs it more than it brings.
    threads = 1 if model.name.startswith(RERANKER) else settings.threads or len(os.sched_getaffinity(0))
    return CpuEngine(model, threads=threads)


RUNTIMES: Mapping[str, Opener] = {
    "onnxruntime-cpu": _onnxruntime_cpu,
}

PREFERENCE = ("onnxruntime-cpu",)
"""What "auto" tries, best first; the last must be there. Runtimes that build engines when they open are not tried."""


def runtime_names(settings: EngineSettings) -> tuple[str, ...]:
    """Names that the settings allow, best first. Raises InvalidQuery for an unknown one."""
    if settings.runtime == AUTO:
        return PREFERENCE
    if settings.runtime not in RUNTIMES:
        raise InvalidQuery("engines.runtime", f"must be one of: {', '.join((AUTO, *RUNTIMES))}")
    return (settings.runtime,)
