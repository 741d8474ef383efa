"""What a re-ranker trains on: queries with their graphs, from encoders that have not seen the queries' studies.

The training studies are cut into folds. An encoder trained on the other folds embeds everything; the fold's studies
are queries and gallery, the other folds are the archive. That is what a test looks like: an unseen query, an unseen
gallery, an archive the encoder was trained on. Similarities within an encoder's own training set would be too good to
be true.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import orthogonal_procrustes
from torch import nn

from radrank.core.graph import Candidates, Graph, GraphBuilder, GraphSettings
from radrank.core.nodes import Nodes, exact_gallery, exact_nodes
from radrank.core.relevance import gains
from radrank.core.studies import Modality
from radrank.core.vectors import Matrix, exact_neighbours
from radrank.training.features import FeatureSet
from radrank.training.heads import HeadSettings, study_vectors, train_heads
from radrank.training.inputs import fit_inputs
from radrank.training.tower import TowerSettings

DIRECTIONS = tuple((source, target) for source in Modality for target in Modality)


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """A gallery of unseen studies beside an archive, in one space."""

    builder: GraphBuilder
    gallery: Mapping[Modality, Nodes]
    archive: Mapping[Modality, Nodes]
    labels: NDArray[np.bool_]
    normal: NDArray[np.int8]


@dataclass(frozen=True, kw_only=True, slots=True)
class Episode:
    """One query. gains: float32 [K], of its candidates; ideal: float32 [n], of the whole gallery; normal: 1, −1, 0."""

    graph: Graph
    world: World
    gains: NDArray[np.float32]
    ideal: NDArray[np.float32]
    normal: int


def make_world(
    features: FeatureSet,
    vectors: Mapping[Modality, Matrix],
    *,
    gallery: NDArray[np.int32],
    archive: NDArray[np.int32],
    settings: GraphSettings,
) -> World:
    """gallery, archive: study indices. A study is one image node, of all its views, and one report node."""
    kept = {m: study_vectors(vectors, features, archive, m) for m in Modality}
    ranked = {m: study_vectors(vectors, features, gallery, m) for m in Modality}
    nodes = exact_nodes(
        vectors={m: kept[m][1] for m in Modality},
        studies={m: kept[m][0] for m in Modality},
        normal={m: features.normal[kept[m][0]] for m in Modality},
        width=settings.table_width,
        pairs=settings.pairs,
    )
    items = exact_gallery(
        vectors={m: ranked[m][1] for m in Modality},
        studies={m: ranked[m][0] for m in Modality},
        archive=nodes,
        width=settings.table_width,
    )
    builder = GraphBuilder(gallery=items, archive=nodes, settings=settings)
    return World(builder=builder, gallery=items, archive=nodes, labels=features.labels, normal=features.normal)


def episodes(
    world: World, *, candidates: int, directions: Sequence[tuple[Modality, Modality]] = DIRECTIONS
) -> Iterator[Episode]:
    """Every gallery item as a query, in every direction; in image→image and report→report not against itself."""
    k = world.builder.settings.query_neighbours
    bridges = {
        (source, m): _bridges(world.gallery[source], world.archive[m], k) for source in Modality for m in Modality
    }
    for source, target in directions:
        queries, items = world.gallery[source], world.gallery[target]
        rows, cosines = _search(queries, items, candidates + (source is target))
        graded = gains(world.labels[queries.study], world.labels[items.study], queries.study, items.study)
        for row in range(len(queries)):
            found, near = rows[row], cosines[row]
            if source is target:
                others = found != row
                found, near = found[others][:candidates], near[others][:candidates]
                graded[row, row] = 0.0
            graph = world.builder.build(
                query=queries.vectors.base[row],
                query_modality=source,
                target=target,
                candidates=Candidates(rows=found, cosines=near),
                bridges={m: bridges[source, m][row] for m in Modality},
                excluded=queries.study[[row]],
            )
            yield Episode(
                graph=graph,
                world=world,
                gains=graded[row, found],
                ideal=graded[row],
                normal=int(world.normal[queries.study[row]]),
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


def _search(queries: Nodes, gallery: Nodes, k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    return exact_neighbours(queries.vectors.base, gallery.vectors.base, k)


def _bridges(queries: Nodes, archive: Nodes, k: int) -> list[Candidates]:
    """The k nearest archive items of each query."""
    found = zip(*_search(queries, archive, k), strict=True)
    return [Candidates(rows=rows, cosines=cosines) for rows, cosines in found]
