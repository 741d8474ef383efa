"""What a re-ranker trains on: queries with their graphs, from encoders that have not seen the queries' studies.

The training studies are cut into folds. An encoder trained on the other folds embeds everything; the fold's studies
are queries and gallery, the other folds are the archive. That is what a test looks like: an unseen query, an unseen
gallery, an archive the encoder was trained on. Similarities within an encoder's own training set would be too good to
be true.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import orthogonal_procrustes
from torch import nn

from radrank.core.graph import DIRECTIONS, Candidates, Graph, GraphBatch, GraphBuilder, GraphSettings
from radrank.core.layout import VectorLayout
from radrank.core.nodes import Nodes, exact_gallery, exact_nodes
from radrank.core.relevance import gains, jaccard
from radrank.core.studies import Modality
from radrank.core.vectors import Matrix, exact_neighbours
from radrank.training.features import FeatureSet
from radrank.training.heads import HeadSettings, study_vectors, train_heads
from radrank.training.inputs import fit_inputs
from radrank.training.tower import TowerSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """A gallery of unseen studies beside an archive, in one space.

    speaker: int32 [studies], for every study of the gallery the first one there with the same report, else itself
    """

    builder: GraphBuilder
    gallery: Mapping[Modality, Nodes]
    archive: Mapping[Modality, Nodes]
    labels: NDArray[np.bool_]
    normal: NDArray[np.int8]
    speaker: NDArray[np.int32]


@dataclass(frozen=True, kw_only=True, slots=True)
class Episodes:
    """Queries of one world, n of them, with their graphs and how relevant their candidates are.

    batch: their graphs over the whole archive; direction: int64 [n], places among DIRECTIONS
    gains: float32 [n, K], graded as core.relevance does; overlap: float32 [n, K], Jaccard
    ideal: float32 [n, k], the best gains of the whole gallery, best first; normal: int8 [n], of the query; shown: bool
    [n, K], the candidate is of a normal study
    """

    batch: GraphBatch
    direction: NDArray[np.int64]
    gains: NDArray[np.float32]
    overlap: NDArray[np.float32]
    ideal: NDArray[np.float32]
    normal: NDArray[np.int8]
    shown: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.direction)


_IDEAL = 10  # best gains kept, for nDCG@10


def make_world(
    features: FeatureSet,
    vectors: Mapping[Modality, Matrix],
    *,
    gallery: NDArray[np.int32],
    archive: NDArray[np.int32],
    layout: VectorLayout,
    settings: GraphSettings,
) -> World:
    """gallery, archive: study indices. A study is one image node, of all its views, and one report node; reports of
    the gallery that are word for word the same are one, or a few sentences of normal studies would fill every list."""
    kept = {m: study_vectors(vectors, features, archive, m) for m in Modality}
    ranked = {m: study_vectors(vectors, features, gallery, m) for m in Modality}
    known = features.labels.astype(np.uint8)
    nodes = exact_nodes(
        vectors={m: kept[m][1] for m in Modality},
        studies={m: kept[m][0] for m in Modality},
        normal={m: features.normal[kept[m][0]] for m in Modality},
        findings={m: known[kept[m][0]] for m in Modality},
        layout=layout,
        width=settings.table_width,
    )
    speaker, first = _speakers(features, ranked[Modality.REPORT][0])
    ranked[Modality.REPORT] = ranked[Modality.REPORT][0][first], ranked[Modality.REPORT][1][first]
    items = exact_gallery(
        vectors={m: ranked[m][1] for m in Modality},
        studies={m: ranked[m][0] for m in Modality},
        archive=nodes,
        layout=layout,
        width=settings.table_width,
    )
    builder = GraphBuilder(gallery=items, archive=nodes, layout=layout, settings=settings)
    return World(
        builder=builder,
        gallery=items,
        archive=nodes,
        labels=features.labels,
        normal=features.normal,
        speaker=speaker,
    )


def episodes(world: World, *, candidates: int, most: int = 0, seed: int = 0) -> Episodes:
    """Gallery items as queries, in every direction; in image→image and report→report not against themselves.

    most: queries a direction, drawn by chance; 0 for all
    """
    builder = world.builder
    rng = np.random.default_rng(seed)
    k = builder.settings.query_neighbours
    graphs: list[Graph] = []
    judged: list[tuple[NDArray[Any], ...]] = []
    status: list[NDArray[np.int8]] = []
    for source, target in DIRECTIONS:
        queries, items = world.gallery[source], world.gallery[target]
        asked = np.arange(len(queries))
        if most and len(asked) > most:
            asked = np.sort(rng.choice(asked, most, replace=False))
        own, theirs = queries.study[asked], items.study
        status.append(world.normal[own])
        near = {m: _search(queries, asked, world.archive[m], k) for m in Modality}
        rows, cosines = _search(queries, asked, items, candidates + (source is target))
        graded = gains(world.labels[own], world.labels[theirs], world.speaker[own], world.speaker[theirs])
        overlap = jaccard(world.labels[own], world.labels[theirs])
        for place, row in enumerate(asked.tolist()):
            found, close = rows[place], cosines[place]
            if source is target:
                others = found != row
                found, close = found[others][:candidates], close[others][:candidates]
                graded[place, row] = 0.0
            graphs.append(
                builder.build(
                    query=queries.vectors.base[row],
                    query_modality=source,
                    target=target,
                    candidates=Candidates(rows=found, cosines=close),
                    bridges={m: Candidates(rows=near[m][0][place], cosines=near[m][1][place]) for m in Modality},
                    excluded=own[[place]],
                )
            )
            best = -np.sort(-graded[place])[:_IDEAL]
            judged.append((graded[place, found], overlap[place, found], best, world.normal[theirs[found]] > 0))
    batch = builder.batch(graphs, whole=True)
    width = batch.arrays["base"].shape[1]
    gained, shared, ideal, shown = zip(*judged, strict=True)
    return Episodes(
        batch=batch,
        direction=np.asarray(batch.arrays["direction"], dtype=np.int64),
        gains=_padded(gained, width),
        overlap=_padded(shared, width),
        ideal=_padded(ideal, _IDEAL),
        normal=np.concatenate(status),
        shown=_padded(shown, width) > 0,
    )


def cross_fitted(
    features: FeatureSet,
    reference: Mapping[Modality, Matrix],
    tail: nn.Module,
    *,
    heads: HeadSettings,
    tower: TowerSettings,
    train: NDArray[np.int32],
    folds: int,
    on_epoch: Callable[[], None] = lambda: None,
) -> Iterator[tuple[NDArray[np.int32], dict[Modality, Matrix]]]:
    """For every fold of the training studies: the fold, and all vectors by encoders that were trained on the others.

    reference: the vectors of the encoder that will serve. Each fold's projections are turned onto its own (orthogonal
    Procrustes: no cosine changes), so that one re-ranker reads them all; beliefs mean the same in every fold.
    """
    shuffled = np.random.default_rng(heads.seed).permutation(train)
    target = np.concatenate([reference[m][:, : heads.projection] for m in Modality])
    for fold in np.array_split(shuffled, folds):
        rest = np.setdiff1d(train, fold).astype(np.int32)
        inputs = fit_inputs(features, tail, tower, train=rest, on_epoch=on_epoch).of(features)
        vectors = train_heads(features, inputs, heads, train=rest).vectors(inputs)
        turn, _ = orthogonal_procrustes(np.concatenate([vectors[m][:, : heads.projection] for m in Modality]), target)
        for m in Modality:
            vectors[m][:, : heads.projection] = vectors[m][:, : heads.projection] @ turn
        yield fold.astype(np.int32), vectors


def _search(
    queries: Nodes, asked: NDArray[np.int64], gallery: Nodes, k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    return exact_neighbours(queries.vectors.base[asked], gallery.vectors.base, k)


def _speakers(features: FeatureSet, reports: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """For every study the first of these, by their reports' words, that says the same (or itself), and places of the
    first ones among `reports`: studies in the order of the gallery's report items."""
    text = dict(zip(features.study[Modality.REPORT].tolist(), features.same_text.tolist(), strict=True))
    speaker = np.arange(len(features.study_ids), dtype=np.int32)
    first: dict[int, tuple[int, int]] = {}
    for place, study in enumerate(reports.tolist()):
        speaker[study] = first.setdefault(text[study], (study, place))[0]
    return speaker, np.array([place for _, place in first.values()], dtype=np.int64)


def _padded(rows: Sequence[NDArray[np.generic]], width: int) -> NDArray[np.float32]:
    """Rows of any length as float32 [n, width], filled with 0."""
    filled = np.zeros((len(rows), width), dtype=np.float32)
    for place, row in enumerate(rows):
        filled[place, : len(row)] = row
    return filled
