"""What an exported Triton repository keeps beside its configurations, for the one that writes it and the one that runs.

<model of the bundle>/1/model.onnx     or model.sm86.plan, …
radrank_search/1/models.json           the models that the search asks, and their tensors
                 bundle/               the bundle without its ONNX files
                 snapshot/             of the archive
                 index.json            what `radrank index tune` found for it, if it was called
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from radrank.core.errors import Corrupt, NotFound
from radrank.core.files import write_json
from radrank.core.ports import EngineManifest
from radrank.engines.engine import TensorSpec

SEARCH = "radrank_search"
VERSION = "1"
ONNX = "model.onnx"
MODELS, BUNDLE, SNAPSHOT, TUNING = "models.json", "bundle", "snapshot", "index.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportedModel:
    """A model of the bundle as a Triton serves it. manifest: sha256 of the bundle's ONNX file, what runs it and how."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    manifest: EngineManifest


def write_models(path: Path, models: Mapping[str, ExportedModel]) -> None:
    """Writes models.json."""
    write_json(
        path,
        {
            name: {
                "sha256": model.manifest.sha256,
                "precision": model.manifest.precision,
                "runtime": model.manifest.runtime,
                "inputs": _tensors(model.inputs),
                "outputs": _tensors(model.outputs),
            }
            for name, model in models.items()
        },
    )


def read_models(path: Path) -> Mapping[str, ExportedModel]:
    """What models.json says. Raises NotFound or Corrupt."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {
            name: ExportedModel(
                inputs=_specs(said["inputs"]),
                outputs=_specs(said["outputs"]),
                manifest=EngineManifest(sha256=said["sha256"], precision=said["precision"], runtime=said["runtime"]),
            )
            for name, said in found.items()
        }
    except FileNotFoundError:
        raise NotFound(f"file {path}", "write the repository anew: radrank export triton --help") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Corrupt(str(path), "what radrank export triton writes", type(error).__name__) from error


def _tensors(specs: Sequence[TensorSpec]) -> list[dict[str, Any]]:
    return [{"name": spec.name, "dtype": spec.dtype.name, "shape": spec.shape} for spec in specs]


def _specs(said: Sequence[Mapping[str, Any]]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name=one["name"], dtype=np.dtype(one["dtype"]), shape=tuple(one["shape"])) for one in said)
