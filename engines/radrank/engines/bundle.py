"""Opens a bundle: checks its files, and starts for each of its models the best engine that passes the gate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from radrank.core.files import check_files
from radrank.core.graph import MESSAGES, GraphBatch, GraphSettings
from radrank.core.ports import EngineManifest, Reranker
from radrank.engines.encoder import BundleEncoder
from radrank.engines.engine import Engine
from radrank.engines.manifest import BundleManifest, read_manifest
from radrank.engines.models import GRAPHS, MESSAGES_OF, RERANKER, models
from radrank.engines.parity import read_golden, read_reranker_golden
from radrank.engines.runtimes import PLAIN, EngineSettings
from radrank.engines.selection import Selection


class EngineMessages:
    """core's ArchiveMessages over one engine. key: of its ONNX file and of how many neighbours it reads."""

    def __init__(self, engine: Engine, sha256: str, settings: GraphSettings) -> None:
        """sha256: of its ONNX file"""
        self.settings = settings
        self.key = f"{sha256[:12]}-{settings.neighbours}"
        self._engine = engine
        self._inputs = tuple(given.name for given in engine.inputs)

    def __call__(self, batch: GraphBatch) -> NDArray[np.float32]:
        messages: NDArray[np.float32] = self._engine.run(batch.feed(self._inputs))["messages"]
        return messages


class EngineReranker:
    """core's Reranker over one engine."""

    def __init__(self, engine: Engine, settings: GraphSettings, messages: EngineMessages | None = None) -> None:
        self.settings = settings
        self.messages = messages
        self._engine = engine
        self._inputs = tuple(given.name for given in engine.inputs)
        self.relations = frozenset(name.partition(".")[0] for name in self._inputs if "." in name)

    @property
    def manifest(self) -> EngineManifest:
        return self._engine.manifest

    def score(self, batch: GraphBatch) -> NDArray[np.float32]:
        """Of a batch with or without messages: what is missing is made."""
        if self.messages is not None and MESSAGES not in batch.arrays:
            batch = batch.told_by(self.messages)
        scores: NDArray[np.float32] = self._engine.run(batch.feed(self._inputs))["scores"]
        return scores

    def close(self) -> None:
        self._engine.close()


def rerankers_of(manifest: BundleManifest, engines: Mapping[str, Engine]) -> Mapping[str, EngineReranker]:
    """A bundle's re-rankers by name, each on its engines and with the graph that it was trained on."""
    found = {}
    for name, entry in manifest.rerankers.items():
        settings, messages = replace(manifest.graph, shuffled=entry.shuffled), None
        if entry.messages is not None:
            sha256 = str(manifest.files[entry.messages.file]["sha256"])
            messages = EngineMessages(engines[MESSAGES_OF + name], sha256, settings)
        found[name] = EngineReranker(engines[RERANKER + name], settings, messages)
    return found


class Bundle:
    """An open bundle. `sha256` is that of its manifest, which holds all others."""

    def __init__(self, path: Path, manifest: BundleManifest, sha256: str, settings: EngineSettings) -> None:
        self.path = path
        self.manifest = manifest
        self.sha256 = sha256
        self.models = models(path, manifest, batches=(settings.batch,))
        self._selection = Selection(self.models, settings)
        self.engines: Mapping[str, Engine] = self._selection.slots
        self.encoder = BundleEncoder(path, manifest, self.engines)
        self.rerankers: Mapping[str, Reranker] = rerankers_of(manifest, self.engines)
        self.default_reranker = manifest.default_reranker
        self.encoder_id = manifest.encoder_id
        self.graph = manifest.graph

    @property
    def vocabulary(self) -> int:
        """How many token ids the text encoder knows."""
        return self.encoder.tokens.vocabulary

    def warm_up(self) -> None:
        """Warms every engine and lets it answer the golden queries; better ones are tried first.

        Raises Mismatch where none passes the gate. Called again, it takes up engines that have been built since.
        """
        tokens = self.encoder.tokens
        golden = read_golden(self.path / self.manifest.golden, lambda text: tokens.padded(tokens([text])))
        self._selection.choose(golden)

    def close(self) -> None:
        for engine in self.engines.values():
            engine.close()


def open_bundle(path: Path, settings: EngineSettings | None = None) -> Bundle:
    """Opens the bundle in this directory, on the runtimes that the settings allow.

    Raises NotFound, Corrupt, Mismatch, or MissingExtra where no runtime is installed.
    """
    manifest, sha256 = read_manifest(path)
    return Bundle(path, manifest, sha256, settings or EngineSettings())


def open_rerankers(path: Path) -> tuple[Mapping[str, Reranker], str]:
    """A bundle's re-rankers alone, on the CPU, warm and through the gate; and the bundle's sha256.

    Raises as `open_bundle` and `Bundle.warm_up` do.
    """
    manifest, sha256 = read_manifest(path, models=False)
    check_files(path, {file: manifest.files[file] for entry in manifest.rerankers.values() for file in entry.files})
    settings = EngineSettings(runtime=PLAIN)
    found = models(path, manifest, batches=(settings.batch,))
    selection = Selection({name: model for name, model in found.items() if name.startswith(GRAPHS)}, settings)
    selection.choose(read_reranker_golden(path / manifest.golden))
    return rerankers_of(manifest, selection.slots), sha256
