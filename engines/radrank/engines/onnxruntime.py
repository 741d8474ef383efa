"""ONNX Runtime sessions, set up for a server: arenas kept, no spinning, one request at a time a thread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from radrank.core.errors import MissingExtra
from radrank.core.ports import EngineManifest


class OnnxEngine:
    """One ONNX file on the CPU. `run` releases the GIL and may be called from several threads."""

    def __init__(self, path: Path, *, sha256: str, precision: str, threads: int) -> None:
        runtime = _onnxruntime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Threads that spin while they wait take the core from the next request.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.inputs: tuple[str, ...] = tuple(entry.name for entry in self._session.get_inputs())
        self.manifest = EngineManifest(
            sha256=sha256, precision=precision, runtime=f"onnxruntime-cpu {runtime.__version__}"
        )

    def run(self, feed: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """The model's first output."""
        found: Sequence[Any] = self._session.run(None, dict(feed))
        return cast(NDArray[np.float32], found[0])

    def close(self) -> None:
        self._session = None


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtra("onnxruntime", "cpu") from error
    return onnxruntime
