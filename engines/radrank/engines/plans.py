"""TensorRT plans: what one depends on, how it is named, and why another is refused. Needs no TensorRT.

PLANS/<model>.<precision>.sm86.<flavour>-<version>.<key>.plan    as TensorRT serialized it
      <the same>.json                                            its manifest: the key's parts, the plan's sha256
      <the same>.jit                                             kernels that RTX compiled for this GPU
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from radrank.core.errors import Corrupt, Mismatch, NotFound
from radrank.core.files import check_files, replace_text, sha256_of, sync
from radrank.engines.buckets import batch_of
from radrank.engines.engine import Model, Shapes

RECIPE = 1
"""How an ONNX file is made ready for TensorRT, its conversion to half precision included: raised when that changes."""


def plans_of(bundle: Path) -> Path:
    """Where a bundle's plans are unless somebody says otherwise: BUNDLE.plans, beside it."""
    path = bundle.absolute()
    return path.with_name(path.name + ".plans")


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanKey:
    """All that a plan depends on.

    model: its name in the bundle; onnx: sha256 of its file there; flavour: "tensorrt" or "tensorrt-rtx"
    version: of TensorRT; compute_capability: of the GPU, "8.6"; precision: fp32, fp16 or bf16
    profiles: shapes of the inputs, one optimization profile each
    """

    model: str
    onnx: str
    flavour: str
    version: str
    compute_capability: str
    precision: str
    profiles: tuple[Shapes, ...]
    recipe: int = field(default=RECIPE)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    @property
    def name(self) -> str:
        """Of the plan's files, without their suffix."""
        target = f"sm{self.compute_capability.replace('.', '')}"
        return f"{self.model}.{self.precision}.{target}.{self.flavour}-{self.version}.{self.sha256[:12]}"

    @property
    def batches(self) -> tuple[int, ...]:
        return tuple(sorted({batch_of(shapes) for shapes in self.profiles}))

    @classmethod
    def of(cls, model: Model, *, flavour: str, version: str, compute_capability: str, precision: str) -> PlanKey:
        """The key of the plan that this model needs."""
        return cls(
            model=model.name,
            onnx=model.sha256,
            flavour=flavour,
            version=version,
            compute_capability=compute_capability,
            precision=precision,
            profiles=tuple(model.buckets),
        )

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> PlanKey:
        """Raises KeyError, TypeError or AttributeError for anything else than a key."""
        profiles = [{name: tuple(shape) for name, shape in shapes.items()} for shapes in stored["profiles"]]
        return cls(**{**stored, "profiles": tuple(profiles)})

    def differences(self, wanted: PlanKey) -> Mapping[str, tuple[str, str]]:
        """What does not serve: (expected, found) by name. More profiles than wanted do no harm."""
        mine, others = asdict(self), asdict(wanted)
        found = {
            _SAID[name]: (str(others[name])[:12], str(mine[name])[:12])
            for name in _SAID
            if name != "profiles" and mine[name] != others[name]
        }
        missing = [shapes for shapes in wanted.profiles if shapes not in self.profiles]
        if missing:
            found[_SAID["profiles"]] = (f"one of {_said(missing[0])}", f"none ({len(missing)} are missing)")
        return found


_SAID = {
    "model": "model",
    "onnx": "sha256 of the ONNX",
    "flavour": "flavour",
    "version": "TensorRT version",
    "compute_capability": "compute capability",
    "precision": "precision",
    "recipe": "recipe",
    "profiles": "profiles",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A plan that is there, with what its sidecar manifest says. file: its size in bytes and sha256."""

    path: Path
    key: PlanKey
    file: Mapping[str, str | int]

    @property
    def jit_cache(self) -> Path:
        return self.path.with_suffix(".jit")

    def read(self) -> bytes:
        """The serialized engine. Raises Corrupt or NotFound where the file is not what was built."""
        check_files(self.path.parent, {self.path.name: self.file})
        return self.path.read_bytes()


def write_plan(directory: Path, key: PlanKey, serialized: memoryview | bytes) -> Plan:
    """Keeps a built plan: the sidecar last, so that what has one is whole."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{key.name}.plan"
    fresh = path.with_suffix(".plan.new")
    fresh.write_bytes(serialized)
    sync(fresh)
    fresh.replace(path)
    file: dict[str, str | int] = {"sha256": sha256_of(path), "bytes": path.stat().st_size}
    sidecar = {"key": key.sha256, **asdict(key), "plan": file}
    replace_text(path.with_suffix(".json"), json.dumps(sidecar, indent=2) + "\n")
    return Plan(path=path, key=key, file=file)


def read_plan(sidecar: Path) -> Plan:
    """What a sidecar manifest says. Raises Corrupt where it says something else than its own key or name."""
    try:
        stored = dict(json.loads(sidecar.read_text(encoding="utf-8")))
        said, file = stored.pop("key"), dict(stored.pop("plan"))
        key = PlanKey.from_json(stored)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Corrupt(str(sidecar), "a plan's manifest", type(error).__name__) from error
    if key.sha256 != said or key.name != sidecar.stem:
        raise Corrupt(str(sidecar), f"the key {str(said)[:12]} of its name", f"parts whose key is {key.sha256[:12]}")
    return Plan(path=sidecar.with_suffix(".plan"), key=key, file=file)


def find_plan(directory: Path, wanted: PlanKey, *, bundle: Path) -> Plan:
    """The plan in this directory that serves the key, that with the fewest profiles first.

    Raises NotFound where the model has none, Mismatch with what differs where it has others, Corrupt where a manifest
    is broken; each with the command that builds the right one.
    """
    # Converted ONNX files lie here too, and are named after no GPU.
    plans = [read_plan(path) for path in sorted(directory.glob(f"{wanted.model}.*.sm*.*.json"))]
    cure = f"build it: {command(bundle, directory, wanted)}"
    if not plans:
        raise NotFound(f"plan of {wanted.model} in {directory}", cure)
    nearest = min(plans, key=lambda plan: (len(plan.key.differences(wanted)), len(plan.key.profiles)))
    differences = nearest.key.differences(wanted)
    if differences:
        expected, found = (", ".join(f"{name} {pair[side]}" for name, pair in differences.items()) for side in (0, 1))
        raise Mismatch(f"plan {nearest.path.name}", expected, f"{found}; {cure}")
    return nearest


def command(bundle: Path, directory: Path, key: PlanKey) -> str:
    """The command line that builds a plan of this key."""
    words = ["radrank export tensorrt", f"--bundle {bundle}"]
    if directory.absolute() != plans_of(bundle):
        words.append(f"--to {directory}")
    words += [f"--flavour {key.flavour}", f"--precision {key.precision}"]
    words += [f"--compute-capability {key.compute_capability}", f"--batch {','.join(map(str, key.batches))}"]
    return " ".join([*words, f"--model {key.model}"])


def _said(shapes: Shapes) -> str:
    """A bucket in few words: the shape of its widest input tells it from others."""
    name, shape = max(shapes.items(), key=lambda item: (len(item[1]), item[1]))
    return f"{name} {'×'.join(map(str, shape))}"
