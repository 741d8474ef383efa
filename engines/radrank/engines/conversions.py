"""Converted models: a bundle's ONNX file in another precision, beside the bundle. Needs neither onnx nor a runtime.

PLANS/<model>.<precision>.<key>.onnx    the converted file
      <the same>.json                   its manifest: sha256 of the original, precision, how it was made, its own sha256
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

from radrank.core.errors import Corrupt, NotFound
from radrank.core.files import check_files, replace_text, sha256_of, sync
from radrank.engines.engine import Model

FP32 = "fp32"


def stem(model: Model, precision: str, recipe: str) -> str:
    """Of the files' names: other weights, or another way to convert them, have another."""
    key = hashlib.sha256(json.dumps([model.sha256, precision, recipe]).encode()).hexdigest()
    return f"{model.name}.{precision}.{key[:12]}"


def keep(directory: Path, model: Model, precision: str, recipe: str, content: bytes) -> Path:
    """Writes a converted model. recipe: how it was made, in words."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{stem(model, precision, recipe)}.onnx"
    fresh = path.with_suffix(".onnx.new")
    fresh.write_bytes(content)
    sync(fresh)
    fresh.replace(path)
    file = {"sha256": sha256_of(path), "bytes": len(content)}
    told = {"model": model.name, "onnx": model.sha256, "precision": precision, "recipe": recipe, "file": file}
    replace_text(path.with_suffix(".json"), json.dumps(told, indent=2) + "\n")
    return path


def converted(directory: Path, model: Model, precision: str) -> Model:
    """The model in this precision; itself where that is its own.

    Raises NotFound where there is none, with the command that makes it, and Corrupt where it is not what was made.
    """
    if precision == model.precision:
        return model
    for sidecar in sorted(directory.glob(f"{model.name}.{precision}.*.json")):
        try:
            told = json.loads(sidecar.read_text(encoding="utf-8"))
            if "file" not in told or told["onnx"] != model.sha256:
                continue  # a plan's, or that of other weights
            path = sidecar.with_suffix(".onnx")
            check_files(directory, {path.name: told["file"]})
        except (ValueError, KeyError, TypeError) as error:
            raise Corrupt(str(sidecar), "a converted model's manifest", type(error).__name__) from error
        return replace(model, path=path, sha256=str(told["file"]["sha256"]), precision=precision)
    cure = f"radrank export precision --bundle {model.path.parent} --precision {precision} --to {directory}"
    raise NotFound(f"{model.name} in {precision}", f"make it: {cure}")
