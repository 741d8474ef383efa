"""The bundle's dual encoder on its engines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from radrank.core.errors import MissingExtra
from radrank.core.ports import EngineManifest
from radrank.core.studies import Modality
from radrank.core.vectors import Matrix
from radrank.engines.engine import Engine
from radrank.engines.manifest import BundleManifest, TextEncoderEntry
from radrank.engines.models import IMAGE_ENCODER, TEXT_ENCODER

_TEXT_BATCH = 32


class Tokens:
    """Texts to padded token ids, by the tokenizers library alone."""

    def __init__(self, path: Path, entry: TextEncoderEntry) -> None:
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise MissingExtra("tokenizers", "server") from error
        self._tokenizer = Tokenizer.from_file(str(path))
        self._tokenizer.enable_truncation(entry.max_tokens)
        self._entry = entry

    @property
    def vocabulary(self) -> int:
        """How many ids there are."""
        size: int = self._tokenizer.get_vocab_size()
        return size

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]

    def padded(self, ids: Sequence[Sequence[int]]) -> NDArray[np.int64]:
        """int64 [n, bucket]: the smallest bucket that holds the longest."""
        longest = max(len(row) for row in ids)
        width = next(bucket for bucket in self._entry.buckets if bucket >= longest)
        array = np.full((len(ids), width), self._entry.pad_id, dtype=np.int64)
        for row, found in enumerate(ids):
            array[row, : len(found)] = found
        return array


class BundleEncoder:
    """core's Encoder over two engines."""

    def __init__(self, path: Path, manifest: BundleManifest, engines: Mapping[str, Engine]) -> None:
        self.layout = manifest.layout
        self.image_size = manifest.image.size
        self.tokens = Tokens(path / manifest.text.tokenizer, manifest.text)
        self._engines = {Modality.IMAGE: engines[IMAGE_ENCODER], Modality.REPORT: engines[TEXT_ENCODER]}
        with np.load(path / manifest.classifier) as stored:
            self._classifiers = {m: (stored[f"{m}_weight"], stored[f"{m}_bias"]) for m in Modality}

    @property
    def manifests(self) -> Mapping[Modality, EngineManifest]:
        return {m: engine.manifest for m, engine in self._engines.items()}

    def encode_images(self, pixels: NDArray[np.uint8]) -> Matrix:
        if not len(pixels):
            return np.empty((0, self.layout.dimensions), dtype=np.float32)
        return self._engines[Modality.IMAGE].run({"pixels": pixels})["vectors"]

    def encode_texts(self, texts: Sequence[str]) -> Matrix:
        """Texts of like length share a batch: padding costs as much as words do."""
        vectors = np.empty((len(texts), self.layout.dimensions), dtype=np.float32)
        ids = self.tokens(texts)
        by_length = sorted(range(len(ids)), key=lambda row: len(ids[row]))
        for start in range(0, len(ids), _TEXT_BATCH):
            rows = by_length[start : start + _TEXT_BATCH]
            padded = self.tokens.padded([ids[row] for row in rows])
            vectors[rows] = self._engines[Modality.REPORT].run({"ids": padded})["vectors"]
        return vectors

    def classify(self, vectors: Matrix, modality: Modality) -> NDArray[np.float32]:
        weight, bias = self._classifiers[modality]
        logits = vectors @ weight + bias
        probability: NDArray[np.float32] = (1.0 / (1.0 + np.exp(-logits))).astype(np.float32)
        return probability

    def close(self) -> None:
        for engine in self._engines.values():
            engine.close()
