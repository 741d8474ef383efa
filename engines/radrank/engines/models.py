"""The models of a bundle, and the shapes that they are asked with: read from its manifest, written nowhere else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from radrank.core.shapes import around_shapes, batch_shapes, told_shapes
from radrank.engines.engine import Model, Shapes
from radrank.engines.manifest import BundleManifest, MessagesEntry

IMAGE_ENCODER, TEXT_ENCODER, RERANKER, MESSAGES_OF = "image_encoder", "text_encoder", "reranker_", "messages_"
GRAPHS = RERANKER, MESSAGES_OF
"""What names of models that read graphs begin with."""


def models(bundle: Path, manifest: BundleManifest, *, batches: Sequence[int]) -> Mapping[str, Model]:
    """Every model by name. batches: how many requests a bucket may hold."""
    side = manifest.image.size

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
    sizes = [(count, width) for width in manifest.graph.candidate_buckets for count in batches]
    for name, entry in manifest.rerankers.items():
        if entry.messages is not None:
            shapes = [messages_shapes(manifest, entry.messages, *size) for size in sizes]
            found.append(model(MESSAGES_OF + name, entry.messages.file, shapes))
        found.append(model(RERANKER + name, entry.file, [reranker_shapes(manifest, name, *size) for size in sizes]))
    return {each.name: each for each in found}


def reranker_shapes(manifest: BundleManifest, name: str, graphs: int, candidates: int) -> Shapes:
    """Of a re-ranker's inputs."""
    entry, graph = manifest.rerankers[name], manifest.graph
    if entry.messages is None:
        shapes = batch_shapes(manifest.layout, graph, graphs=graphs, candidates=candidates)
    else:
        width = entry.messages.width
        shapes = told_shapes(manifest.layout, graph, graphs=graphs, candidates=candidates, messages=width)
    return {given: shapes[given] for given in entry.inputs}


def messages_shapes(manifest: BundleManifest, entry: MessagesEntry, graphs: int, candidates: int) -> Shapes:
    """Of the inputs of what makes a re-ranker's messages."""
    shapes = around_shapes(manifest.layout, manifest.graph, graphs=graphs, candidates=candidates)
    return {given: shapes[given] for given in entry.inputs}
