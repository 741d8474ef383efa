"""ONNX Runtime on a GPU: fixed buffers there for every bucket, and a CUDA graph where the provider can capture one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radrank.core.errors import MissingExtra, Unavailable
from radrank.core.ports import EngineManifest
from radrank.engines.buckets import Bucketed, fill, pad_value, rows_of_output
from radrank.engines.engine import Feed, Model, Shapes
from radrank.engines.onnxruntime import onnxruntime, session_options, specs


@dataclass(frozen=True, kw_only=True, slots=True)
class Provider:
    """An execution provider. options: for a model and the directory in which it may keep what it builds;
    captures: whether it makes CUDA graphs of our buckets
    """

    name: str
    options: Callable[[Model, Path], Mapping[str, str]]
    captures: bool = False


def _cuda(_model: Model, _kept: Path) -> Mapping[str, str]:
    # TF32 keeps ten bits of the mantissa: no more than fp16, under the name of fp32.
    return {"enable_cuda_graph": "1", "use_tf32": "0", "cudnn_conv_algo_search": "EXHAUSTIVE"}


def _tensorrt(model: Model, kept: Path) -> Mapping[str, str]:
    return {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(_cache(model, kept)),
        "trt_timing_cache_enable": "1",
        **{f"trt_profile_{kind}_shapes": said for kind, said in _profile(model).items()},
    }


def _tensorrt_rtx(model: Model, kept: Path) -> Mapping[str, str]:
    return {
        "nv_runtime_cache_path": str(_cache(model, kept)),
        **{f"nv_profile_{kind}_shapes": said for kind, said in _profile(model).items()},
    }


PROVIDERS: Mapping[str, Provider] = {
    "onnxruntime-cuda": Provider(name="CUDAExecutionProvider", options=_cuda, captures=True),
    "onnxruntime-tensorrt": Provider(name="TensorrtExecutionProvider", options=_tensorrt),
    "onnxruntime-tensorrt-rtx": Provider(name="NvTensorRTRTXExecutionProvider", options=_tensorrt_rtx),
}
"""By the name of the runtime."""


class GpuEngine(Bucketed):
    """One ONNX file on a GPU, in the shapes of the model's buckets. One call at a time."""

    def __init__(self, model: Model, runtime: str, *, kept: Path) -> None:
        """runtime: a name of PROVIDERS; kept: directory for what the provider builds.

        Raises MissingExtra where this build of ONNX Runtime lacks the provider, Unavailable where it can't be used.
        """
        super().__init__(model.buckets)
        package, provider = onnxruntime(), PROVIDERS[runtime]
        if provider.name not in package.get_available_providers():
            raise MissingExtra(f"onnxruntime with {provider.name}", "gpu")
        self._package = package
        options = session_options(package)
        try:
            self._session = package.InferenceSession(
                str(model.path), options, providers=[(provider.name, dict(provider.options(model, kept)))]
            )
        except Exception as error:  # the package has no type of its own for what drivers and libraries lack
            raise Unavailable(f"{runtime} can't open {model.name}: {error}") from error
        if self._session.get_providers()[0] != provider.name:  # it falls back to the CPU without a word
            raise Unavailable(f"{runtime}: no GPU, or its libraries can't be loaded")
        self.inputs = specs(self._session.get_inputs())
        self.outputs = specs(self._session.get_outputs())
        self.manifest = EngineManifest(
            sha256=model.sha256, precision=model.precision, runtime=f"{runtime} {package.__version__}"
        )
        self._turn = threading.Lock()
        self._bound = [self._bind(place, shapes, provider) for place, shapes in enumerate(self.buckets)]

    def close(self) -> None:
        with self._turn:
            self._bound = []
            self._session = None

    def _run(self, place: int, feed: Feed) -> dict[str, NDArray[Any]]:
        with self._turn:
            if self._session is None:
                raise Unavailable("this engine is closed")
            bucket = self._bound[place]
            for name, view in bucket.host.items():
                fill(view, feed[name], pad_value(name))
            return bucket.answer(self._session, feed)

    def _bind(self, place: int, shapes: Shapes, provider: Provider) -> _Bucket:
        """Buffers on host and GPU, and two runs: the first allocates, the second is captured where that is possible."""
        dtypes = {given.name: given.dtype for given in self.inputs}
        host = {name: np.full(shape, pad_value(name), dtypes[name]) for name, shape in shapes.items()}
        value = self._package.OrtValue
        given = {name: value.ortvalue_from_numpy(array, "cuda", 0) for name, array in host.items()}
        found = {
            name: value.ortvalue_from_shape_and_type(shape, dtype, "cuda", 0)
            for name, (shape, dtype) in self._answers(shapes).items()
        }
        binding = self._session.io_binding()
        for name, array in given.items():
            binding.bind_ortvalue_input(name, array)
        for name, array in found.items():
            binding.bind_ortvalue_output(name, array)
        run = self._package.RunOptions()
        if provider.captures:
            run.add_run_config_entry("gpu_graph_id", str(place + 1))
        bucket = _Bucket(shapes=shapes, host=host, given=given, found=found, binding=binding, options=run)
        for _ in range(2):
            bucket.answer(self._session, host)
        return bucket

    def _answers(self, shapes: Shapes) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """Shapes of the outputs: an axis of theirs is as long as the inputs' axis of the same name."""
        sizes: dict[str, int] = {}
        for entry in self._session.get_inputs():
            sizes |= {
                axis: size for axis, size in zip(entry.shape, shapes[entry.name], strict=True) if isinstance(axis, str)
            }
        dtypes = {spec.name: spec.dtype for spec in self.outputs}
        return {
            entry.name: (tuple(sizes[a] if isinstance(a, str) else a for a in entry.shape), dtypes[entry.name])
            for entry in self._session.get_outputs()
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class _Bucket:
    """host: what is sent; given, found: OrtValues on the GPU, whose addresses a captured graph keeps."""

    shapes: Shapes
    host: Mapping[str, NDArray[Any]]
    given: Mapping[str, Any]
    found: Mapping[str, Any]
    binding: Any
    options: Any

    def answer(self, session: Any, feed: Feed) -> dict[str, NDArray[Any]]:
        for name, array in self.host.items():
            self.given[name].update_inplace(array)
        session.run_with_iobinding(self.binding, self.options)
        return {name: self._cut(array.numpy(), feed) for name, array in self.found.items()}

    def _cut(self, array: NDArray[Any], feed: Feed) -> NDArray[Any]:
        return array[: rows_of_output(array.shape, self.shapes, feed)]


def _cache(model: Model, kept: Path) -> Path:
    """A directory of its own for these very weights: TensorRT's cache in ONNX Runtime knows files by name alone."""
    path = kept / f"{model.name}.{model.precision}.{model.sha256[:12]}.cache"
    path.mkdir(parents=True, exist_ok=True)
    return path


def _profile(model: Model) -> Mapping[str, str]:
    """Smallest, usual and largest shapes, as the providers' options spell them: name:2x3,name:4."""

    def said(pick: Callable[[list[int]], int]) -> str:
        shapes = {
            name: [pick([bucket[name][axis] for bucket in model.buckets]) for axis in range(len(shape))]
            for name, shape in model.buckets[0].items()
        }
        return ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items())

    return {"min": said(min), "opt": said(lambda sizes: sorted(sizes)[len(sizes) // 2]), "max": said(max)}
