"""OpenVINO on the CPU: the bundle's ONNX files with its kernels, and in bf16 where the processor has it."""

from __future__ import annotations

import logging
import mmap
import queue
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radrank.core.errors import MissingExtra, Unavailable
from radrank.core.ports import EngineManifest
from radrank.engines import openvino_ir
from radrank.engines.buckets import check_fit, checked
from radrank.engines.engine import Feed, Model, TensorSpec

_log = logging.getLogger(__name__)

_HINTS: Mapping[str, str] = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}


class OpenVinoEngine:
    """One ONNX file on the CPU: any batch, any size. `run` releases the GIL and may be called from several threads."""

    def __init__(self, model: Model, *, precision: str, threads: int, kept: Path | None = None) -> None:
        """precision: of the arithmetic; kept: directory for what `openvino_ir` makes, None to read the ONNX file.

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
        self._weights: mmap.mmap | None = None
        try:
            files = None if kept is None else openvino_ir.kept(package, model, precision, kept)
            read = None if files is None else self._mapped(package, core, files)
            if read is None:
                read = core.read_model(str(model.path))
            self._compiled = core.compile_model(read, "CPU", settings)
        except RuntimeError as error:
            raise Unavailable(f"openvino can't open {model.name}: {error}") from error
        self.inputs = tuple(map(_spec, self._compiled.inputs))
        self.outputs = tuple(map(_spec, self._compiled.outputs))
        self._names = [output.name for output in self.outputs]
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
        version = package.__version__.split("-")[0]
        self.manifest = EngineManifest(sha256=model.sha256, precision=precision, runtime=f"openvino {version}")

    def warm_up(self, feeds: Iterable[Feed]) -> None:
        """As Engine says. Weights that the kernels have packed by then are given back."""
        for feed in feeds:
            self.run(feed)
        if self._weights is not None:
            self._weights.madvise(mmap.MADV_DONTNEED)

    def run(self, feed: Feed) -> dict[str, NDArray[Any]]:
        """As Engine says."""
        given = checked(feed, self.inputs)
        request = self._request()
        try:
            found = request.infer(dict(given), share_inputs=True)
            return {name: found[place] for place, name in enumerate(self._names)}  # copies: outputs are not shared
        except RuntimeError:  # OpenVINO's own
            check_fit(given, self.inputs)
            raise
        finally:
            self._idle.put(request)

    def close(self) -> None:
        self._compiled = None
        self._idle = queue.SimpleQueue()

    def _mapped(self, package: Any, core: Any, files: Path) -> Any:
        """The model of these files, on weights that are mapped; None where they can't be."""
        try:
            graph = (files / openvino_ir.GRAPH).read_bytes()
            with (files / openvino_ir.WEIGHTS).open("rb") as file:
                # Nobody writes to them; OpenVINO would refuse what can't be written to.
                self._weights = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except OSError as error:  # such as a file system that maps nothing
            _log.info("%s can't be mapped: %s", files, error.strerror)
            return None
        tensor = package.Tensor(np.frombuffer(self._weights, dtype=np.uint8), shared_memory=True)
        return core.read_model(model=graph, weights=tensor)

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
