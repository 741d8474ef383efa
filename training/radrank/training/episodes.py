"""What a re-ranker trains on: queries with their graphs, from heads that have not seen the queries' studies.

The training studies are cut into folds. Heads trained on the other folds embed everything; the fold's studies are
queries and gallery, the other folds are the archive. That is what a test looks like: an unseen query, an unseen
gallery, an archive the heads were trained on. Similarities within the heads' own training set would be too good to be
true.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import orthogonal_procrustes

from radrank.core.graph import Candidates, Graph, GraphBuilder, GraphSettings
from radrank.core.nodes import Nodes, best_of_each_study, exact_gallery, exact_nodes
from radrank.core.relevance import gains
from radrank.core.studies import Modality
from radrank.core.vectors import Matrix, exact_neighbours
from radrank.training.features import FeatureSet
from radrank.training.heads import Heads, HeadSettings, gallery_rows, train_heads

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
    """gallery, archive: study indices; all images of archive studies are nodes, one image a study is gallery."""
    kept = {m: np.flatnonzero(np.isin(features.study[m], archive)) for m in Modality}
    ranked = {m: gallery_rows(features, gallery, m) for m in Modality}
    nodes = exact_nodes(
        vectors={m: vectors[m][kept[m]] for m in Modality},
        studies={m: features.study[m][kept[m]] for m in Modality},
        normal={m: features.normal[features.study[m][kept[m]]] for m in Modality},
        width=settings.table_width,
        pairs=settings.pairs,
    )
    items = exact_gallery(
        vectors={m: vectors[m][ranked[m]] for m in Modality},
        studies={m: features.study[m][ranked[m]] for m in Modality},
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
    features: FeatureSet, reference: Heads, settings: HeadSettings, *, train: NDArray[np.int32], folds: int, epochs: int
) -> Iterator[tuple[NDArray[np.int32], dict[Modality, Matrix]]]:
    """For every fold of the training studies: the fold, and all vectors by heads that were trained on the others.

    Each fold's space is turned onto the reference heads' (orthogonal Procrustes: no cosine changes), so that one
    re-ranker reads them all.
    """
    shuffled = np.random.default_rng(settings.seed).permutation(train)
    target = np.concatenate(list(reference.vectors(features).values()))
    for fold in np.array_split(shuffled, folds):
        rest = np.setdiff1d(train, fold).astype(np.int32)
        heads, _ = train_heads(features, settings, train=rest, validation=None, epochs=epochs)
        vectors = heads.vectors(features)
        turn, _ = orthogonal_procrustes(np.concatenate(list(vectors.values())), target)
        yield fold.astype(np.int32), {m: (v @ turn).astype(np.float32) for m, v in vectors.items()}


def _search(queries: Nodes, gallery: Nodes, k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    return exact_neighbours(queries.vectors.base, gallery.vectors.base, k)


def _bridges(queries: Nodes, archive: Nodes, k: int) -> list[Candidates]:
    """The k nearest archive items of each query, one a study, as View.nearest finds them in serving."""
    most = int(np.bincount(archive.study).max(initial=1))
    found = zip(*_search(queries, archive, k * most), strict=True)
    kept = (best_of_each_study(rows, cosines, archive.study, k) for rows, cosines in found)
    return [Candidates(rows=rows, cosines=cosines) for rows, cosines in kept]
