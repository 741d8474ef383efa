"""TensorRT plans as an Engine, of both flavours: a request is copied in, launched as one CUDA graph, and copied out."""

from __future__ import annotations

import queue
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radrank.core.errors import Mismatch, Unavailable
from radrank.core.ports import EngineManifest
from radrank.engines.buckets import Bucketed
from radrank.engines.cuda import Cuda
from radrank.engines.engine import Feed, Model, TensorSpec
from radrank.engines.flavours import RTX, flavour_of, logger_of
from radrank.engines.lane import Contexts, Lane
from radrank.engines.plans import PlanKey, find_plan, plans_of


class TensorRTEngine(Bucketed):
    """A model's plan on this machine's GPU."""

    def __init__(
        self, model: Model, *, precision: str, flavour: str = RTX.name, plans: Path | None = None, lanes: int = 1
    ) -> None:
        """Opens the plan, and captures each of the model's buckets.

        precision: of the plan; plans: its directory, None for BUNDLE.plans beside the bundle
        lanes: calls that run at the same time, each in memory of its own

        Raises MissingExtra, Unavailable where there is no GPU, NotFound, Mismatch or Corrupt.
        """
        super().__init__(model.buckets)
        kind = flavour_of(flavour)
        trt, cuda = kind.load(), Cuda()
        capability = cuda.compute_capability()
        wanted = PlanKey.of(
            model, flavour=flavour, version=trt.__version__, compute_capability=capability, precision=precision
        )
        bundle = model.path.parent
        plan = find_plan(plans or plans_of(bundle), wanted, bundle=bundle)
        self._logger = logger_of(trt)  # TensorRT does not keep it alive
        self._runtime = trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan.read())
        if self._engine is None:
            raise Mismatch(f"plan {plan.path.name}", "an engine", "; ".join(self._logger.errors) or "none")
        self.inputs = _specs(trt, self._engine, trt.TensorIOMode.INPUT)
        self.outputs = _specs(trt, self._engine, trt.TensorIOMode.OUTPUT)
        self.manifest = EngineManifest(
            sha256=model.sha256,
            precision=precision,
            runtime=f"{flavour} {trt.__version__} sm{capability.replace('.', '')}",
        )
        self._lanes: queue.SimpleQueue[Lane | None] = queue.SimpleQueue()  # None: closed
        self._count = lanes
        with ExitStack() as resources:
            contexts = Contexts(trt, self._engine, plan, kind)
            for _ in range(lanes):
                lane = Lane(cuda, contexts, resources, buckets=self.buckets, inputs=self.inputs, outputs=self.outputs)
                self._lanes.put(lane)
            contexts.keep()
            self._resources = resources.pop_all()

    def close(self) -> None:
        """Waits for the calls that run, then gives everything back."""
        for _ in range(self._count):
            self._lanes.get()
        self._count = 0
        self._resources.close()
        self._engine = self._runtime = None
        self._lanes.put(None)

    def _run(self, place: int, feed: Feed) -> dict[str, NDArray[Any]]:
        lane = self._lanes.get()
        try:
            if lane is None:
                raise Unavailable("this engine is closed")
            return lane.run(place, feed)
        finally:
            self._lanes.put(lane)


def _specs(trt: Any, engine: Any, mode: Any) -> tuple[TensorSpec, ...]:
    names = [engine.get_tensor_name(place) for place in range(engine.num_io_tensors)]
    return tuple(
        TensorSpec(
            name=name,
            dtype=np.dtype(trt.nptype(engine.get_tensor_dtype(name))),
            shape=tuple(engine.get_tensor_shape(name)),
        )
        for name in names
        if engine.get_tensor_mode(name) == mode
    )
