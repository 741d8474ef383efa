"""ONNX Runtime on a GPU that is not there: its CUDA sessions on the CPU, with what capturing a graph asks of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnxruntime

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


class Package:
    """In the place of the package.

    device: whether there is a GPU; provider: what it has beside the CPU's; loads: whether that finds its libraries
    sized: whether the model computes with its own sizes, so that a session captures only where they are fixed
    syncs: whether an operator waits for the GPU, which can't be captured at all
    """

    __version__ = "9.9.9"

    def __init__(
        self,
        *,
        device: bool = True,
        provider: str = CUDA,
        loads: bool = True,
        sized: bool = False,
        syncs: bool = False,
    ) -> None:
        self.device, self.provider, self.loads = device, provider, loads
        self.sized, self.syncs = sized, syncs
        self.sessions: list[Session] = []
        self.OrtValue = Value(self)
        self.RunOptions = RunOptions

    def get_available_providers(self) -> list[str]:
        return [self.provider, CPU]

    def preload_dlls(self) -> None:
        print("Failed to load libcublas: not found")  # noqa: T201 - as the real one does, on standard output

    def SessionOptions(self) -> Any:  # noqa: N802 - ONNX Runtime's name
        return Options()

    def InferenceSession(self, path: str, options: Options, **given: Any) -> Session:  # noqa: N802
        provided = dict(given["providers"])[self.provider]
        if provided.get("enable_cuda_graph") == "1" and self.sized and not options.fixed:
            raise RuntimeError("This session cannot use the graph capture feature as requested by the user")
        session = Session(self, path, options, provided)
        self.sessions.append(session)
        return session


class Options:
    def __init__(self) -> None:
        self.fixed: dict[str, int] = {}
        self.inter_op_num_threads = self.log_severity_level = 0

    def add_free_dimension_override_by_name(self, axis: str, size: int) -> None:
        self.fixed[axis] = size


class RunOptions:
    def __init__(self) -> None:
        self.graph: str | None = None

    def add_run_config_entry(self, name: str, value: str) -> None:
        assert name == "gpu_graph_id"
        self.graph = value


class Value:
    """Its OrtValue: "cuda" is this host's memory."""

    def __init__(self, package: Package) -> None:
        self._package = package

    def ortvalue_from_numpy(self, array: Any, device: str, _number: int) -> Any:
        if not self._package.device:
            raise RuntimeError("CUDA failure 100: no CUDA-capable device is detected")
        assert device == "cuda"
        return _on_device(onnxruntime.OrtValue.ortvalue_from_numpy(array.copy(), "cpu", 0))

    def ortvalue_from_shape_and_type(self, shape: Any, dtype: Any, _device: str, _number: int) -> Any:
        return _on_device(onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, dtype, "cpu", 0))


class OnDevice(onnxruntime.OrtValue):
    def numpy(self) -> Any:
        return super().numpy().copy()  # of a GPU's memory it is always a copy; of the host's, a view


def _on_device(value: Any) -> Any:
    value.__class__ = OnDevice
    return value


class Session:
    """A graph holds addresses: a binding other than the captured one would be ignored, and is refused here."""

    def __init__(self, package: Package, path: str, options: Options, provided: Mapping[str, str]) -> None:
        real = onnxruntime.SessionOptions()
        for axis, size in options.fixed.items():
            real.add_free_dimension_override_by_name(axis, size)
        self.fixed, self.provided = options.fixed, provided
        self.captures = provided.get("enable_cuda_graph") == "1"
        self.graphs: dict[str, Any] = {}
        self.replays = 0
        self._package = package
        self._real = onnxruntime.InferenceSession(path, real, providers=[CPU])

    def get_providers(self) -> list[str]:
        return [self._package.provider, CPU] if self._package.loads else [CPU]

    def get_inputs(self) -> Any:
        return self._real.get_inputs()

    def get_outputs(self) -> Any:
        return self._real.get_outputs()

    def io_binding(self) -> Any:
        return self._real.io_binding()

    def run_with_iobinding(self, binding: Any, options: RunOptions) -> None:
        if self.captures:
            if self._package.syncs:
                raise RuntimeError("CUDA failure 900: operation not permitted when stream is capturing")
            assert options.graph is not None, "a session that captures has to be told which graph"
            captured: Mapping[str, Any] = self.graphs
            assert captured.get(options.graph, binding) is binding, "a graph runs on the addresses it was captured with"
            self.replays += options.graph in captured
            self.graphs[options.graph] = binding
        self._real.run_with_iobinding(binding)
