from __future__ import annotations

import numpy as np
import pytest

from radrank.core.errors import InvalidQuery
from radrank.core.ports import IndexFactory
from radrank.core.studies import Modality
from radrank.core.vectors import exact_neighbours, unit
from radrank.engines.index import INDEXES, HnswFactory, HnswSettings, index_factory


def unit_rows(count: int, seed: int = 0) -> np.ndarray:
    return unit(np.random.default_rng(seed).normal(size=(count, 24)))


VECTORS, QUERIES = unit_rows(1500), unit_rows(40, seed=1)


@pytest.fixture(params=list(INDEXES))
def factory(request) -> IndexFactory:
    return index_factory(request.param)


def test_it_finds_what_a_full_scan_finds(factory):
    rows, cosines = factory.build(VECTORS).search(QUERIES, 20)
    expected, _ = exact_neighbours(QUERIES, VECTORS, 20)
    shared = np.mean([len(set(a) & set(b)) / 20 for a, b in zip(rows.tolist(), expected.tolist(), strict=True)])
    assert shared > 0.99
    np.testing.assert_allclose(cosines, np.take_along_axis(QUERIES @ VECTORS.T, rows, axis=1), atol=1e-6)
    assert (np.diff(cosines) <= 0).all()
    assert (rows.dtype, cosines.dtype) == (np.int64, np.float32)


def test_a_small_graph_and_a_short_search_miss_some():
    """The measure above can tell a poor index."""
    poor = HnswFactory(HnswSettings(m=2, ef_construction=4, ef=20)).build(VECTORS)
    expected, _ = exact_neighbours(QUERIES, VECTORS, 20)
    found = poor.search(QUERIES, 20)[0]
    assert np.mean([len(set(a) & set(b)) / 20 for a, b in zip(found.tolist(), expected.tolist(), strict=True)]) < 0.95


def test_it_comes_back_from_its_file(factory, tmp_path):
    index = factory.build(VECTORS)
    factory.save(index, tmp_path / "index.bin")
    loaded = factory.load(tmp_path / "index.bin", VECTORS)
    assert len(loaded) == len(index) == 1500
    for before, after in zip(index.search(QUERIES, 10), loaded.search(QUERIES, 10), strict=True):
        assert np.array_equal(before, after)


def test_two_builds_are_the_same_to_the_last_byte(factory, tmp_path):
    for name in ("one", "two"):
        factory.save(factory.build(VECTORS), tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_query_alone_and_among_many_finds_the_same(factory):
    index = factory.build(VECTORS)
    together = index.search(QUERIES, 10)[0]
    assert all(
        np.array_equal(index.search(query[None], 10)[0][0], rows) for query, rows in zip(QUERIES, together, strict=True)
    )


def test_more_than_there_is_gives_all_there_is(factory):
    rows, cosines = factory.build(VECTORS[:7]).search(QUERIES, 50)
    assert rows.shape == cosines.shape == (40, 7)
    assert (np.sort(rows, axis=1) == np.arange(7)).all()


def test_more_than_a_search_keeps_in_view_is_still_found(factory):
    rows, _ = factory.build(VECTORS).search(QUERIES[:3], 1200)
    assert all(len(set(found)) == 1200 for found in rows.tolist())


def test_a_graph_that_cannot_be_walked_is_scanned():
    """Of copies of one vector, hnswlib links so few that it can't reach k of them."""
    same = np.repeat(unit_rows(1), 400, axis=0)
    rows, _ = HnswFactory(HnswSettings(m=2, ef_construction=2, ef=2)).build(same).search(same[:1], 400)
    assert rows.tolist() == [list(range(400))]


def test_a_scan_for_one_query_of_many_leaves_the_others_to_the_graph(monkeypatch):
    index = HnswFactory(HnswSettings(ef=20)).build(VECTORS)
    search = index._index.knn_query

    class Unreachable:
        def knn_query(self, queries, **wanted):
            if QUERIES[3] in queries:
                raise RuntimeError("Cannot return the results in a contiguous 2D array.")
            return search(queries, **wanted)

    expected, found = exact_neighbours(QUERIES, VECTORS, 20)[0], index.search(QUERIES, 20)[0]
    monkeypatch.setattr(index, "_index", Unreachable())
    now = index.search(QUERIES, 20)[0]
    assert not np.array_equal(expected[3], found[3])
    assert np.array_equal(now[3], expected[3])
    assert np.array_equal(np.delete(now, 3, axis=0), np.delete(found, 3, axis=0))


def test_an_empty_index_finds_nothing(factory, tmp_path):
    index = factory.build(VECTORS[:0])
    factory.save(index, tmp_path / "index.bin")
    for empty in (index, factory.load(tmp_path / "index.bin", VECTORS[:0])):
        assert len(empty) == 0
        assert empty.search(QUERIES, 5)[0].shape == (40, 0)


def test_no_query_finds_nothing(factory):
    assert factory.build(VECTORS).search(QUERIES[:0], 5)[1].shape == (0, 5)


def test_ties_come_by_row(factory):
    repeated = np.concatenate([VECTORS[:5], VECTORS[:5], VECTORS[:5]])
    rows, cosines = factory.build(repeated).search(VECTORS[2:3], 3)
    np.testing.assert_allclose(cosines, 1.0, atol=1e-6)
    assert rows.tolist() == [[2, 7, 12]]


def test_a_build_tells_how_far_it_is(factory):
    told: list[tuple[int, int]] = []
    factory.build(VECTORS, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (1500, 1500)


def test_an_unknown_index_is_answered_with_those_there_are():
    with pytest.raises(InvalidQuery, match="hnsw, exact"):
        index_factory("faiss")


def share_found(index, source: Modality | None) -> float:
    """Of the 20 nearest, as queries of this modality find them."""
    expected, _ = exact_neighbours(QUERIES, VECTORS, 20)
    found = index.search(QUERIES, 20, source=source)[0]
    return float(np.mean([len(set(a) & set(b)) / 20 for a, b in zip(found.tolist(), expected.tolist(), strict=True)]))


def test_each_direction_looks_as_far_as_it_is_told_to(tmp_path):
    short = HnswSettings(m=4, ef_construction=20, ef=20)
    HnswFactory(short).save(HnswFactory(short).build(VECTORS), tmp_path / "index.bin")
    efs = {(Modality.IMAGE, Modality.REPORT): 400, (Modality.REPORT, Modality.IMAGE): 20}
    reports = HnswFactory(short, efs=efs, asked=20).load(tmp_path / "index.bin", VECTORS, target=Modality.REPORT)
    assert share_found(reports, Modality.IMAGE) > 0.95
    # What no direction is named for looks as far as the settings say.
    assert share_found(reports, Modality.REPORT) == share_found(reports, None) < 0.9
    images = HnswFactory(short, efs=efs, asked=20).load(tmp_path / "index.bin", VECTORS, target=Modality.IMAGE)
    assert share_found(images, Modality.IMAGE) == share_found(images, Modality.REPORT) < 0.9


def test_few_rows_are_asked_of_a_shorter_look(monkeypatch):
    index = HnswFactory(HnswSettings(ef=500)).build(VECTORS)
    seen = []
    monkeypatch.setattr(
        index, "_block", lambda queries, k, in_view: seen.append(in_view) or exact_neighbours(queries, VECTORS, k)
    )
    for k in (200, 100, 50, 16, 1):
        index.search(QUERIES, k)
    assert seen == [500, 500, 250, 80, 64]


def test_looking_further_gives_the_best_of_what_it_saw():
    index = HnswFactory().build(VECTORS)
    rows, cosines = index.looking_at(600).search(QUERIES, 5)
    best, best_cosines = index.looking_at(600).search(QUERIES, 600)
    assert np.array_equal(rows, best[:, :5])
    np.testing.assert_allclose(cosines, best_cosines[:, :5], atol=1e-6)


def test_a_wider_look_leaves_the_other_searches_of_the_graph_alone():
    index = HnswFactory(HnswSettings(m=4, ef_construction=20, ef=20)).build(VECTORS)
    before = index.search(QUERIES, 20)[0]
    index.looking_at(1_000).search(QUERIES, 20)
    assert np.array_equal(index.search(QUERIES, 20)[0], before)


def test_looking_past_the_last_row_finds_all_there_is():
    rows, _ = HnswFactory(HnswSettings(ef=500)).build(VECTORS[:9]).search(QUERIES, 3)
    assert np.array_equal(rows, exact_neighbours(QUERIES, VECTORS[:9], 3)[0])


def test_several_threads_find_the_same(tmp_path):
    factory = HnswFactory()
    factory.save(factory.build(VECTORS), tmp_path / "index.bin")
    alone, together = (HnswFactory(threads=n).load(tmp_path / "index.bin", VECTORS) for n in (1, 3))
    assert np.array_equal(alone.search(QUERIES, 10)[0], together.search(QUERIES, 10)[0])


def test_the_name_tells_what_the_file_depends_on():
    assert HnswFactory(HnswSettings(m=16)).name == "hnsw m=16 ef_construction=200"
    assert HnswFactory(HnswSettings(ef=10)).name == HnswFactory().name  # ef is of the search
