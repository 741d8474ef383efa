"""Whoever answers the same request on a GPU machine: torch, ONNX Runtime, TensorRT, each opened as it is served."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from radrank.core.errors import NotFound, RadrankError
from radrank.engines.conversions import FP32, converted
from radrank.engines.engine import Engine, Feed, Model
from radrank.engines.parity import Agreement, Golden
from radrank.engines.runtimes import GPU_PRECISION, RUNTIMES, EngineSettings

if TYPE_CHECKING:
    from radrank.bench.gpu_torch import TorchModels

Answer = Callable[[Feed], NDArray[np.float32]]
EAGER, COMPILED, CPU = "torch eager", "torch.compile", "ONNX Runtime CPU"
CUDA, GRAPH, TENSORRT, RTX = "ONNX Runtime CUDA", "ONNX Runtime CUDA + graph", "TensorRT", "TensorRT-RTX"
FP16 = GPU_PRECISION


def _nothing() -> None:
    pass


@dataclass(frozen=True, kw_only=True, slots=True)
class Material:
    """What one model's sides are opened from.

    model: with the buckets that are measured and that the golden queries need; whole: with those that plans have
    torch: of the run that the bundle was exported from, None where it is not at hand
    """

    model: Model
    whole: Model
    plans: Path
    golden: Golden
    torch: TorchModels | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Open:
    """A side that answers. runtime: and its version, as the engine names it; checked: whether it may be asked golden
    queries, whose shapes are others
    """

    answer: Answer
    runtime: str
    close: Callable[[], None] = _nothing
    checked: bool = True

    def agreement(self, golden: Golden) -> Agreement:
        """With the golden answers. Raises Mismatch where one is not finite."""
        return golden.agreement(np.concatenate([self.answer(feed) for feed in golden.feeds]))


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """needs_gpu: it can't run without one; slow: it compiles for every new shape, for that many seconds"""

    name: str
    precision: str
    opened: Callable[[Material], Open]
    needs_gpu: bool = True
    slow: Mapping[str, float] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return f"{self.name}, {self.precision}"


def sides(*, gpu: bool) -> list[Side]:
    """All sides. gpu: whether there is one; torch runs on it, and without one on the CPU in fp32."""
    compiles = {"encoder": 40.0, "reranker": 20.0}
    return [
        Side(name=EAGER, precision=FP32, opened=_torch(), needs_gpu=False),
        Side(name=EAGER, precision=FP16, opened=_torch(half=True)),
        Side(
            name=COMPILED,
            precision=FP16 if gpu else FP32,
            opened=_torch(half=gpu, compiled=True),
            needs_gpu=False,
            slow=compiles,
        ),
        Side(name=CPU, precision=FP32, opened=reference, needs_gpu=False),
        Side(name=CUDA, precision=FP16, opened=_cuda(FP16, graphs=False)),
        Side(name=GRAPH, precision=FP32, opened=_cuda(FP32, graphs=True)),
        Side(name=GRAPH, precision=FP16, opened=_cuda(FP16, graphs=True)),
        Side(name=TENSORRT, precision=FP16, opened=_tensorrt("tensorrt")),
        Side(name=RTX, precision=FP16, opened=_tensorrt("tensorrt-rtx")),
    ]


def reference(material: Material) -> Open:
    """fp32 on the CPU: what every other side's answers are compared with."""
    return _engine(RUNTIMES["onnxruntime-cpu"](material.model, EngineSettings(precision=FP32, plans=material.plans)))


def _torch(*, half: bool = False, compiled: bool = False) -> Callable[[Material], Open]:
    def opened(material: Material) -> Open:
        if material.torch is None:
            raise NotFound("run", "give the one that the bundle was exported from with --run")
        import torch

        answer = material.torch.answer(material.model.name, half=half, compiled=compiled)
        inputs = list(material.model.buckets[0])
        return Open(
            answer=lambda feed: answer({name: feed[name] for name in inputs}),
            runtime=f"torch {torch.__version__} on {material.torch.device}",
            # Models share their layers' code, and dynamo gives up on code that it has compiled for many shapes.
            close=torch.compiler.reset if compiled else _nothing,
            checked=not compiled,
        )

    return opened


def _cuda(precision: str, *, graphs: bool) -> Callable[[Material], Open]:
    def opened(material: Material) -> Open:
        from radrank.core.errors import Unavailable
        from radrank.engines.onnxruntime_gpu import GpuEngine

        model = converted(material.plans, material.model, precision)
        engine = GpuEngine(model, "onnxruntime-cuda", kept=material.plans, graphs=graphs)
        if graphs and not engine.captured:
            engine.close()
            raise Unavailable("ONNX Runtime refuses to capture this model; the log says why")
        return _engine(engine)

    return opened


def _tensorrt(flavour: str) -> Callable[[Material], Open]:
    def opened(material: Material) -> Open:
        from radrank.engines.tensorrt import TensorRTEngine

        return _engine(TensorRTEngine(material.whole, precision=FP16, flavour=flavour, plans=material.plans))

    return opened


def _engine(engine: Engine) -> Open:
    inputs, output = [given.name for given in engine.inputs], engine.outputs[0].name

    def answer(feed: Feed) -> NDArray[np.float32]:
        found: NDArray[np.float32] = engine.run({name: feed[name] for name in inputs})[output]
        return found

    return Open(answer=answer, runtime=engine.manifest.runtime, close=engine.close)


def why(error: Exception) -> str:
    """The error in one line, for a table: ours as it is, others with their type."""
    words = " ".join(str(error).split())
    return words if isinstance(error, RadrankError) else f"{type(error).__name__}: {words[:200]}"
