"""What a Triton repository is made from: a bundle's models with the shapes of their files, and the plans there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from radrank.core.errors import InvalidQuery, Mismatch
from radrank.engines.engine import Model, Shapes, TensorSpec
from radrank.engines.flavours import FULL
from radrank.engines.kserve.axes import Axes
from radrank.engines.kserve.tensors import Tensor, declared
from radrank.engines.onnxruntime import CpuEngine
from radrank.engines.plans import RECIPE, Plan, read_plan
from radrank.engines.runtimes import GPU_PRECISION, EngineSettings

AUTO, PYTHON, ONNXRUNTIME, TENSORRT = BACKENDS = ("auto", "python", "onnxruntime", "tensorrt")
CPU, GPU = "cpu", "gpu"
_PRECISIONS = ("fp32", "fp16")


@dataclass(frozen=True, kw_only=True, slots=True)
class TritonSettings:
    """What a repository is written for.

    backend: of the bundle's models, "auto" for TensorRT where there are plans, else ONNX Runtime
    device: cpu or gpu; None for what the backend suits; precision: on a GPU
    batch: the most requests that run as one; instances: searches that run side by side on the CPU, and re-rankers
    cache: directory on Triton's host for what TensorRT builds from ONNX files
    """

    backend: str = AUTO
    device: str | None = None
    precision: str = GPU_PRECISION
    batch: int = field(default_factory=lambda: EngineSettings().batch)
    instances: int = 2
    cache: str = "/var/cache/radrank/tensorrt"

    def __post_init__(self) -> None:
        choices = {"backend": BACKENDS, "device": (None, CPU, GPU), "precision": _PRECISIONS}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise InvalidQuery(name, f"must be one of: {', '.join(filter(None, allowed))}")
        if (self.backend, self.device) in ((PYTHON, GPU), (TENSORRT, CPU)):
            raise InvalidQuery("device", f"{self.backend} does not run on a {self.device}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A model of the bundle, its shapes read from its ONNX file, and the plans that a Triton can run it from.

    bundle_sha256: of its manifest
    single: the shapes that it is asked with, one request at a time; vocabulary: how many token ids there are
    batch: the most requests in one feed, 0 where its tensors have no axis that counts requests
    why_no_plan: where there are none
    """

    model: Model
    bundle_sha256: str
    single: Model
    specs: tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]
    vocabulary: int
    batch: int
    plans: Mapping[str, Plan] = field(default_factory=dict)
    why_no_plan: str = ""

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return tuple(map(declared, self.specs[0]))

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        return tuple(map(declared, self.specs[1]))

    @property
    def parameters(self) -> Mapping[str, str]:
        return {"sha256": self.model.sha256, "bundle_sha256": self.bundle_sha256}


def source_of(
    model: Model, single: Model, *, bundle_sha256: str, vocabulary: int, plans: Path, precision: str
) -> Source:
    """Opens the ONNX file once, to read its shapes. model: with the buckets of a batch; plans: their directory.

    Raises Mismatch where the file has other inputs than the bundle's manifest says, MissingExtra.
    """
    engine = CpuEngine(model, threads=1)
    specs = engine.inputs, engine.outputs
    engine.close()
    inputs, outputs = (tuple(map(declared, some)) for some in specs)
    for shapes in (*model.buckets, *single.buckets):
        _check(model, inputs, shapes)
    found, why = _plans(single, plans, precision)
    return Source(
        model=model,
        bundle_sha256=bundle_sha256,
        single=single,
        specs=specs,
        vocabulary=vocabulary,
        batch=Axes(inputs, outputs, model.buckets).batch,
        plans=found,
        why_no_plan=why,
    )


def _check(model: Model, inputs: Sequence[Tensor], shapes: Shapes) -> None:
    """Raises Mismatch where the ONNX file can't be asked with shapes that the manifest tells."""
    names = {tensor.name for tensor in inputs}
    if names != set(shapes):
        raise Mismatch(f"{model.path.name}: inputs", ", ".join(sorted(shapes)), ", ".join(sorted(names)))
    for tensor in inputs:
        try:
            tensor.check(tensor.datatype, shapes[tensor.name])
        except InvalidQuery:
            raise Mismatch(
                f"{model.path.name}: {tensor.name}", str(list(shapes[tensor.name])), str(list(tensor.shape))
            ) from None


def _plans(single: Model, directory: Path, precision: str) -> tuple[dict[str, Plan], str]:
    """By compute capability, the newest each; and why there are none. Triton runs full TensorRT's, and pads nothing."""
    found: dict[str, Plan] = {}
    why = f"{directory} has no plan of it; radrank export tensorrt --help"
    for path in sorted(directory.glob(f"{single.name}.*.sm*.*.json")):
        plan = read_plan(path)
        key = plan.key
        wanted = replace(
            key,
            onnx=single.sha256,
            flavour=FULL.name,
            precision=precision,
            profiles=tuple(single.buckets),
            recipe=RECIPE,
        )
        differences = key.differences(wanted)
        if differences:
            told = (f"{name} {has}, not {expected}" for name, (expected, has) in differences.items())
            why = f"{plan.path.name} does not serve here: {'; '.join(told)}"
            continue
        held = found.get(key.compute_capability)
        if held is None or _version(key.version) > _version(held.key.version):
            found[key.compute_capability] = plan
    first = next(iter(found.values()), None)
    for plan in found.values():
        if first is not None and plan.key.profiles != first.key.profiles:  # Triton's configuration names them once
            raise Mismatch(f"plan {plan.path.name}", f"the profiles of {first.path.name}", "others; build both alike")
    return found, "" if found else why


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdecimal() else 0 for part in text.split("."))
