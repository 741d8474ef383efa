"""Doubles of the engines, in numpy: the whole pipeline without ONNX Runtime, HNSW or weights."""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from radrank.core.archive import Archive
from radrank.core.graph import RELATION_NAMES, GraphBatch, GraphSettings
from radrank.core.layout import BELIEF_NORM, VectorLayout
from radrank.core.ports import ArchiveMessages, EngineManifest, Progress
from radrank.core.ranking import Ranker
from radrank.core.records import Record
from radrank.core.snapshot import Snapshot, build_snapshot, open_snapshot
from radrank.core.studies import Modality, Study, StudyImage, View
from radrank.core.vectors import Matrix, Rows, exact_neighbours, unit
from radrank.core.view import View as ArchiveView
from radrank.engines.engine import Engine, Model

LAYOUT = VectorLayout(projection=25, share=0.3, groups=("edema", "fracture", "opacity", "scar"))
DIMENSIONS = LAYOUT.dimensions
IMAGE_SIZE = 32
SETTINGS = GraphSettings(neighbours=3, table_width=6, query_neighbours=4, query_candidates=4)


class HashingEncoder:
    """Texts by their words, images by their coarse pixels, both by fixed random directions: alike stays alike.

    So are its beliefs: they mean nothing, and are near where texts or images are.
    """

    def __init__(self, layout: VectorLayout = LAYOUT, *, seed: int = 0) -> None:
        self.layout = layout
        self.image_size = IMAGE_SIZE
        self.manifests: Mapping[Modality, EngineManifest] = {
            m: EngineManifest(sha256=f"{seed:02d}{m.value}".ljust(64, "0"), precision="fp32", runtime="numpy")
            for m in Modality
        }
        self.closed = False
        self._seed = seed
        self._width = layout.projection + layout.beliefs_width
        self._directions = np.random.default_rng([seed, 1]).normal(size=(64, self._width))

    def encode_images(self, pixels: NDArray[np.uint8]) -> Matrix:
        assert pixels.dtype == np.uint8
        assert pixels.shape[1:] == (IMAGE_SIZE, IMAGE_SIZE)
        coarse = pixels.reshape(len(pixels), 8, 4, 8, 4).mean(axis=(2, 4)).reshape(len(pixels), 64)
        return self._vectors((coarse - 127.5) @ self._directions + 1e-3, Modality.IMAGE)

    def encode_texts(self, texts: Sequence[str]) -> Matrix:
        empty = np.empty((0, self.layout.dimensions), np.float32)
        return np.concatenate([empty, *(self._text(text) for text in texts)])

    def classify(self, vectors: Matrix, modality: Modality) -> NDArray[np.float32]:
        return 1 - self.layout.beliefs(vectors)[:, 0]

    def close(self) -> None:
        self.closed = True

    def _text(self, text: str) -> Matrix:
        found = re.findall(r"\w+", text.lower()) or [text]
        words = [np.random.default_rng([self._seed, zlib.crc32(word.encode())]) for word in found]
        return self._vectors(np.sum([rng.normal(size=self._width) for rng in words], axis=0)[None, :], Modality.REPORT)

    def _vectors(self, inside: NDArray[np.float64], modality: Modality) -> Matrix:
        places = unit(inside)
        beliefs = 1 / (1 + np.exp(-6 * places[:, self.layout.projection :]))
        return joined(places[:, : self.layout.projection], beliefs, modality, self.layout)


def joined(
    projections: NDArray[np.floating], beliefs: NDArray[np.floating], modality: Modality, layout: VectorLayout = LAYOUT
) -> Matrix:
    """Vectors [n, d] of projections of any length and beliefs [n, 1 + groups], as the layout's formula says."""
    part = beliefs / BELIEF_NORM
    part = part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1.0)
    ends = np.zeros((len(part), len(Modality)))
    ends[:, list(Modality).index(modality)] = np.sqrt(np.maximum(1.0 - (part**2).sum(axis=1), 0.0))
    sides = (1 - layout.share) ** 0.5 * unit(projections), layout.share**0.5 * part, layout.share**0.5 * ends
    return np.concatenate(sides, axis=1).astype(np.float32)


class NeighbourReranker:
    """Adds to a candidate's score how near its archive neighbours are, and how alike what is believed of them is."""

    def __init__(self, gain: float = 0.2) -> None:
        self.gain = gain
        self.settings = SETTINGS
        self.messages: ArchiveMessages | None = None
        self.relations = RELATION_NAMES
        self.manifest = EngineManifest(sha256=f"{gain}".ljust(64, "0"), precision="fp32", runtime="numpy")
        self.closed = False

    def score(self, batch: GraphBatch) -> NDArray[np.float32]:
        arrays = batch.arrays
        believed = arrays["candidate"]
        heard = np.zeros_like(arrays["base"])
        for m in Modality:
            idx, weight = arrays[f"candidate_{m}.idx"], arrays[f"candidate_{m}.weight"]
            assert (idx < len(arrays[m.value])).all()
            theirs = arrays[m.value][np.maximum(idx, 0), : believed.shape[2]]
            heard += (weight * (theirs * believed[:, :, None]).sum(axis=3)).mean(axis=2)
        return np.asarray(arrays["base"] + self.gain * heard, dtype=np.float32)

    def close(self) -> None:
        self.closed = True


class NeighbourMessages:
    """Messages of one number: what NeighbourReranker adds up for a candidate. made: how many it was asked for."""

    key = "neighbours"
    settings = SETTINGS

    def __init__(self) -> None:
        self.made = 0

    def __call__(self, batch: GraphBatch) -> NDArray[np.float32]:
        self.made += batch.candidates[0]
        near = [batch.arrays[f"candidate_{m}.weight"].mean(axis=2) for m in Modality]
        alike = [
            (batch.arrays[m.value][np.maximum(idx, 0)].sum(axis=3) * (idx >= 0)).mean(axis=2)
            for m, idx in ((m, batch.arrays[f"candidate_{m}.idx"]) for m in Modality)
        ]
        return np.asarray(sum(near) + sum(alike), dtype=np.float32)[:, :, None]


class ToldReranker(NeighbourReranker):
    """Adds to a candidate's score what it is told of the archive."""

    def __init__(self, messages: NeighbourMessages) -> None:
        super().__init__()
        self.messages = messages

    def score(self, batch: GraphBatch) -> NDArray[np.float32]:
        return np.asarray(batch.arrays["base"] + 0.1 * batch.arrays["messages"][:, :, 0], dtype=np.float32)


class ExactIndex:
    def __init__(self, vectors: Matrix) -> None:
        self._vectors = vectors
        self.closed = False

    def __len__(self) -> int:
        return len(self._vectors)

    def search(self, queries: Matrix, k: int, *, source: Modality | None = None) -> tuple[Rows, NDArray[np.float32]]:
        assert not self.closed, "searched after it was closed"
        return exact_neighbours(queries, self._vectors, k)

    def close(self) -> None:
        self.closed = True


class ExactFactory:
    """Full scans behind the index port."""

    name = "double"

    def build(self, vectors: Matrix, *, progress: Progress | None = None) -> ExactIndex:
        return ExactIndex(vectors)

    def save(self, index: ExactIndex, path: Path) -> None:
        path.write_bytes(b"exact")

    def load(self, path: Path, vectors: Matrix, *, target: Modality | None = None) -> ExactIndex:
        assert path.read_bytes() == b"exact"
        return ExactIndex(vectors)


@dataclass(kw_only=True)
class DoubleBundle:
    """What `open_bundle` returns, without files."""

    path: Path = Path("bundle")
    sha256: str = "b" * 64
    encoder: HashingEncoder = field(default_factory=HashingEncoder)
    encoder_id: str = "e" * 64
    rerankers: Mapping[str, NeighbourReranker] = field(
        default_factory=lambda: {"plain": NeighbourReranker(0.0), "sage": NeighbourReranker(0.2)}
    )
    default_reranker: str = "sage"
    graph: GraphSettings = SETTINGS
    models: Mapping[str, Model] = field(default_factory=dict)
    engines: Mapping[str, Engine] = field(default_factory=dict)
    vocabulary: int = 0

    def warm_up(self) -> None:
        pass

    def close(self) -> None:
        self.encoder.close()


def picture(seed: int, *, side: int = 48, kind: str = "PNG") -> bytes:
    """An encoded gray image of soft blobs, the same for the same seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, size=(8, 8), dtype=np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(encoded, kind)
    return encoded.getvalue()


def study(number: int, *, images: int = 1, view: View = View.PA, report: str | None = None, **known: object) -> Study:
    """A made-up study; `known` replaces its fields."""
    words = f"finding{number % 7} of study{number} with sign{number % 3}" if report is None else report
    fields: dict[str, object] = {
        "study_id": f"S{number:04d}",
        "images": tuple(
            StudyImage(image_id=f"I{number:04d}-{i}", content=picture(1000 * number + i), view=view)
            for i in range(images)
        ),
        "findings": words,
    }
    return Study(**(fields | known))  # type: ignore[arg-type]


def record(made: Study, encoder: HashingEncoder | None = None) -> Record:
    """The study with its vectors; its images are taken for previews."""
    from radrank.datasets import pixels

    encoder = encoder or HashingEncoder()
    decoded = [pixels.load(image.read(), encoder.image_size) for image in made.images]
    stacked = np.stack(decoded) if decoded else np.empty((0, IMAGE_SIZE, IMAGE_SIZE), np.uint8)
    return Record(
        study=made,
        image_vectors=encoder.encode_images(stacked),
        report_vector=encoder.encode_texts([made.report])[0] if made.report else None,
    )


def ranker_of(view: ArchiveView, bundle: DoubleBundle | None = None) -> Ranker:
    """A ranker of this view with a double's engines."""
    bundle = bundle or DoubleBundle()
    return Ranker(
        encoder=bundle.encoder, rerankers=bundle.rerankers, default_reranker=bundle.default_reranker, view=view
    )


def snapshot_of(home: Path, archive: Archive, messages: Sequence[ArchiveMessages] = ()) -> Snapshot:
    """A snapshot of the archive as it is now, opened. messages: that it is to hold"""
    path = build_snapshot(
        home,
        archive.records(),
        sequence=archive.sequence,
        encoder="e" * 64,
        layout=LAYOUT,
        graph=SETTINGS,
        factory=ExactFactory(),
        messages=messages,
    )
    return open_snapshot(path, factory=ExactFactory(), encoder="e" * 64)
