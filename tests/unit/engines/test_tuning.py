from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from radrank.core.vectors import exact_neighbours, unit
from radrank.engines import tuning
from radrank.engines.index import HnswFactory, HnswSettings
from radrank.engines.tuning import kth_cosines, recall_of, rungs, smallest_ef, steps

RNG = np.random.default_rng(0)
GALLERY, QUERIES = unit(RNG.normal(size=(3_000, 24))), unit(RNG.normal(size=(60, 24)))
INDEX = HnswFactory(HnswSettings(m=5, ef_construction=30)).build(GALLERY)


def recall_at(ef: int, k: int = 10) -> float:
    return recall_of(INDEX.looking_at(ef).search(QUERIES, k)[1], kth_cosines(QUERIES, GALLERY, k))


def test_the_ef_it_finds_suffices_and_the_one_below_does_not():
    found = smallest_ef(INDEX, QUERIES, GALLERY, before=10, k=10, recall=0.9)
    ladder = rungs(len(GALLERY), 10)
    below = ladder[ladder.index(found.after.ef) - 1]
    assert found.suffices
    assert found.after.recall == recall_at(found.after.ef) >= 0.9 > recall_at(below)
    assert (found.before.ef, found.before.recall) == (10, recall_at(10))
    assert found.before.recall < 0.9
    assert 0 < found.after.p50 <= found.after.p99


def test_where_the_first_suffices_it_is_taken():
    assert smallest_ef(INDEX, QUERIES, GALLERY, before=256, k=10, recall=0.05).after.ef == 10


def test_where_none_suffices_the_largest_is_taken_and_said_to_fall_short(monkeypatch):
    monkeypatch.setattr(tuning, "_MOST", 20)
    found = smallest_ef(INDEX, QUERIES, GALLERY, before=256, k=10, recall=0.99)
    assert (found.after.ef, found.suffices) == (20, False)
    assert found.after.recall == recall_at(20) < 0.99


def test_it_tells_its_steps_never_more_often_than_it_says():
    told: list[None] = []
    smallest_ef(INDEX, QUERIES, GALLERY, before=256, k=10, recall=0.9, step=lambda: told.append(None))
    assert 3 <= len(told) <= steps(len(GALLERY), 10)


def test_values_of_ef_rise_by_a_tenth_from_k_to_all_rows_or_the_most():
    ladder = rungs(1_000_000, 100)
    assert (ladder[0], ladder[-1]) == (100, 4_096)
    assert all(a < b <= a * 1.1 + 1 for a, b in pairwise(ladder))
    assert rungs(150, 100)[-1] == 150
    assert rungs(40, 100) == [40]


def test_edges_are_the_last_cosines_of_the_exact_result():
    for k in (1, 10, 3_000, 5_000):
        np.testing.assert_allclose(
            kth_cosines(QUERIES, GALLERY, k), exact_neighbours(QUERIES, GALLERY, k)[1][:, -1], atol=1e-6
        )


@pytest.mark.parametrize(("cosines", "recall"), [([[0.9, 0.5]], 1.0), ([[0.9, 0.4]], 0.5), ([[0.3, 0.2]], 0.0)])
def test_recall_counts_by_cosine_so_that_one_of_equals_is_as_good_as_another(cosines, recall):
    assert recall_of(np.array(cosines, np.float32), np.array([0.5], np.float32)) == recall
