"""The leak tests hold for an honest world, and each goes red where something leaks on purpose."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from helpers.doubles import NeighbourReranker
from helpers.judging import made_collection
from radrank.core.studies import Modality, Split
from radrank.evaluation import leaks
from radrank.evaluation.leaks import COMPANY, LABELS, PAIRS, leak_tests
from radrank.evaluation.worlds import World

COLLECTION = made_collection()
TEST, TRAIN = COLLECTION.of_split(Split.TEST), COLLECTION.of_split(Split.TRAIN)
RERANKERS = {"plain": NeighbourReranker(0.0), "sage": NeighbourReranker(0.3)}


def verdict(kind=World, rerankers=RERANKERS, **options):
    world = kind(COLLECTION, gallery=TEST, archive=TRAIN)
    return leak_tests(world, rerankers, candidates=12, queries=5, **options)


class Leaky(World):
    """Its graphs tell re-rankers what they may not know: by what is believed of the candidates."""

    def graph(self, trial, row, settings, *, candidates=12):
        found, batch = super().graph(trial, row, settings, candidates=candidates)
        batch.arrays["candidate"][0, : len(found)] += self.told(trial, row)[found, None]
        return found, batch


class TellsPairs(Leaky):
    def told(self, trial, row):
        return trial.pair[row].astype(np.float32)


class TellsLabels(Leaky):
    """A report that goes to another study takes on that one's labels: pair links tell of this, too."""

    def told(self, trial, row):
        return (trial.gallery_normal == 1).astype(np.float32)


class TellsOfOthers(Leaky):
    """How near an entry is to all queries together."""

    def told(self, trial, row):
        return (self.entries[trial.source].vectors @ trial.gallery.T).mean(axis=0)


class Remembers(NeighbourReranker):
    """Scores depend on how many queries came before."""

    def __init__(self):
        super().__init__()
        self.asked = 0

    def score(self, batch):
        self.asked += 1
        return super().score(batch) + np.float32(self.asked)


def test_an_honest_world_holds():
    steps = []
    assert verdict(step=lambda: steps.append(1)) == {PAIRS: True, LABELS: True, COMPANY: True}
    assert len(steps) == 4


@pytest.mark.parametrize(
    ("leak", "red"),
    [
        (partial(verdict, TellsPairs), {PAIRS}),
        (partial(verdict, TellsLabels), {LABELS, PAIRS}),
        (partial(verdict, TellsOfOthers), {COMPANY}),
        (partial(verdict, rerankers={**RERANKERS, "odd": Remembers()}), {PAIRS, COMPANY}),
    ],
    ids=["pairs", "labels", "other queries", "memory"],
)
def test_a_leak_is_seen(leak, red):
    assert {name for name, held in leak().items() if not held} == red


def test_one_leaking_reranker_among_honest_ones_is_enough():
    blind = {"blind": NeighbourReranker(0.0)}
    assert verdict(TellsPairs, blind)[PAIRS]  # it does not read what is told
    assert not verdict(TellsPairs, {**blind, "reads": NeighbourReranker(0.1)})[PAIRS]


def test_without_rerankers_there_is_nothing_to_test():
    assert verdict(rerankers={}) == {}


def test_the_permutations_change_what_is_judged_by_and_nothing_of_the_archive():
    plain = World(COLLECTION, gallery=TEST, archive=TRAIN).trial(Modality.IMAGE, Modality.REPORT)
    for permuted, changed in (
        (leaks.with_pairs_permuted(COLLECTION, TEST), "pair"),
        (leaks.with_labels_permuted(COLLECTION, TEST), "jaccard"),
    ):
        trial = World(permuted, gallery=TEST, archive=TRAIN).trial(Modality.IMAGE, Modality.REPORT)
        assert not np.array_equal(getattr(plain, changed), getattr(trial, changed))
        np.testing.assert_array_equal(permuted.labels[TRAIN], COLLECTION.labels[TRAIN])
        for m in Modality:
            inside = np.isin(permuted.study[m], TRAIN)
            np.testing.assert_array_equal(permuted.study[m][inside], COLLECTION.study[m][inside])
