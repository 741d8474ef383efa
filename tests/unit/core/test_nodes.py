from __future__ import annotations

import numpy as np
import pytest

from radrank.core.nodes import (
    Column,
    exact_gallery,
    exact_nodes,
    first_kept,
    neighbour_table,
    paired_rows,
)
from radrank.core.studies import Modality
from radrank.core.vectors import unit

IMAGE, REPORT = Modality.IMAGE, Modality.REPORT


def i32(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int32)


def f32(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def test_a_column_takes_from_its_base_and_from_its_fresh_rows():
    column = Column(np.array([[1, 1], [2, 2]]), np.array([[3, 3]]))
    assert (len(column), column.width) == (3, 2)
    assert column.take(np.array([2, 0])).tolist() == [[3, 3], [1, 1]]
    assert column.take(np.array([[1, 2], [2, 1]])).tolist() == [[[2, 2], [3, 3]], [[3, 3], [2, 2]]]
    assert Column(column.base).take(np.array([1])).tolist() == [[2, 2]]


def test_first_kept_closes_gaps_in_order():
    rows, values = np.array([[4, 5, 6, 7]]), f32(0.9, 0.8, 0.7, 0.6)[None]
    kept = first_kept(rows, values, np.array([[False, True, False, True]]), 2)
    assert kept[0].tolist() == [[5, 7]]
    assert kept[1].tolist() == [f32(0.8, 0.6).tolist()]


def test_first_kept_fills_up_with_nothing():
    rows, values, keep = np.array([[4, 5]]), f32(0.9, 0.8)[None], np.array([[False, True]])
    assert [part.tolist() for part in first_kept(rows, values, keep, 3)] == [[[5, -1, -1]], [[f32(0.8)[0], 0.0, 0.0]]]
    none = first_kept(np.empty((2, 0), np.int64), np.empty((2, 0), np.float32), np.empty((2, 0), bool), 2)
    assert none[0].tolist() == [[-1, -1], [-1, -1]]


def test_first_kept_keeps_all_where_all_are_kept():
    rows, values = np.array([[4, 5, 6]]), f32(0.9, 0.8, 0.7)[None]
    assert first_kept(rows, values, np.ones((1, 3), bool), 2)[0].tolist() == [[4, 5]]


def test_a_neighbour_table_drops_the_own_study():
    rows = np.array([[0, 1, 2, 3], [2, 3, 0, 1]])
    cosines = np.array([[0.9, 0.8, 0.7, 0.6]] * 2, np.float32)
    found, weights = neighbour_table(rows, cosines, i32(7, 8), i32(7, 7, 8, 9), 2)
    assert found.tolist() == [[2, 3], [3, 0]]
    np.testing.assert_array_equal(weights, f32(0.7, 0.6, 0.8, 0.7).reshape(2, 2))
    assert (found.dtype, weights.dtype) == (np.int32, np.float32)


def test_a_neighbour_table_of_nothing_is_padding():
    nothing = np.empty((2, 0), np.int64), np.empty((2, 0), np.float32)
    assert neighbour_table(*nothing, i32(7, 8), i32(), 2)[0].tolist() == [[-1, -1], [-1, -1]]


def test_paired_rows_are_those_of_the_same_study():
    reports, images = i32(5, 3, 9), i32(3, 5, 3, 3)
    assert paired_rows(reports, images, 2).tolist() == [[1, -1], [0, 2], [-1, -1]]
    assert paired_rows(images, reports, 1).tolist() == [[1], [0], [1], [1]]
    assert paired_rows(reports, i32(), 2).tolist() == [[-1, -1]] * 3


@pytest.fixture(scope="module")
def world():
    rng = np.random.default_rng(0)
    studies = {IMAGE: np.sort(rng.integers(0, 12, 30)).astype(np.int32), REPORT: np.arange(12, dtype=np.int32)}
    vectors = {m: unit(rng.normal(size=(len(studies[m]), 8))) for m in Modality}
    normal = {m: np.where(studies[m] % 2, 1, -1).astype(np.int8) for m in Modality}
    return exact_nodes(vectors=vectors, studies=studies, normal=normal, width=5, pairs=3)


@pytest.mark.parametrize("m", list(Modality))
@pytest.mark.parametrize("among", list(Modality))
def test_exact_tables_hold_the_nearest_of_other_studies(world, m, among):
    table = world[m].same if m is among else world[m].cross
    cosines = world[m].vectors.base @ world[among].vectors.base.T
    for row, own in enumerate(world[m].study):
        others = [j for j in np.argsort(-cosines[row], kind="stable") if world[among].study[j] != own]
        assert table.rows.base[row].tolist() == others[:5]
        np.testing.assert_allclose(table.cosines.base[row], cosines[row, others[:5]], atol=1e-6)


def test_a_gallery_brings_neighbours_in_the_archive_but_neither_pairs_nor_labels(world):
    rng = np.random.default_rng(1)
    own = np.arange(100, 104, dtype=np.int32)
    vectors = {m: unit(rng.normal(size=(4, 8))) for m in Modality}
    gallery = exact_gallery(vectors=vectors, studies=dict.fromkeys(Modality, own), archive=world, width=5)
    for m in Modality:
        assert (gallery[m].pairs.base == -1).all()
        assert not gallery[m].normal.any()
        assert np.array_equal(gallery[m].cross.rows.base[:, 0], (vectors[m] @ world[m.other].vectors.base.T).argmax(1))
