"""What one request at a time uses of a GPU: a stream, fixed buffers, and a captured graph for every bucket."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from radrank.core.errors import Mismatch
from radrank.engines.buckets import fill, pad_value, rows_of_output
from radrank.engines.cuda import Cuda
from radrank.engines.engine import Feed, Shapes, TensorSpec
from radrank.engines.flavours import Flavour
from radrank.engines.plans import Plan

_log = logging.getLogger(__name__)


class Contexts:
    """Makes the execution contexts of a plan. RTX compiles their kernels for this GPU; those are kept beside the plan.

    engine: TensorRT's, deserialized from the plan
    """

    def __init__(self, trt: Any, engine: Any, plan: Plan, flavour: Flavour) -> None:
        self._engine, self._plan = engine, plan
        self._config = engine.create_runtime_config()
        self._config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        self._cache: Any = None
        if flavour.ahead_of_time:
            # Compiled in the background, better kernels would come after a graph has captured the first ones.
            eager = trt.DynamicShapesKernelSpecializationStrategy.EAGER
            self._config.dynamic_shapes_kernel_specialization_strategy = eager
            self._cache = self._config.create_runtime_cache()
            if plan.jit_cache.is_file():
                self._cache.deserialize(plan.jit_cache.read_bytes())  # refuses another GPU's, and stays empty
            self._config.set_runtime_cache(self._cache)

    @property
    def scratch(self) -> int:
        """Bytes that any context needs while it runs."""
        return int(self._engine.device_memory_size_v2)

    def make(self, shapes: Shapes, scratch: int, stream: Any) -> Any:
        """A context of this bucket, which is one of the plan's profiles. scratch: address of that many bytes."""
        context = self._engine.create_execution_context(self._config)
        if context is None:
            raise Mismatch(f"plan {self._plan.path.name}", "an execution context", "none: the GPU's memory may be full")
        taken = context.set_optimization_profile_async(self._plan.key.profiles.index(shapes), int(stream))
        if not taken or not all(context.set_input_shape(name, shape) for name, shape in shapes.items()):
            raise Mismatch(f"plan {self._plan.path.name}", f"a profile for {dict(shapes)}", "that TensorRT refuses it")
        context.set_device_memory(scratch, self.scratch)
        return context

    def keep(self) -> None:
        """Keeps what was compiled beside the plan, where that directory can be written to."""
        file = self._plan.jit_cache
        if self._cache is None or not os.access(file.parent, os.W_OK):
            return
        compiled = bytes(memoryview(self._cache.serialize()))
        if not file.is_file() or file.read_bytes() != compiled:
            fresh = file.with_suffix(f".{os.getpid()}.new")
            fresh.write_bytes(compiled)
            fresh.replace(file)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Bucket:
    """inputs, outputs: views of the lane's host buffers; graph: None where TensorRT says that it can't be captured."""

    shapes: Shapes
    context: Any
    inputs: Mapping[str, NDArray[Any]]
    outputs: Mapping[str, NDArray[Any]]
    graph: Any = None


class Lane:
    """Runs one request at a time. What it holds is given back by `resources`."""

    def __init__(
        self,
        cuda: Cuda,
        contexts: Contexts,
        resources: ExitStack,
        *,
        buckets: Sequence[Shapes],
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
    ) -> None:
        self._cuda, self._resources = cuda, resources
        self._stream = cuda.stream()
        resources.callback(cuda.free_stream, self._stream)
        # Buckets of a lane never run at the same time: they share all memory, and graphs keep its addresses.
        scratch = self._on_device(contexts.scratch)
        made = [contexts.make(shapes, scratch, self._stream) for shapes in buckets]
        answers = [_answer_shapes(context, outputs) for context in made]
        self._device: dict[str, int] = {}
        given = self._views(inputs, buckets)
        found = self._views(outputs, answers)
        self._buckets = [
            self._captured(_Bucket(shapes=shapes, context=context, inputs=views, outputs=answer))
            for shapes, context, views, answer in zip(buckets, made, given, found, strict=True)
        ]

    def run(self, place: int, feed: Feed) -> dict[str, NDArray[Any]]:
        """Asks the bucket at this place. Nothing is allocated but the answer's arrays."""
        bucket = self._buckets[place]
        for name, view in bucket.inputs.items():
            fill(view, feed[name], pad_value(name))
        if bucket.graph is None:
            self._enqueue(bucket)
        else:
            self._cuda.launch(bucket.graph, self._stream)
        self._cuda.wait(self._stream)
        return {
            name: view[: rows_of_output(view.shape, bucket.shapes, feed)].copy()
            for name, view in bucket.outputs.items()
        }

    def _on_device(self, size: int) -> int:
        address = self._cuda.device_buffer(size)
        self._resources.callback(self._cuda.free_device, address)
        return address

    def _views(self, specs: Sequence[TensorSpec], buckets: Sequence[Shapes]) -> list[dict[str, NDArray[Any]]]:
        """For every bucket, its tensors in host buffers that hold the largest; the GPU has as much for each."""
        views: list[dict[str, NDArray[Any]]] = [{} for _ in buckets]
        for spec in specs:
            largest = max(math.prod(shapes[spec.name]) for shapes in buckets) * spec.dtype.itemsize
            self._device[spec.name] = self._on_device(largest)
            buffer = self._cuda.host_buffer(largest)
            self._resources.callback(self._cuda.free_host, buffer)
            for view, shapes in zip(views, buckets, strict=True):
                shape = shapes[spec.name]
                view[spec.name] = buffer[: math.prod(shape) * spec.dtype.itemsize].view(spec.dtype).reshape(shape)
        return views

    def _captured(self, bucket: _Bucket) -> _Bucket:
        for name in (*bucket.inputs, *bucket.outputs):
            if not bucket.context.set_tensor_address(name, self._device[name]):
                raise Mismatch("the plan's tensors", f"one of the name {name}", "none")
        for name, view in bucket.inputs.items():
            view[...] = pad_value(name)
        # The first run after a change of shapes does what can't be captured: it is always made outside.
        self._enqueue(bucket)
        self._cuda.wait(self._stream)
        capturable = getattr(bucket.context, "is_stream_capturable", None)  # only RTX has kernels that can't
        if capturable is not None and not capturable(int(self._stream)):
            _log.warning("TensorRT can't capture the bucket %s: it runs without a CUDA graph", dict(bucket.shapes))
            return bucket
        graph = self._cuda.captured(self._stream, lambda: self._enqueue(bucket))
        self._resources.callback(self._cuda.free_graph, graph)
        return replace(bucket, graph=graph)

    def _enqueue(self, bucket: _Bucket) -> None:
        """Copies in, runs, copies out, all on the stream."""
        for name, view in bucket.inputs.items():
            self._cuda.to_device(self._device[name], view, self._stream)
        if not bucket.context.execute_async_v3(int(self._stream)):
            raise Mismatch("the plan", "to run", f"that TensorRT refuses {dict(bucket.shapes)}")
        for name, view in bucket.outputs.items():
            self._cuda.to_host(view, self._device[name], self._stream)


def _answer_shapes(context: Any, outputs: Sequence[TensorSpec]) -> Shapes:
    """Shapes of the outputs, now that those of the inputs are set."""
    unknown = context.infer_shapes()
    shapes = {spec.name: tuple(context.get_tensor_shape(spec.name)) for spec in outputs}
    if unknown or any(size < 0 for shape in shapes.values() for size in shape):
        raise Mismatch("the plan's outputs", "shapes that follow from its inputs'", f"{shapes}, unknown: {unknown}")
    return shapes
