"""ONNX Runtime sessions, set up for a server: arenas kept, no spinning, one request at a time a thread."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radrank.core.errors import MissingExtra, Unavailable
from radrank.core.ports import EngineManifest
from radrank.engines.buckets import check_fit
from radrank.engines.engine import Feed, Model, TensorSpec

_DTYPES: Mapping[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
}


class CpuEngine:
    """One ONNX file on the CPU: any batch, any size. `run` releases the GIL and may be called from several threads."""

    def __init__(self, model: Model, *, threads: int) -> None:
        runtime = onnxruntime()
        options = session_options(runtime)
        options.intra_op_num_threads = threads
        # Threads that spin while they wait take the core from the next request.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = runtime.InferenceSession(str(model.path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # such as a precision that this processor has no kernels for
            raise Unavailable(f"onnxruntime-cpu can't open {model.name} in {model.precision}: {error}") from error
        self.inputs = specs(self._session.get_inputs())
        self.outputs = specs(self._session.get_outputs())
        self._names = [output.name for output in self.outputs]
        self.manifest = EngineManifest(
            sha256=model.sha256, precision=model.precision, runtime=f"onnxruntime-cpu {runtime.__version__}"
        )

    def warm_up(self, feeds: Iterable[Feed]) -> None:
        for feed in feeds:
            self.run(feed)

    def run(self, feed: Feed) -> dict[str, NDArray[Any]]:
        """As Engine says."""
        try:
            answers = self._session.run(None, dict(feed))
        except Exception:  # ONNX Runtime looks at what it is given itself: once is enough for a feed that fits
            if self._session is None:
                raise Unavailable("this engine is closed") from None
            check_fit(feed, self.inputs)
            raise
        return dict(zip(self._names, answers, strict=True))

    def close(self) -> None:
        self._session = None


def onnxruntime() -> Any:
    """The package, of either build. Raises MissingExtra."""
    try:
        import onnxruntime as runtime
    except ImportError as error:
        raise MissingExtra("onnxruntime", "cpu") from error
    return runtime


def session_options(runtime: Any) -> Any:
    """What sessions of all providers share."""
    options = runtime.SessionOptions()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return options


def specs(entries: Iterable[Any]) -> tuple[TensorSpec, ...]:
    """A session's inputs or outputs; named axes vary."""
    return tuple(
        TensorSpec(
            name=entry.name,
            dtype=np.dtype(_DTYPES[entry.type]),
            shape=tuple(size if isinstance(size, int) else -1 for size in entry.shape),
        )
        for entry in entries
    )
