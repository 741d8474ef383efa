from __future__ import annotations

import numpy as np
import pytest

from radrank.core import vectors
from radrank.core.vectors import best_first, exact_neighbours, fused, fused_by_study, top_k, unit


def unit_rows(count: int, seed: int = 0) -> np.ndarray:
    return unit(np.random.default_rng(seed).normal(size=(count, 16)))


def test_unit_scales_the_last_axis_and_keeps_zero():
    found = unit(np.array([[3.0, 4.0], [0.0, 0.0]]))
    np.testing.assert_allclose(found, [[0.6, 0.8], [0.0, 0.0]])
    assert found.dtype == np.float32


@pytest.mark.parametrize("length", [1e-30, 1e30])
def test_very_short_and_very_long_vectors_have_a_direction(length):
    np.testing.assert_allclose(unit(np.array([3.0, 4.0], np.float32) * np.float32(length)), [0.6, 0.8], rtol=1e-6)


def test_several_vectors_are_fused_into_the_direction_of_their_sum():
    rows = unit_rows(3)
    together = fused(rows)
    assert (together.shape, together.dtype) == ((16,), np.float32)
    np.testing.assert_allclose(together, unit(rows.sum(axis=0)), atol=1e-6)
    np.testing.assert_allclose(fused(rows[:1]), rows[0], atol=1e-7)


def test_the_first_stands_for_vectors_that_cancel_out():
    row = unit_rows(1)[0]
    np.testing.assert_allclose(fused(np.stack([row, -row])), row, atol=1e-7)


def test_items_are_fused_by_study_whatever_their_order():
    rows, study = unit_rows(6), np.array([4, 2, 4, 7, 2, 4])
    together = fused_by_study(rows, study, np.array([4, 2]))
    np.testing.assert_array_equal(together, [fused(rows[[0, 2, 5]]), fused(rows[[1, 4]])])


def test_top_k_comes_best_first():
    assert top_k(np.array([0.1, 0.9, 0.5, 0.7], np.float32), 3).tolist() == [1, 3, 2]


def test_ties_come_by_index_within_the_answer_and_at_its_edge():
    scores = np.array([[5, 7, 5, 7, 5, 1], [1, 1, 1, 1, 1, 1]], np.float32)
    assert top_k(scores, 4).tolist() == [[1, 3, 0, 2], [0, 1, 2, 3]]
    assert top_k(scores, 6).tolist() == [[1, 3, 0, 2, 4, 5], [0, 1, 2, 3, 4, 5]]


def test_both_zeros_are_one_number_and_what_is_below_them_comes_after():
    scores = np.array([[0.0, -0.0, 1e-30, -1e-30, 0.0, -2.0, -1.0]], np.float32)
    assert top_k(scores, 7).tolist() == [[2, 0, 1, 4, 3, 6, 5]]


def test_more_than_there_is_gives_all_there_is():
    assert top_k(np.array([1, 2], np.float32), 9).tolist() == [1, 0]


@pytest.mark.parametrize("seed", range(5))
def test_top_k_is_the_head_of_a_stable_sort(seed):
    scores = np.random.default_rng(seed).integers(0, 6, size=(20, 30)).astype(np.float32)
    for k in (1, 7, 29, 30):
        assert np.array_equal(top_k(scores, k), np.argsort(-scores, axis=1, kind="stable")[:, :k])


def test_rows_come_best_first_and_ties_by_row():
    rows, cosines = best_first(np.array([7, 2, 5, 1]), np.array([0.5, 0.9, 0.5, -0.1], np.float32))
    assert rows.tolist() == [2, 5, 7, 1]
    assert cosines.tolist() == np.array([0.9, 0.5, 0.5, -0.1], np.float32).tolist()


@pytest.mark.parametrize("block_bytes", [64 << 20, 1 << 10])
def test_exact_neighbours_are_those_of_brute_force(monkeypatch, block_bytes):
    monkeypatch.setattr(vectors, "_BLOCK_BYTES", block_bytes)
    queries, gallery = unit_rows(23), unit_rows(50, seed=1)
    rows, cosines = exact_neighbours(queries, gallery, 7)
    expected = queries.astype(np.float64) @ gallery.T.astype(np.float64)
    assert np.array_equal(rows, np.argsort(-expected, axis=1)[:, :7])
    np.testing.assert_allclose(cosines, -np.sort(-expected, axis=1)[:, :7], atol=1e-6)
    assert (rows.dtype, cosines.dtype) == (np.int64, np.float32)


def test_a_small_or_empty_gallery_gives_what_it_has():
    assert exact_neighbours(unit_rows(3), unit_rows(2), 5)[0].shape == (3, 2)
    assert exact_neighbours(unit_rows(3), unit_rows(0), 5)[0].shape == (3, 0)
    assert exact_neighbours(unit_rows(0), unit_rows(2), 5)[1].shape == (0, 2)
