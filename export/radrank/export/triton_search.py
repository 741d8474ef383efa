"""`radrank_search` in an exported repository: its configuration, and the search that warms it up."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from radrank.core.ranking import OFF
from radrank.core.studies import Modality
from radrank.engines.kserve import search as declaration
from radrank.engines.kserve.config import model_config, model_config_pb2, type_name
from radrank.engines.kserve.exported import SEARCH, VERSION
from radrank.engines.kserve.tensors import Tensor
from radrank.engines.manifest import BundleManifest


@dataclass(frozen=True, kw_only=True, slots=True)
class _Search:
    """`radrank_search`, for its configuration."""

    inputs: tuple[Tensor, ...]
    parameters: Mapping[str, str]
    name: str = SEARCH
    batch: int = 0
    outputs: tuple[Tensor, ...] = declaration.OUTPUTS


def search_config(manifest: BundleManifest, sha256: str, golden: Path, snapshot: str, instances: int) -> Any:
    """ModelConfig. golden: the bundle's golden queries; snapshot: its name."""
    messages = model_config_pb2()
    told = declaration.parameters(
        bundle_sha256=sha256, rerankers=manifest.rerankers, default_reranker=manifest.default_reranker
    )
    model = _Search(inputs=declaration.inputs(manifest.layout.dimensions), parameters={**told, "snapshot": snapshot})
    config = model_config(model, version=VERSION)
    config.backend = "python"
    config.instance_group.add(kind=messages.ModelInstanceGroup.KIND_CPU, count=instances)
    # Triton answers no other model's requests before all are loaded: this one asks none.
    warm_up = config.model_warmup.add(name="candidates of an embedding", batch_size=1, count=1)
    for name in warm_up_files(golden):
        tensor = next(tensor for tensor in model.inputs if tensor.name == name)
        given = warm_up.inputs[name]
        given.data_type = messages.DataType.Value(type_name(tensor))
        given.dims.extend(tensor.shape)
        given.input_data_file = name
    return config


def warm_up_files(golden: Path) -> dict[str, bytes]:
    """Raw contents of a search that needs no other model, by input."""
    off = OFF.encode()
    with np.load(golden) as stored:
        vector = stored[f"gallery/{Modality.IMAGE}"][0].astype("<f4")
    return {"embedding": vector.tobytes(), "reranker": struct.pack("<I", len(off)) + off}
