"""A GPU that is not there: CUDA's streams and memory in numpy, TensorRT's engines on ONNX Runtime.

As on the real one, nothing that was enqueued has happened before somebody waits for it, a graph holds addresses and not
values, and what is done in the wrong order is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime

from radrank.engines import flavours, tensorrt
from radrank.engines.engine import Model
from radrank.engines.plans import Plan, PlanKey, write_plan

VERSION, CAPABILITY = "9.9.9", "8.6"

Work = Callable[[], None]


class Cuda:
    """In the place of radrank.engines.cuda.Cuda."""

    def __init__(self) -> None:
        self.memory: dict[int, np.ndarray] = {}  # by address
        self.held: list[object] = []  # what was made and not given back
        self.made = self.launches = self.waits = 0
        self._streams: dict[int, list[Work]] = {}
        self._capturing: list[Work] | None = None

    def compute_capability(self) -> str:
        return CAPABILITY

    def device_buffer(self, size: int) -> int:
        address = 4096 * self._hold(f"device {self.made}")
        self.memory[address] = np.full(size, 0xEE, dtype=np.uint8)  # what others left there
        return address

    def free_device(self, address: int) -> None:
        del self.memory[address]
        self.held.remove(f"device {address // 4096 - 1}")

    def host_buffer(self, size: int) -> np.ndarray:
        buffer = np.full(size, 0xEE, dtype=np.uint8)
        self._hold(f"host {id(buffer)}")
        return buffer

    def free_host(self, buffer: np.ndarray) -> None:
        self.held.remove(f"host {id(buffer)}")

    def stream(self) -> int:
        handle = self._hold(f"stream {self.made}")
        self._streams[handle] = []
        return handle

    def free_stream(self, stream: int) -> None:
        self.held.remove(f"stream {stream - 1}")

    def to_device(self, address: int, array: np.ndarray, stream: int) -> None:
        self.enqueue(stream, lambda: self._put(address, array))

    def to_host(self, array: np.ndarray, address: int, stream: int) -> None:
        def copy() -> None:
            array[...] = self.memory[address][: array.nbytes].view(array.dtype).reshape(array.shape)

        self.enqueue(stream, copy)

    def captured(self, stream: int, enqueue: Work) -> list[Work]:
        self._capturing = []
        enqueue()
        graph, self._capturing = self._capturing, None
        self.made += 1
        self.held.append(graph)
        return graph

    def launch(self, graph: list[Work], stream: int) -> None:
        self.launches += 1
        self._streams[stream].extend(graph)

    def free_graph(self, graph: list[Work]) -> None:
        self.held[:] = [each for each in self.held if each is not graph]

    def wait(self, stream: int) -> None:
        self.waits += 1
        work, self._streams[stream] = self._streams[stream], []
        for each in work:
            each()

    def enqueue(self, stream: int, work: Work) -> None:
        (self._streams[stream] if self._capturing is None else self._capturing).append(work)

    def _put(self, address: int, array: np.ndarray) -> None:
        self.memory[address][: array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)

    def _hold(self, name: str) -> int:
        self.made += 1
        self.held.append(name)
        return self.made


class TensorRT:
    """In the place of the package. refuses: execution contexts are None; capturable: what contexts say of themselves.

    A "serialized engine" is the path of an ONNX file.
    """

    __version__ = VERSION
    ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="user managed")
    DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER="eager", LAZY="lazy")
    TensorIOMode = SimpleNamespace(INPUT="in", OUTPUT="out")

    class ILogger:
        Severity = SimpleNamespace(ERROR=1)

    def __init__(self, cuda: Cuda, profiles: list[Mapping[str, tuple[int, ...]]]) -> None:
        self.cuda, self.profiles = cuda, profiles
        self.refuses, self.capturable = False, True
        self.cache = _Cache()
        self.contexts: list[_Context] = []

    def Runtime(self, logger: Any) -> Any:  # noqa: N802  # TensorRT's name
        return SimpleNamespace(deserialize_cuda_engine=lambda blob: _Engine(self, bytes(blob).decode()))

    def nptype(self, dtype: Any) -> Any:
        return dtype


class _Cache:
    """Kernels compiled so far, by the profile they are for."""

    def __init__(self) -> None:
        self.loaded = b""

    def deserialize(self, blob: bytes) -> bool:
        self.loaded = blob
        return True

    def serialize(self) -> bytes:
        return b"compiled kernels"


class _Engine:
    device_memory_size_v2 = 1024

    def __init__(self, trt: TensorRT, onnx: str) -> None:
        self.trt = trt
        self.session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
        self._tensors = {
            given.name: (mode, given)
            for mode, found in (("in", self.session.get_inputs()), ("out", self.session.get_outputs()))
            for given in found
        }
        self.num_io_tensors = len(self._tensors)

    def get_tensor_name(self, place: int) -> str:
        return list(self._tensors)[place]

    def get_tensor_mode(self, name: str) -> str:
        return self._tensors[name][0]

    def get_tensor_dtype(self, name: str) -> Any:
        kinds = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(uint8)": np.uint8}
        return kinds[self._tensors[name][1].type]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(size if isinstance(size, int) else -1 for size in self._tensors[name][1].shape)

    def create_runtime_config(self) -> Any:
        return SimpleNamespace(
            set_execution_context_allocation_strategy=lambda strategy: None,
            create_runtime_cache=lambda: self.trt.cache,
            set_runtime_cache=lambda cache: True,
        )

    def create_execution_context(self, config: Any) -> Any:
        if self.trt.refuses and len(self.trt.contexts) == 1:
            return None
        self.trt.contexts.append(_Context(self, config))
        return self.trt.contexts[-1]


class _Context:
    def __init__(self, engine: _Engine, config: Any) -> None:
        self.engine, self.config = engine, config
        self.profile: int | None = None
        self.memory: tuple[int, int] | None = None
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        self.profile = profile
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = shape
        return self.profile is not None and self.engine.trt.profiles[self.profile][name] == shape

    def infer_shapes(self) -> list[str]:
        return [name for name in self._inputs if name not in self.shapes]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        zeros = {given: np.zeros(self.shapes[given], self.engine.get_tensor_dtype(given)) for given in self._inputs}
        return self.engine.session.run([name], zeros)[0].shape

    def set_device_memory(self, address: int, size: int) -> None:
        self.memory = (address, size)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def is_stream_capturable(self, stream: int) -> bool:
        return self.engine.trt.capturable

    def execute_async_v3(self, stream: int) -> bool:
        cuda, session = self.engine.trt.cuda, self.engine.session
        if self.memory is None or len(cuda.memory[self.memory[0]]) < self.engine.device_memory_size_v2:
            return False

        def work() -> None:
            feed = {}
            for name in self._inputs:
                dtype, shape = np.dtype(self.engine.get_tensor_dtype(name)), self.shapes[name]
                held = cuda.memory[self.addresses[name]]
                feed[name] = held[: int(np.prod(shape)) * dtype.itemsize].view(dtype).reshape(shape)
            for output, answer in zip(session.get_outputs(), session.run(None, feed), strict=True):
                cuda._put(self.addresses[output.name], answer)

        cuda.enqueue(stream, work)
        return True

    @property
    def _inputs(self) -> list[str]:
        return [given.name for given in self.engine.session.get_inputs()]


def install(monkeypatch: Any, cuda: Cuda, trt: TensorRT) -> None:
    """Puts both in the place of the real ones."""
    monkeypatch.setattr(tensorrt, "Cuda", lambda: cuda)
    monkeypatch.setattr(flavours, "import_module", lambda name: trt)


def key_of(model: Model, **changes: Any) -> PlanKey:
    """Of the plan that the model needs here."""
    parts = {"flavour": "tensorrt-rtx", "version": VERSION, "compute_capability": CAPABILITY, "precision": "fp16"}
    return PlanKey.of(model, **{**parts, **changes})


def plan_of(model: Model, directory: Path, **changes: Any) -> Plan:
    """That plan, written."""
    return write_plan(directory, key_of(model, **changes), str(model.path).encode())
