"""The runtimes by name: what each needs, and which are tried first."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from radrank.core.errors import InvalidQuery, Unavailable
from radrank.core.ports import EngineManifest
from radrank.engines.batching import Batching
from radrank.engines.conversions import FP32, converted
from radrank.engines.engine import Engine, Model
from radrank.engines.models import GRAPHS, MESSAGES_OF
from radrank.engines.plans import plans_of

AUTO, TRITON = "auto", "triton"
PLAIN = "onnxruntime-cpu"
"""There wherever a bundle is served, and in fp32 the same on all machines."""
GPU_PRECISION = "fp16"
OPENVINO = "openvino"
OPENVINO_PRECISION = "bf16"
_LANES = 2  # one batch forms and is copied while the other runs


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineSettings:
    """How a bundle's models are run.

    runtime: a name of RUNTIMES, or "auto" for the best that is installed and passes the gate
    precision: None for what suits the runtime: fp16 on a GPU, bf16 on OpenVINO where the processor has it, else fp32
    plans: directory of TensorRT plans, converted models and OpenVINO's files; None for BUNDLE.plans, beside the bundle
    threads: of one encoder call on a CPU; None for all cores
    batch: requests that a GPU runs as one. Every run is of this size, so that no answer depends on what else is in it
    batch_delay: seconds that an idle GPU waits for a batch to fill
    triton: host:port of a Triton's gRPC; triton_ca: PEM file of who signed its certificate, None for a plain channel
    """

    runtime: str = AUTO
    precision: str | None = None
    plans: Path | None = None
    threads: int | None = None
    batch: int = 8
    batch_delay: float = 0.0
    triton: str | None = None
    triton_ca: Path | None = None

    def plans_for(self, model: Model) -> Path:
        return self.plans or plans_of(model.path.parent)


def computes_in_caller(manifest: EngineManifest) -> bool:
    """Whether an engine computes in the thread that asks it: it waits neither for a batch nor for another host."""
    return manifest.runtime.partition(" ")[0] in (PLAIN, OPENVINO)


Opener = Callable[[Model, EngineSettings], Engine]
"""Opens a model. Raises MissingExtra or Unavailable where this runtime can't run it here, whatever is built for it;
else NotFound, Mismatch or Corrupt where what it needs is missing, does not fit or is broken.
"""


def _onnxruntime_cpu(model: Model, settings: EngineSettings) -> Engine:
    from radrank.engines.onnxruntime import CpuEngine

    small = model.name.startswith(GRAPHS)
    # A re-ranker's graph is small: a second thread costs it more than it brings, and int8 more than it saves.
    threads = 1 if small else settings.threads or len(os.sched_getaffinity(0))
    precision = settings.precision or model.precision
    return CpuEngine(model if small else converted(settings.plans_for(model), model, precision), threads=threads)


def _onnxruntime_gpu(name: str) -> Opener:
    def opened(model: Model, settings: EngineSettings) -> Engine:
        from radrank.engines.onnxruntime_gpu import GpuEngine

        if model.name.startswith(MESSAGES_OF):
            return _onnxruntime_cpu(model, settings)  # few are made for a search, and a snapshot's come from here too
        precision = settings.precision or GPU_PRECISION
        engine = GpuEngine(model, name, kept=settings.plans_for(model), precision=precision)
        return Batching(engine, most=settings.batch, delay=settings.batch_delay)

    return opened


def _tensorrt(flavour: str) -> Opener:
    def opened(model: Model, settings: EngineSettings) -> Engine:
        from radrank.engines.tensorrt import TensorRTEngine

        if model.name.startswith(MESSAGES_OF) and settings.runtime == AUTO:
            raise Unavailable("messages are made on the CPU where there is another runtime")
        precision = settings.precision or GPU_PRECISION
        engine = TensorRTEngine(
            model, precision=precision, flavour=flavour, plans=settings.plans_for(model), lanes=_LANES
        )
        return Batching(engine, most=settings.batch, lanes=_LANES, delay=settings.batch_delay)

    return opened


def _openvino(model: Model, settings: EngineSettings) -> Engine:
    from radrank.engines.openvino import OpenVinoEngine

    if model.name.startswith(GRAPHS):
        if settings.runtime == AUTO:
            raise Unavailable("a re-ranker's graph is small: ONNX Runtime answers sooner")
        return _onnxruntime_cpu(model, settings)
    precision, threads = settings.precision or OPENVINO_PRECISION, settings.threads or len(os.sched_getaffinity(0))
    return OpenVinoEngine(model, precision=precision, threads=threads, kept=settings.plans_for(model))


def _triton(model: Model, settings: EngineSettings) -> Engine:
    from radrank.engines.triton import TritonEngine

    if settings.triton is None:
        raise InvalidQuery("engines.triton", "must name a Triton's gRPC as host:port, such as 127.0.0.1:8001")
    # Triton makes batches of what comes together itself.
    return TritonEngine(model, address=settings.triton, ca=settings.triton_ca, precision=settings.precision)


RUNTIMES: Mapping[str, Opener] = {
    "tensorrt": _tensorrt("tensorrt"),
    "tensorrt-rtx": _tensorrt("tensorrt-rtx"),
    "onnxruntime-cuda": _onnxruntime_gpu("onnxruntime-cuda"),
    "onnxruntime-tensorrt": _onnxruntime_gpu("onnxruntime-tensorrt"),
    "onnxruntime-tensorrt-rtx": _onnxruntime_gpu("onnxruntime-tensorrt-rtx"),
    OPENVINO: _openvino,
    PLAIN: _onnxruntime_cpu,
    TRITON: _triton,
}

PREFERENCE = (
    ("tensorrt", GPU_PRECISION),
    ("tensorrt-rtx", GPU_PRECISION),
    ("onnxruntime-cuda", GPU_PRECISION),
    ("onnxruntime-cuda", FP32),
    (OPENVINO, OPENVINO_PRECISION),
    (OPENVINO, FP32),
    (PLAIN, FP32),
)
"""What "auto" tries, best first, and in which precision where none is asked for; the last must be there. ONNX Runtime's
TensorRT providers build engines when they are opened, for minutes, and a Triton is another machine: they serve only
where they are asked for.
"""


TRIALS = frozenset({OPENVINO})
"""Need nothing built or converted beforehand: "auto" tries them in passing, and that one is refused is no news."""


def choices(settings: EngineSettings) -> tuple[tuple[str, EngineSettings], ...]:
    """Runtimes that the settings allow and how each is opened, best first. Raises InvalidQuery for an unknown one.

    "auto" ends with what is always there: the CPU in fp32.
    """
    if settings.runtime != AUTO:
        if settings.runtime not in RUNTIMES:
            raise InvalidQuery("engines.runtime", f"must be one of: {', '.join((AUTO, *RUNTIMES))}")
        return ((settings.runtime, settings),)
    *better, plain = [(name, replace(settings, precision=precision)) for name, precision in PREFERENCE]
    if settings.precision is not None:
        better = list(dict.fromkeys((name, settings) for name, _ in PREFERENCE))  # once each
    return (*(choice for choice in better if choice != plain), plain)
