"""A gallery of judged studies beside an archive of others: what is asked, what is ranked, and the graphs in between.

This is the one module of the evaluation that knows core's graph.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from radrank.core.graph import Candidates, GraphBatch, GraphBuilder, GraphSettings
from radrank.core.nodes import Nodes, exact_gallery, exact_nodes
from radrank.core.ports import Reranker
from radrank.core.relevance import jaccard
from radrank.core.studies import Modality
from radrank.core.vectors import Matrix, Rows, Vector, exact_neighbours
from radrank.evaluation.collection import Collection
from radrank.evaluation.trial import Banks, Trial

Studies = NDArray[np.int32]
"""Rows of a collection's studies."""

CANDIDATES = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Entries:
    """What is asked with and ranked of one modality; an entry of reports may stand for several studies of one text.

    vectors: float32 [n, d], unit; abnormal: float32 [n], the encoder's probability
    study: int32 [n], the study that speaks for the entry: the first of those with the most frequent labels
    members: bool [n, gallery studies], the studies that the entry is the item of
    labels: bool [n, 1 + groups], normal: int8 [n] and uncertain: bool [n], of the study that speaks
    """

    vectors: Matrix
    abnormal: NDArray[np.float32]
    study: Studies
    members: NDArray[np.bool_]
    labels: NDArray[np.bool_]
    normal: NDArray[np.int8]
    uncertain: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.vectors)


class World:
    """Some studies of a collection as queries and gallery, others as the archive around them.

    gallery, archive: studies of the collection; those of the gallery are left out of the archive. Studies whose only
    views are laterals are archive alone: as images they are neither asked with nor found.
    """

    def __init__(self, collection: Collection, *, gallery: Studies, archive: Studies) -> None:
        self.collection = collection
        self.gallery = np.unique(gallery)
        self.archive = np.setdiff1d(archive, gallery).astype(np.int32)
        self.entries: Mapping[Modality, Entries] = {m: _entries(collection, self.gallery, m) for m in Modality}
        self._items = {m: np.flatnonzero(np.isin(collection.study[m], self.archive)) for m in Modality}
        self._archives: dict[int, Mapping[Modality, Nodes]] = {}
        self._builders: dict[GraphSettings, GraphBuilder] = {}

    def trial(self, source: Modality, target: Modality) -> Trial:
        """Every entry of the source's modality as a query, against every one of the target's.

        A query with an uncertain finding has no strong match. Within one modality a query's own entry is not valid.
        """
        asked, ranked = self.entries[source], self.entries[target]
        overlap = jaccard(asked.labels, ranked.labels)
        valid = np.ones(overlap.shape, dtype=np.bool_)
        if source is target:
            np.fill_diagonal(valid, False)
        return Trial(
            source=source,
            target=target,
            queries=asked.vectors,
            gallery=ranked.vectors,
            valid=valid,
            pair=asked.members.astype(np.float32) @ ranked.members.T.astype(np.float32) > 0,
            strong=(overlap == 1.0) & ~asked.uncertain[:, None],
            weak=overlap > 0.0,
            jaccard=overlap,
            query_normal=asked.normal,
            gallery_normal=ranked.normal,
            gallery_abnormal=ranked.abnormal,
        )

    def banks(self, source: Modality, target: Modality) -> Banks:
        """The archive's items of both modalities."""
        vectors = self.collection.vectors
        return Banks(queries=vectors[source][self._items[source]], gallery=vectors[target][self._items[target]])

    def reranked(
        self,
        rerankers: Mapping[str, Reranker],
        trial: Trial,
        *,
        candidates: int = CANDIDATES,
        queries: Rows | None = None,
        workers: int = 1,
        step: Callable[[], None] = lambda: None,
    ) -> dict[str, NDArray[np.float32]]:
        """Scores of each re-ranker, float32 [q, n], −inf where an entry is not among the query's candidates.

        trial: of this world; queries: rows of those to ask, all if not given: the others stay −inf
        Queries come one at a time, each in a graph of its own, as in serving; re-rankers with equal graphs share it.
        """
        rows = np.arange(len(trial.queries)) if queries is None else queries
        scores = {name: np.full(trial.valid.shape, -np.inf, dtype=np.float32) for name in rerankers}
        self._prepare({reranker.settings for reranker in rerankers.values()})

        def ask(row: int) -> None:
            made: dict[GraphSettings, tuple[Rows, GraphBatch]] = {}
            for name, reranker in rerankers.items():
                settings = reranker.settings
                if settings not in made:
                    made[settings] = self.graph(trial, row, settings, candidates=candidates)
                found, batch = made[settings]
                scores[name][row, found] = reranker.score(batch)[0, : len(found)]

        with ThreadPoolExecutor(workers, thread_name_prefix="rank") as pool:
            for _ in pool.map(ask, rows.tolist()):
                step()
        return scores

    def graph(
        self, trial: Trial, row: int, settings: GraphSettings, *, candidates: int = CANDIDATES
    ) -> tuple[Rows, GraphBatch]:
        """One query's candidates, rows of the trial's gallery, best first, and its graph as a re-ranker reads it."""
        source, target = trial.source, trial.target
        query = trial.queries[row]
        found = _nearest(query, trial.gallery, candidates + (source is target))
        if source is target:
            others = trial.valid[row, found.rows]
            found = Candidates(rows=found.rows[others][:candidates], cosines=found.cosines[others][:candidates])
        builder = self._builder(settings)
        graph = builder.build(
            query=query,
            query_modality=source,
            target=target,
            candidates=found,
            bridges={m: _nearest(query, builder.archive[m].vectors.base, settings.query_neighbours) for m in Modality},
            excluded=self.gallery[self.entries[source].members[row]],
        )
        return found.rows, builder.batch([graph])

    def alone(self, source: Modality, row: int) -> World:
        """This world with one query left of the source's modality, its row 0: for the other modality's gallery."""
        world = copy.copy(self)
        entries = self.entries[source]
        one = Entries(**{name: getattr(entries, name)[row : row + 1] for name in Entries.__slots__})
        world.entries = {**self.entries, source: one}
        world._builders = {}
        return world

    def _prepare(self, settings: set[GraphSettings]) -> None:
        """Makes what threads would otherwise make at the same time."""
        for one in settings:
            self._builder(one)

    def _builder(self, settings: GraphSettings) -> GraphBuilder:
        if settings not in self._builders:
            archive = self._archive_nodes(settings)
            self._builders[settings] = GraphBuilder(
                gallery=self._gallery_nodes(archive, settings),
                archive=archive,
                layout=self.collection.layout,
                settings=settings,
            )
        return self._builders[settings]

    def _archive_nodes(self, settings: GraphSettings) -> Mapping[Modality, Nodes]:
        if settings.table_width not in self._archives:
            collection, items = self.collection, self._items
            findings = collection.findings
            studies = {m: collection.study[m][items[m]] for m in Modality}
            self._archives[settings.table_width] = exact_nodes(
                vectors={m: collection.vectors[m][items[m]] for m in Modality},
                studies=studies,
                normal={m: collection.normal[studies[m]] for m in Modality},
                findings={m: findings[studies[m]] for m in Modality},
                layout=collection.layout,
                width=settings.table_width,
            )
        return self._archives[settings.table_width]

    def _gallery_nodes(self, archive: Mapping[Modality, Nodes], settings: GraphSettings) -> Mapping[Modality, Nodes]:
        """Entries as mere gallery items: neither their pairs nor their labels are known to the graph."""
        return exact_gallery(
            vectors={m: self.entries[m].vectors for m in Modality},
            studies={m: self.entries[m].study for m in Modality},
            archive=archive,
            layout=self.collection.layout,
            width=settings.table_width,
        )


def _nearest(query: Vector, items: Matrix, k: int) -> Candidates:
    """By one product for one query: its last bits don't depend on what else is asked."""
    rows, cosines = exact_neighbours(query[None, :], items, k)
    return Candidates(rows=rows[0], cosines=cosines[0])


def _entries(collection: Collection, gallery: Studies, m: Modality) -> Entries:
    items = np.flatnonzero(np.isin(collection.study[m], gallery))
    if m is Modality.IMAGE:
        items = items[collection.frontal[items]]
        entry = np.arange(len(items))
    else:
        # Reports of one text are one entry, entries in the order in which their texts first come.
        first, entry = np.unique(collection.same_text[items], return_index=True, return_inverse=True)[1:]
        entry = np.argsort(np.argsort(first))[entry]
    owners = collection.study[m][items]
    count = int(entry.max(initial=-1)) + 1
    members = np.zeros((count, len(gallery)), dtype=np.bool_)
    members[entry, np.searchsorted(gallery, owners)] = True
    own: list[list[int]] = [[] for _ in range(count)]
    for place, study in zip(entry.tolist(), owners.tolist(), strict=True):
        own[place].append(study)
    speakers = np.array([_speaker(collection, studies) for studies in own], dtype=np.int32)
    leading = items[np.unique(entry, return_index=True)[1]]
    return Entries(
        vectors=collection.vectors[m][leading],
        abnormal=collection.abnormal[m][leading],
        study=speakers,
        members=members,
        labels=collection.labels[speakers],
        normal=collection.normal[speakers],
        uncertain=collection.uncertain[speakers],
    )


def _speaker(collection: Collection, studies: list[int]) -> int:
    """The first study with the labels that are most frequent among these, of equally frequent ones the first."""
    said = [(collection.labels[study].tobytes(), int(collection.normal[study])) for study in studies]
    return studies[said.index(Counter(said).most_common(1)[0][0])]
