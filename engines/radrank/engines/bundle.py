"""Opens a bundle: checks its files, starts its engines, and lets them answer the golden queries before they serve."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from radrank.core.errors import Mismatch
from radrank.core.graph import GraphBatch, GraphSettings
from radrank.core.ports import EngineManifest, Reranker
from radrank.engines.encoder import BundleEncoder
from radrank.engines.manifest import BundleManifest, read_manifest
from radrank.engines.onnxruntime import OnnxEngine

_TOLERANCE = 1e-3  # of golden answers: other machines round otherwise, other weights answer otherwise


class OnnxReranker:
    """core's Reranker over one ONNX file."""

    def __init__(self, engine: OnnxEngine, settings: GraphSettings) -> None:
        self._engine = engine
        self.settings = settings

    @property
    def manifest(self) -> EngineManifest:
        return self._engine.manifest

    def score(self, batch: GraphBatch) -> NDArray[np.float32]:
        return self._engine.run(batch.feed(self._engine.inputs))

    def close(self) -> None:
        self._engine.close()


class Bundle:
    """An open bundle. `sha256` is that of its manifest, which holds all others."""

    def __init__(self, path: Path, manifest: BundleManifest, sha256: str, *, threads: int) -> None:
        self.path = path
        self.manifest = manifest
        self.sha256 = sha256
        self.encoder = BundleEncoder(path, manifest, threads=threads)
        self.rerankers: Mapping[str, Reranker] = {
            name: OnnxReranker(self._engine(entry.file), replace(manifest.graph, shuffled=entry.shuffled))
            for name, entry in manifest.rerankers.items()
        }
        self.default_reranker = manifest.default_reranker
        self.encoder_id = manifest.encoder_id
        self.graph = manifest.graph

    def warm_up(self) -> None:
        """Runs the golden queries through every engine. Raises Mismatch where an answer is not what was trained."""
        with np.load(self.path / self.manifest.golden) as golden:
            _compare("image encoder", self.encoder.encode_images(golden["pixels"]), golden["image_vectors"])
            texts = [bytes(text).decode() for text in golden["texts"]]
            _compare("text encoder", self.encoder.encode_texts(texts), golden["report_vectors"])
            arrays = {name.removeprefix("graph/"): golden[name] for name in golden.files if name.startswith("graph/")}
            count = arrays["base"].shape[0]
            batch = GraphBatch(arrays=arrays, candidates=(arrays["base"].shape[1],) * count)
            for name, reranker in self.rerankers.items():
                _compare(f"re-ranker {name}", reranker.score(batch), golden[f"scores/{name}"])

    def close(self) -> None:
        self.encoder.close()
        for reranker in self.rerankers.values():
            reranker.close()

    def _engine(self, file: str) -> OnnxEngine:
        sha256 = str(self.manifest.files[file]["sha256"])
        # A re-ranker's graph is small: a second thread costs it more than it brings.
        return OnnxEngine(self.path / file, sha256=sha256, precision=self.manifest.precision, threads=1)


def open_bundle(path: Path, *, threads: int | None = None) -> Bundle:
    """Opens the bundle in this directory. threads: of one encoder call; None for all cores.

    Raises NotFound, Corrupt, Mismatch, or MissingExtra where no runtime is installed.
    """
    manifest, sha256 = read_manifest(path)
    return Bundle(path, manifest, sha256, threads=threads or len(os.sched_getaffinity(0)))


def _compare(what: str, found: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    if found.shape != expected.shape:
        raise Mismatch(f"golden queries, {what}: shape", str(expected.shape), str(found.shape))
    worst = float(np.abs(found - expected).max(initial=0.0))
    if not worst <= _TOLERANCE:  # NaN, on either side, is no answer
        raise Mismatch(f"golden queries, {what}", f"answers within {_TOLERANCE}", f"a difference of {worst:.3g}")
