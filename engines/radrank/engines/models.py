"""The models of a bundle, and the shapes that they are asked with: read from its manifest, written nowhere else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from radrank.core.graph import batch_shapes
from radrank.engines.engine import Model, Shapes
from radrank.engines.manifest import BundleManifest

IMAGE_ENCODER, TEXT_ENCODER, RERANKER = "image_encoder", "text_encoder", "reranker_"


def models(bundle: Path, manifest: BundleManifest, *, batches: Sequence[int]) -> Mapping[str, Model]:
    """Every model by name. batches: how many requests a bucket may hold."""
    side = manifest.image.size
    candidates = manifest.graph.candidate_buckets

    def model(name: str, file: str, buckets: Sequence[Shapes]) -> Model:
        sha256 = str(manifest.files[file]["sha256"])
        return Model(name=name, path=bundle / file, sha256=sha256, precision=manifest.precision, buckets=buckets)

    found = [
        model(IMAGE_ENCODER, manifest.image.file, [{"pixels": (count, side, side)} for count in batches]),
        model(
            TEXT_ENCODER,
            manifest.text.file,
            [{"ids": (count, tokens)} for tokens in manifest.text.buckets for count in batches],
        ),
    ]
    for name, entry in manifest.rerankers.items():
        shapes = [
            batch_shapes(manifest.layout, manifest.graph, graphs=count, candidates=width)
            for width in candidates
            for count in batches
        ]
        found.append(
            model(RERANKER + name, entry.file, [{given: shape[given] for given in entry.inputs} for shape in shapes])
        )
    return {each.name: each for each in found}
