"""ONNX Runtime on a GPU: fixed buffers there for every bucket, and a CUDA graph where the provider can capture one."""

from __future__ import annotations

import contextlib
import io
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radrank.core.errors import MissingExtra, RadrankError, Unavailable
from radrank.core.ports import EngineManifest
from radrank.engines.buckets import Bucketed, fill, pad_value, rows_of_output
from radrank.engines.conversions import converted
from radrank.engines.engine import Feed, Model, Shapes
from radrank.engines.onnxruntime import onnxruntime, session_options, specs

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Provider:
    """An execution provider.

    options: for a model and the directory in which it may keep what it builds
    graphs: those that make it capture CUDA graphs, none where it can't of our buckets
    needs: what it loads, and where that comes from; packaged: whether onnxruntime-gpu has the provider
    """

    name: str
    options: Callable[[Model, Path], Mapping[str, str]]
    graphs: Mapping[str, str] = field(default_factory=dict)
    needs: str
    packaged: bool = True


def _cuda(_model: Model, _kept: Path) -> Mapping[str, str]:
    # TF32 keeps ten bits of the mantissa: no more than fp16, under the name of fp32.
    return {"use_tf32": "0", "cudnn_conv_algo_search": "EXHAUSTIVE"}


def _tensorrt(model: Model, kept: Path) -> Mapping[str, str]:
    return {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(_cache(model, kept)),
        "trt_timing_cache_enable": "1",
        **{f"trt_profile_{kind}_shapes": said for kind, said in profile(model).items()},
    }


def _tensorrt_rtx(model: Model, kept: Path) -> Mapping[str, str]:
    return {
        "nv_runtime_cache_path": str(_cache(model, kept)),
        **{f"nv_profile_{kind}_shapes": said for kind, said in profile(model).items()},
    }


PROVIDERS: Mapping[str, Provider] = {
    "onnxruntime-cuda": Provider(
        name="CUDAExecutionProvider",
        options=_cuda,
        graphs={"enable_cuda_graph": "1"},
        needs='CUDA and cuDNN, which come with: pip install "radrank[gpu]"',
    ),
    # It names TensorRT's libraries by their major version, which is not always that of the extra `tensorrt-full`.
    "onnxruntime-tensorrt": Provider(
        name="TensorrtExecutionProvider",
        options=_tensorrt,
        needs="the TensorRT that it was built with (10 for onnxruntime-gpu 1.31: pip install 'tensorrt-cu13<11'), its "
        "folder tensorrt_libs in LD_LIBRARY_PATH",
    ),
    "onnxruntime-tensorrt-rtx": Provider(
        name="NvTensorRTRTXExecutionProvider",
        options=_tensorrt_rtx,
        needs="NVIDIA's build of ONNX Runtime (onnxruntime-trt-rtx) in the place of any other; the runtime "
        "tensorrt-rtx does without",
        packaged=False,
    ),
}
"""By the name of the runtime."""


class GpuEngine(Bucketed):
    """One ONNX file on a GPU, in the shapes of the model's buckets. One call at a time."""

    def __init__(
        self, model: Model, runtime: str, *, kept: Path, precision: str | None = None, graphs: bool = True
    ) -> None:
        """runtime: a name of PROVIDERS; kept: directory of converted models, and for what the provider builds

        precision: of a conversion, None for the model as it is; graphs: whether to capture any

        Raises MissingExtra or Unavailable where this build of ONNX Runtime lacks the provider, Unavailable where it
        can't be used, and then what `converted` does.
        """
        super().__init__(model.buckets)
        package, provider = onnxruntime(), PROVIDERS[runtime]
        if provider.name not in package.get_available_providers():
            raise _absent(runtime, provider)
        _find_device(package, runtime)
        model = converted(kept, model, precision or model.precision)
        self._package, self._model, self._runtime, self._provider = package, model, runtime, provider
        self._options = dict(provider.options(model, kept))
        self._turn = threading.Lock()
        self._bound: list[_Bucket] = []
        captures = graphs and bool(provider.graphs)
        self.captured = captures and self._captured()
        if not self.captured:
            plain = self._session(self._options)
            self._describe(plain)
            self.captured = captures and self._captured_each()
            if not self.captured:
                self._bound = [self._bind(plain, shapes) for shapes in self.buckets]
        without = "" if self.captured or not provider.graphs else ", no CUDA graphs"
        self.manifest = EngineManifest(
            sha256=model.sha256, precision=model.precision, runtime=f"{runtime} {package.__version__}{without}"
        )

    def close(self) -> None:
        with self._turn:
            self._bound = []

    def _run(self, place: int, feed: Feed) -> dict[str, NDArray[Any]]:
        with self._turn:
            if not self._bound:
                raise Unavailable("this engine is closed")
            bucket = self._bound[place]
            for name, view in bucket.host.items():
                fill(view, feed[name], pad_value(name))
            return bucket.answer(feed)

    def _captured(self) -> bool:
        """Captures a graph of every bucket in one session, which holds the weights once."""
        try:
            session = self._session({**self._options, **self._provider.graphs})
            self._describe(session)
            self._bound = [self._bind(session, shapes, graph=place) for place, shapes in enumerate(self.buckets, 1)]
        except Unavailable as error:
            _log.debug("%s: no graphs in one session: %s", self._model.name, error)
            return False
        return True

    def _captured_each(self) -> bool:
        """Captures a graph of every bucket in a session of its own.

        A graph is refused where a model computes with its own sizes, which live on the CPU. Here they are constants.
        """
        try:
            self._bound = []
            for shapes in self.buckets:
                session = self._session({**self._options, **self._provider.graphs}, fixed=_sizes(self._given, shapes))
                self._bound.append(self._bind(session, shapes, graph=1))
        except Unavailable as error:
            self._bound = []
            _log.warning("%s runs without CUDA graphs on %s: %s", self._model.name, self._runtime, error)
            return False
        return True

    def _session(self, provided: Mapping[str, str], *, fixed: Mapping[str, int] | None = None) -> Any:
        """fixed: sizes of named axes. Raises Unavailable."""
        options = session_options(self._package)
        for axis, size in (fixed or {}).items():
            options.add_free_dimension_override_by_name(axis, size)
        try:
            session = self._package.InferenceSession(
                str(self._model.path),
                options,
                providers=[(self._provider.name, dict(provided))],
                enable_fallback=0,  # which would print its reasons and serve from the CPU
            )
        except Exception as error:  # the package has no type of its own for what drivers and libraries lack
            raise Unavailable(f"{self._runtime} can't open {self._model.name}: {error}") from error
        if session.get_providers()[0] != self._provider.name:  # it falls back to the CPU without a word
            raise Unavailable(f"{self._runtime}: its libraries can't be loaded; it needs {self._provider.needs}")
        return session

    def _describe(self, session: Any) -> None:
        self.inputs = specs(session.get_inputs())
        self.outputs = specs(session.get_outputs())
        self._found = {entry.name: tuple(entry.shape) for entry in session.get_outputs()}
        self._given = {entry.name: tuple(entry.shape) for entry in session.get_inputs()}

    def _bind(self, session: Any, shapes: Shapes, *, graph: int | None = None) -> _Bucket:
        """Buffers on host and GPU, and two runs: the first allocates, the second is captured where a graph is named.

        Raises Unavailable where the GPU refuses, such as an operator that can't be captured.
        """
        dtypes = {given.name: given.dtype for given in self.inputs}
        host = {name: np.full(shape, pad_value(name), dtypes[name]) for name, shape in shapes.items()}
        value = self._package.OrtValue
        run = self._package.RunOptions()
        if graph is not None:
            run.add_run_config_entry("gpu_graph_id", str(graph))
        try:
            given = {name: value.ortvalue_from_numpy(array, "cuda", 0) for name, array in host.items()}
            found = {
                name: value.ortvalue_from_shape_and_type(shape, dtype, "cuda", 0)
                for name, (shape, dtype) in self._answers(shapes).items()
            }
            binding = session.io_binding()
            for name, array in given.items():
                binding.bind_ortvalue_input(name, array)
            for name, array in found.items():
                binding.bind_ortvalue_output(name, array)
            bucket = _Bucket(
                session=session, shapes=shapes, host=host, given=given, found=found, binding=binding, options=run
            )
            for _ in range(2):
                bucket.answer(host)
        except Exception as error:
            raise Unavailable(f"{self._runtime} can't run {self._model.name} as {dict(shapes)}: {error}") from error
        return bucket

    def _answers(self, shapes: Shapes) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """Shapes of the outputs: an axis of theirs is as long as the inputs' axis of the same name."""
        sizes = _sizes(self._given, shapes)
        return {
            spec.name: (tuple(sizes[a] if isinstance(a, str) else a for a in self._found[spec.name]), spec.dtype)
            for spec in self.outputs
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class _Bucket:
    """host: what is sent; given, found: OrtValues on the GPU, whose addresses a captured graph keeps."""

    session: Any
    shapes: Shapes
    host: Mapping[str, NDArray[Any]]
    given: Mapping[str, Any]
    found: Mapping[str, Any]
    binding: Any
    options: Any

    def answer(self, feed: Feed) -> dict[str, NDArray[Any]]:
        for name, array in self.host.items():
            self.given[name].update_inplace(array)
        self.session.run_with_iobinding(self.binding, self.options)
        return {name: self._cut(array.numpy(), feed) for name, array in self.found.items()}

    def _cut(self, array: NDArray[Any], feed: Feed) -> NDArray[Any]:
        return array[: rows_of_output(array.shape, self.shapes, feed)]


def _absent(runtime: str, provider: Provider) -> RadrankError:
    """What is said where this build of ONNX Runtime lacks the provider."""
    if provider.packaged:
        return MissingExtra(f"onnxruntime with {provider.name}", "gpu")
    return Unavailable(f"{runtime}: this ONNX Runtime lacks {provider.name}; it needs {provider.needs}")


def _find_device(package: Any, runtime: str) -> None:
    """Loads CUDA's libraries where they were installed as Python packages, and looks for a GPU. Raises Unavailable."""
    missing = io.StringIO()
    with contextlib.redirect_stdout(missing):  # where it prints what it does not find; ours is for results
        package.preload_dlls()
    try:
        package.OrtValue.ortvalue_from_numpy(np.zeros(1, dtype=np.float32), "cuda", 0)
    except Exception as error:  # see above
        words = " ".join(" ".join([str(error), *missing.getvalue().splitlines()[:1]]).split())
        raise Unavailable(f"{runtime}: no GPU, or its libraries can't be loaded: {words}") from error


def _sizes(named: Mapping[str, tuple[Any, ...]], shapes: Shapes) -> dict[str, int]:
    """Of named axes in this bucket. named: axes of each input"""
    return {
        axis: size
        for name, axes in named.items()
        for axis, size in zip(axes, shapes[name], strict=True)
        if isinstance(axis, str)
    }


def _cache(model: Model, kept: Path) -> Path:
    """A directory of its own for these very weights: TensorRT's cache in ONNX Runtime knows files by name alone."""
    path = kept / f"{model.name}.{model.precision}.{model.sha256[:12]}.cache"
    path.mkdir(parents=True, exist_ok=True)
    return path


def profile(model: Model) -> Mapping[str, str]:
    """Smallest, usual and largest shapes, as the providers' options spell them: name:2x3,name:4."""

    def said(pick: Callable[[list[int]], int]) -> str:
        shapes = {
            name: [pick([bucket[name][axis] for bucket in model.buckets]) for axis in range(len(shape))]
            for name, shape in model.buckets[0].items()
        }
        return ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items())

    return {"min": said(min), "opt": said(lambda sizes: sorted(sizes)[len(sizes) // 2]), "max": said(max)}
