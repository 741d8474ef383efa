"""The leak rules as tests of a world: what is judged by must not reach what ranks.

A test that holds says so with True. Each asks a sample of the queries of every direction, twice: as it is, and with
something changed that no re-ranker may notice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import product

import numpy as np

from radrank.core.ports import Reranker
from radrank.core.studies import Modality
from radrank.core.vectors import Rows
from radrank.evaluation.collection import Collection
from radrank.evaluation.trial import Trial
from radrank.evaluation.worlds import CANDIDATES, Studies, World

PAIRS = "with the pair links of the judged studies permuted, no score changes by one bit"
LABELS = "with the labels of the judged studies permuted, no input changes by one bit"
COMPANY = "a query alone and in company gets the same scores"

QUERIES = 16


def leak_tests(
    world: World,
    rerankers: Mapping[str, Reranker],
    *,
    candidates: int = CANDIDATES,
    queries: int = QUERIES,
    step: Callable[[], None] = lambda: None,
) -> dict[str, bool]:
    """PAIRS, LABELS and COMPANY → whether it held, for all re-rankers in all directions; nothing without re-rankers.

    queries: how many are asked in each direction; step: called after each of the four directions
    """
    if not rerankers:
        return {}
    other_pairs = _like(world, with_pairs_permuted(world.collection, world.gallery))
    other_labels = _like(world, with_labels_permuted(world.collection, world.gallery))
    held = dict.fromkeys((PAIRS, LABELS, COMPANY), True)
    for source, target in product(Modality, Modality):
        trial = world.trial(source, target)
        rows = _sample(len(trial.queries), queries)
        plain = _scores(world, rerankers, trial, rows, candidates)
        held[PAIRS] &= plain == _scores(other_pairs, rerankers, other_pairs.trial(source, target), rows, candidates)
        changed = other_labels.trial(source, target)
        held[LABELS] &= all(
            one == other
            for one, other in zip(
                _inputs(world, rerankers, trial, rows, candidates),
                _inputs(other_labels, rerankers, changed, rows, candidates),
                strict=True,
            )
        )
        if source is not target:  # within one modality, the others are the gallery
            for row in rows.tolist():
                alone = world.alone(source, row)
                found = _scores(alone, rerankers, alone.trial(source, target), np.zeros(1, np.int64), candidates)
                held[COMPANY] &= found == {(name, 0): plain[name, row] for name in rerankers}
        step()
    return held


def with_pairs_permuted(collection: Collection, studies: Studies) -> Collection:
    """The reports of these studies belong to one another's images."""
    owners = collection.study[Modality.REPORT].copy()
    items = np.flatnonzero(np.isin(owners, studies))
    owners[items] = np.roll(owners[items], 1)
    return replace(collection, study={**collection.study, Modality.REPORT: owners})


def with_labels_permuted(collection: Collection, studies: Studies) -> Collection:
    """These studies have one another's findings."""
    changed = {name: getattr(collection, name).copy() for name in ("labels", "normal", "uncertain")}
    for column in changed.values():
        column[studies] = np.roll(column[studies], 1, axis=0)
    return replace(collection, **changed)


def _like(world: World, collection: Collection) -> World:
    """The same galleries and archives of another collection, made anew, so that nothing is left of the first."""
    return type(world)(collection, gallery=world.gallery, archive=world.archive)


def _sample(count: int, most: int) -> Rows:
    return np.unique(np.linspace(0, max(count - 1, 0), min(count, most)).astype(np.int64))


def _scores(
    world: World, rerankers: Mapping[str, Reranker], trial: Trial, rows: Rows, candidates: int
) -> dict[tuple[str, int], bytes]:
    """The bits of every re-ranker's scores of every one of these queries."""
    scores = world.reranked(rerankers, trial, candidates=candidates, queries=rows)
    return {(name, row): found[row].tobytes() for name, found in scores.items() for row in rows.tolist()}


def _inputs(
    world: World, rerankers: Mapping[str, Reranker], trial: Trial, rows: Rows, candidates: int
) -> Iterator[dict[str, tuple[tuple[int, ...], bytes]]]:
    """The shape and bits of all arrays that a re-ranker could read, one query after the other."""
    for settings in {reranker.settings: None for reranker in rerankers.values()}:
        for row in rows.tolist():
            arrays = world.graph(trial, row, settings, candidates=candidates)[1].arrays
            yield {name: (array.shape, array.tobytes()) for name, array in arrays.items()}
