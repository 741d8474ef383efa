"""TensorRT plans from a bundle's ONNX files, full and RTX by one way; only the names of what they are built for differ.

A plan has one optimization profile for each bucket of its model, of exactly that shape: what runs is chosen for the
shapes that are asked, a CUDA graph holds one shape anyway, and padding to a bucket makes an answer not depend on what
it was batched with beyond its bucket.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnx import ModelProto, TensorProto, helper

from radrank.core.errors import InvalidQuery, Mismatch, RadrankError, Unavailable
from radrank.engines.cuda import Cuda
from radrank.engines.engine import Model
from radrank.engines.flavours import Flavour, flavour_of, logger_of
from radrank.engines.manifest import read_manifest
from radrank.engines.models import models
from radrank.engines.plans import Plan, PlanKey, find_plan, plans_of, write_plan
from radrank.engines.runtimes import EngineSettings
from radrank.export.precision import FP16, FP32, PRECISIONS, convert
from radrank.export.progress import Fraction, Fractions

Step = Callable[[str], AbstractContextManager[Fraction]]
"""Opens the progress of one plan, by its name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanSettings:
    """What plans are built for.

    compute_capabilities: such as "8.6"; none for that of this machine's GPU
    batches: requests that a bucket holds, by default those of a server's; names: models of the bundle, none for all
    """

    flavour: str = "tensorrt-rtx"
    precision: str = FP16
    compute_capabilities: tuple[str, ...] = ()
    batches: tuple[int, ...] = field(default_factory=lambda: (EngineSettings().batch,))
    names: tuple[str, ...] = ()


def build_plans(bundle: Path, to: Path | None, settings: PlanSettings, *, step: Step) -> Iterator[tuple[Plan, bool]]:
    """Builds what is missing into `to`, None for BUNDLE.plans. Yields each plan, and whether it was there already.

    Raises MissingExtra, InvalidQuery, Unavailable, or Mismatch with TensorRT's words where it can't build a model.
    """
    directory = to or plans_of(bundle)
    flavour = flavour_of(settings.flavour)
    trt = flavour.load()
    if settings.precision not in PRECISIONS:
        raise InvalidQuery("precision", f"must be one of: {', '.join(PRECISIONS)}")
    capabilities = _targets(trt, flavour, settings.compute_capabilities)
    manifest, _ = read_manifest(bundle)
    found = models(bundle, manifest, batches=sorted(set(settings.batches)))
    for model in _chosen(found, settings.names):
        onnx = b""
        for capability in capabilities:
            key = PlanKey.of(
                model,
                flavour=flavour.name,
                version=trt.__version__,
                compute_capability=capability,
                precision=settings.precision,
            )
            kept = _kept(directory, key, bundle)
            if kept is not None:
                yield kept, True
                continue
            with step(key.name) as told:
                onnx = onnx or ready(model, settings.precision).SerializeToString()  # the same for every GPU
                serialized = Build(trt, flavour, capability, directory).run(model, settings.precision, onnx, told)
            yield write_plan(directory, key, serialized), False


def ready(model: Model, precision: str) -> ModelProto:
    """The model as TensorRT's parser takes it, in this precision. What changes here raises plans.RECIPE."""
    converted = convert(model.path, precision)
    _cast_bytes(converted)
    return converted


class Build:
    """One way to a serialized engine: parse, a profile for each bucket, build."""

    def __init__(self, trt: Any, flavour: Flavour, compute_capability: str, directory: Path) -> None:
        self._trt, self._flavour = trt, flavour
        self._capability = compute_capability
        # RTX picks kernels without timing them, and has no such cache.
        cache = f"timing.sm{compute_capability.replace('.', '')}.{flavour.name}-{trt.__version__}.cache"
        self._timings = None if flavour.ahead_of_time else directory / cache

    def run(self, model: Model, precision: str, onnx: bytes, told: Fraction) -> memoryview:
        """onnx: the model, made ready in that precision. Raises Mismatch with TensorRT's words where it can't."""
        trt = self._trt
        logger = logger_of(trt)
        builder = trt.Builder(logger)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, logger)
        if not parser.parse(onnx):
            reasons = [parser.get_error(place).desc() for place in range(parser.num_errors)]
            raise Mismatch(model.path.name, "an ONNX file that TensorRT parses", "; ".join(reasons[:1]))
        config = builder.create_builder_config()
        if precision == FP32:
            config.clear_flag(trt.BuilderFlag.TF32)  # has the range of fp32 and the digits of fp16
        if self._flavour.ahead_of_time:
            config.num_compute_capabilities = 1
            config.set_compute_capability(_rtx_target(trt, self._capability), 0)
            config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)  # else its streams can't be captured
        for shapes in model.buckets:
            profile = builder.create_optimization_profile()
            for name, shape in shapes.items():
                profile.set_shape(name, shape, shape, shape)
            config.add_optimization_profile(profile)
        monitor = _monitor(trt, told)
        config.progress_monitor = monitor
        timings = self._load_timings(config)
        serialized = builder.build_serialized_network(network, config)
        if serialized is None:
            raise Mismatch(model.path.name, "a model that TensorRT builds", "; ".join(logger.errors[-1:]) or "none")
        self._keep_timings(timings)
        return memoryview(serialized)

    def _load_timings(self, config: Any) -> Any:
        """What earlier builds timed, for this one to use and add to; None where nothing is timed."""
        if self._timings is None:
            return None
        known = self._timings.read_bytes() if self._timings.is_file() else b""
        cache = config.create_timing_cache(known)
        config.set_timing_cache(cache, ignore_mismatch=False)
        return cache

    def _keep_timings(self, cache: Any) -> None:
        if self._timings is not None:
            self._timings.parent.mkdir(parents=True, exist_ok=True)
            self._timings.write_bytes(bytes(memoryview(cache.serialize())))


def _monitor(trt: Any, told: Fraction) -> Any:
    fractions = Fractions(told)

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # loaded by name
        def __init__(self) -> None:
            super().__init__()

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            fractions.start(name, parent, steps)

        def phase_finish(self, name: str) -> None:
            fractions.finish(name)

        def step_complete(self, name: str, place: int) -> bool:
            fractions.step(name, place)
            return True

    return Monitor()


def _cast_bytes(model: ModelProto) -> None:
    """TensorRT reads uint8 only to cast it, so that is what happens first; reshaping before or after is the same."""
    graph = model.graph
    for given in graph.input:
        if given.type.tensor_type.elem_type == TensorProto.UINT8:
            cast = f"{given.name}:float"
            for node in graph.node:
                node.input[:] = [cast if name == given.name else name for name in node.input]
            graph.node.insert(0, helper.make_node("Cast", [given.name], [cast], name=f"cast {given.name}", to=1))


def _targets(trt: Any, flavour: Flavour, asked: Sequence[str]) -> tuple[str, ...]:
    """The compute capabilities to build for."""
    if flavour.ahead_of_time:
        for each in asked:
            _rtx_target(trt, each)
        if asked:
            return tuple(dict.fromkeys(asked))
    try:
        here = Cuda().compute_capability()
    except RadrankError as error:
        cure = f"name the GPUs: --compute-capability {' or '.join(_rtx_names(trt))}" if flavour.ahead_of_time else ""
        reason = f"there is no GPU here ({error}); {cure or f'{flavour.name} builds on the GPU that runs the plan'}"
        raise Unavailable(reason) from error
    if set(asked) - {here}:
        raise InvalidQuery("compute-capability", f"{flavour.name} builds for the GPU of this machine, {here}")
    if flavour.ahead_of_time:
        _rtx_target(trt, here)
    return (here,)


def _rtx_names(trt: Any) -> Mapping[str, Any]:
    """What RTX builds for: "8.6" for SM86."""
    members = {name: value for name, value in trt.ComputeCapability.__members__.items() if name.startswith("SM")}
    return {f"{name[2:-1]}.{name[-1]}": value for name, value in members.items()}


def _rtx_target(trt: Any, capability: str) -> Any:
    names = _rtx_names(trt)
    if capability not in names:
        raise InvalidQuery("compute-capability", f"TensorRT-RTX builds for: {', '.join(names)}")
    return names[capability]


def _chosen(found: Mapping[str, Model], names: Iterable[str]) -> list[Model]:
    unknown = [name for name in names if name not in found]
    if unknown:
        raise InvalidQuery("model", f"must be one of: {', '.join(found)}")
    return [model for name, model in found.items() if not names or name in names]


def _kept(directory: Path, key: PlanKey, bundle: Path) -> Plan | None:
    """The plan that serves this key, where it is there and whole."""
    try:
        plan = find_plan(directory, key, bundle=bundle)
        plan.read()
    except RadrankError:
        return None
    return plan
