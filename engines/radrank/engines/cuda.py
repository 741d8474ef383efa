"""The calls of the CUDA runtime that the TensorRT runner makes, on the first GPU that the process sees."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radrank.core.errors import MissingExtra, Unavailable


class Cuda:
    """Raises Unavailable, in CUDA's own words, for any call that fails. CUDA_VISIBLE_DEVICES chooses the GPU.

    Addresses are numbers. Streams and graphs are handles that mean something to CUDA alone.
    """

    def __init__(self) -> None:
        """Raises MissingExtra without the bindings, Unavailable without a GPU."""
        try:
            from cuda.bindings import runtime
        except ImportError as error:
            raise MissingExtra("cuda-bindings", "tensorrt") from error
        self._api: Any = runtime
        self._ok(runtime.cudaSetDevice(0))
        self._ok(runtime.cudaFree(0))  # makes the context that TensorRT works in

    def compute_capability(self) -> str:
        """Such as "8.6"."""
        names = self._api.cudaDeviceAttr
        attributes = (names.cudaDevAttrComputeCapabilityMajor, names.cudaDevAttrComputeCapabilityMinor)
        major, minor = (self._ok(self._api.cudaDeviceGetAttribute(each, 0)) for each in attributes)
        return f"{major}.{minor}"

    def device_buffer(self, size: int) -> int:
        """The address of so many bytes on the GPU, aligned to 256."""
        return int(self._ok(self._api.cudaMalloc(max(size, 1))))

    def free_device(self, address: int) -> None:
        self._ok(self._api.cudaFree(address))

    def host_buffer(self, size: int) -> NDArray[np.uint8]:
        """Page-locked memory of this host, which the GPU copies from and to by itself."""
        address = int(self._ok(self._api.cudaMallocHost(max(size, 1))))
        return np.ctypeslib.as_array((ctypes.c_uint8 * max(size, 1)).from_address(address))

    def free_host(self, buffer: NDArray[np.uint8]) -> None:
        """No view of the buffer may be used after this."""
        self._ok(self._api.cudaFreeHost(buffer.ctypes.data))

    def stream(self) -> Any:
        return self._ok(self._api.cudaStreamCreateWithFlags(self._api.cudaStreamNonBlocking))

    def free_stream(self, stream: Any) -> None:
        self._ok(self._api.cudaStreamDestroy(stream))

    def to_device(self, address: int, array: NDArray[Any], stream: Any) -> None:
        """Enqueues a copy. array: in a host buffer, contiguous."""
        kind = self._api.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._ok(self._api.cudaMemcpyAsync(address, array.ctypes.data, array.nbytes, kind, stream))

    def to_host(self, array: NDArray[Any], address: int, stream: Any) -> None:
        """Enqueues a copy. array: in a host buffer, contiguous."""
        kind = self._api.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._ok(self._api.cudaMemcpyAsync(array.ctypes.data, address, array.nbytes, kind, stream))

    def captured(self, stream: Any, enqueue: Callable[[], None]) -> Any:
        """A graph of all that `enqueue` puts on the stream, ready to be launched."""
        # Of this thread alone: others may allocate and copy meanwhile.
        self._ok(
            self._api.cudaStreamBeginCapture(stream, self._api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal)
        )
        try:
            enqueue()
        finally:
            ended = self._api.cudaStreamEndCapture(stream)
        graph = self._ok(ended)
        try:
            return self._ok(self._api.cudaGraphInstantiate(graph, 0))
        finally:
            self._ok(self._api.cudaGraphDestroy(graph))

    def launch(self, graph: Any, stream: Any) -> None:
        self._ok(self._api.cudaGraphLaunch(graph, stream))

    def free_graph(self, graph: Any) -> None:
        self._ok(self._api.cudaGraphExecDestroy(graph))

    def wait(self, stream: Any) -> None:
        """Until all that was enqueued is done. Releases the GIL."""
        self._ok(self._api.cudaStreamSynchronize(stream))

    def _ok(self, answer: tuple[Any, ...]) -> Any:
        """What a call returned beside its error code."""
        code, *values = answer
        if int(code):
            words = self._api.cudaGetErrorString(code)[1]
            raise Unavailable(f"CUDA: {words.decode() if isinstance(words, bytes) else words}")
        return values[0] if values else None
