"""Copies of bundles with something changed, their hashes made right again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from radrank.core.files import file_table
from radrank.engines.manifest import MANIFEST


def with_few_buckets(bundle: Path, to: Path, *, tokens: int, candidates: int) -> Path:
    """One bucket of tokens and one of candidates, for what would be built for each of them."""
    shutil.copytree(bundle, to)

    def narrow(manifest: dict[str, Any]) -> None:
        manifest["text"]["buckets"] = [tokens]
        manifest["graph"]["candidate_buckets"] = [candidates]

    return _edited(to, narrow)


def with_data_set(bundle: Path, to: Path, name: str, root: Path) -> Path:
    """Trained on this data set, by what it says."""
    shutil.copytree(bundle, to)
    return _edited(to, lambda manifest: manifest["training"]["dataset"].update(name=name, root=str(root)))


def with_one_weight_changed(bundle: Path, to: Path, file: str) -> Path:
    """One number of one weight of this ONNX file, by an eighth."""
    shutil.copytree(bundle, to)
    model = onnx.load(to / file)
    weight = next(each for each in model.graph.initializer if len(each.dims) == 2)
    value = numpy_helper.to_array(weight).copy()
    value[0, 0] += 0.125
    weight.CopyFrom(numpy_helper.from_array(value, weight.name))
    onnx.save(model, to / file)
    return _edited(to, lambda manifest: None)


def with_longer_vectors(bundle: Path, to: Path, file: str, times: float) -> Path:
    """An encoder's projections are so many times as long before they are made unit vectors: after that all the same."""
    shutil.copytree(bundle, to)
    model = onnx.load(to / file)
    last = [
        each for each in model.graph.initializer if each.name.endswith(("skip.weight", "mlp.3.weight", "mlp.3.bias"))
    ]
    assert len(last) == 3
    for weight in last:
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(times), weight.name))
    onnx.save(model, to / file)
    return _edited(to, lambda manifest: None)


def with_shuffled_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model, with the numbers of each matrix in another order."""
    rng = np.random.default_rng(0)
    for weight in model.graph.initializer:
        if len(weight.dims) == 2:
            weight.CopyFrom(numpy_helper.from_array(rng.permuted(numpy_helper.to_array(weight)), weight.name))
    return model


def _edited(bundle: Path, edit: Any) -> Path:
    path = bundle / MANIFEST
    manifest = json.loads(path.read_text())
    path.unlink()
    edit(manifest)
    manifest["files"] = file_table(bundle)
    path.write_text(json.dumps(manifest))
    return bundle
