"""OpenVINO on the CPU: the bundle's ONNX files with its kernels, and in bf16 where the processor has it."""

from __future__ import annotations

import queue
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radrank.core.errors import MissingExtra, Unavailable
from radrank.core.ports import EngineManifest
from radrank.engines.buckets import checked
from radrank.engines.engine import Feed, Model, TensorSpec

_HINTS: Mapping[str, str] = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}


class OpenVinoEngine:
    """One ONNX file on the CPU: any batch, any size. `run` releases the GIL and may be called from several threads."""

    def __init__(self, model: Model, *, precision: str, threads: int) -> None:
        """precision: of the arithmetic; the file stays as it is.

        Raises MissingExtra, and Unavailable where this processor lacks the precision.
        """
        package = openvino()
        core = package.Core()
        if precision not in _HINTS or precision.upper() not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise Unavailable(f"openvino has no {precision} on this processor")
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": False,  # other threads of the server want the cores too
        }
        try:
            self._compiled = core.compile_model(str(model.path), "CPU", settings)
        except RuntimeError as error:
            raise Unavailable(f"openvino can't open {model.name}: {error}") from error
        self.inputs = tuple(map(_spec, self._compiled.inputs))
        self.outputs = tuple(map(_spec, self._compiled.outputs))
        self._names = [output.name for output in self.outputs]
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
        version = package.__version__.split("-")[0]
        self.manifest = EngineManifest(sha256=model.sha256, precision=precision, runtime=f"openvino {version}")

    def warm_up(self, feeds: Iterable[Feed]) -> None:
        for feed in feeds:
            self.run(feed)

    def run(self, feed: Feed) -> dict[str, NDArray[Any]]:
        """As Engine says."""
        given = checked(feed, self.inputs)
        request = self._request()
        try:
            found = request.infer(dict(given), share_inputs=True)
            return {name: found[place] for place, name in enumerate(self._names)}  # copies: outputs are not shared
        finally:
            self._idle.put(request)

    def close(self) -> None:
        self._compiled = None
        self._idle = queue.SimpleQueue()

    def _request(self) -> Any:
        """One that nobody uses; there are as many as there were ever calls at once."""
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            if self._compiled is None:
                raise Unavailable("this engine is closed") from None
            return self._compiled.create_infer_request()


def openvino() -> Any:
    """The package. Raises MissingExtra."""
    # Its conversion tools, which are not used, would load a package that reports usage.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None: an import fails
    try:
        import openvino as package
    except ImportError as error:
        raise MissingExtra("openvino", "openvino") from error
    return package


def _spec(port: Any) -> TensorSpec:
    shape = tuple(axis.get_length() if axis.is_static else -1 for axis in port.partial_shape)
    return TensorSpec(name=port.any_name, dtype=np.dtype(port.element_type.to_dtype()), shape=shape)
