from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest

from helpers.doubles import (
    DIMENSIONS,
    SETTINGS,
    DoubleBundle,
    HashingEncoder,
    NeighbourReranker,
    picture,
    ranker_of,
    record,
    snapshot_of,
    study,
)
from radrank.core.archive import Archive
from radrank.core.errors import DeadlineTooShort, InvalidQuery, NotFound, Overloaded, Unavailable
from radrank.core.filters import Filters
from radrank.core.ranking import OFF, ImageQuery, SearchQuery, StudyQuery, TextQuery, VectorQuery
from radrank.core.studies import Modality, View
from radrank.core.timing import Deadline
from radrank.core.view import View as ArchiveView
from radrank.datasets import pixels

ENCODER = "e" * 64
STUDIES = [
    study(
        n,
        images=2 if n % 4 == 0 else 1,
        patient_id=f"P{n // 2}" if n < 20 else "",
        normal=bool(n % 2),
        labels=() if n % 2 else ("opacity",),
    )
    for n in range(30)
]


@pytest.fixture(scope="module")
def view(tmp_path_factory):
    home = tmp_path_factory.mktemp("ranking")
    archive = Archive(home / "archive.sqlite")
    archive.upsert([record(one) for one in STUDIES[:24]], encoder=ENCODER)
    view = ArchiveView.of(snapshot_of(home / "snapshots", archive), SETTINGS)
    archive.close()
    return view.with_changes([record(one) for one in STUDIES[24:]], [], 2)


@pytest.fixture(scope="module")
def ranker(view):
    return ranker_of(view)


def image_query(number: int) -> ImageQuery:
    return ImageQuery(pixels=pixels.load(STUDIES[number].images[0].read(), 32))


EACH_KIND = [
    image_query(5),
    TextQuery(text="finding1"),
    StudyQuery(study_id="S0026"),
    VectorQuery(vector=np.ones(DIMENSIONS, np.float32)),
]


@pytest.mark.parametrize("number", [3, 27])
def test_the_same_image_comes_first(ranker, number):
    ranking = ranker.search(SearchQuery(content=image_query(number), target=Modality.IMAGE, k=3))
    assert ranking.hits[0].study_id == STUDIES[number].study_id
    assert ranking.hits[0].cosine == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("number", [3, 27])
def test_the_same_words_come_first(ranker, number):
    ranking = ranker.search(
        SearchQuery(content=TextQuery(text=STUDIES[number].report), target=Modality.REPORT, reranker=OFF)
    )
    assert ranking.hits[0].study_id == STUDIES[number].study_id


def test_without_a_target_the_other_modality_is_ranked(ranker):
    assert ranker.search(SearchQuery(content=image_query(1))).target is Modality.REPORT
    assert ranker.search(SearchQuery(content=TextQuery(text="opacity"))).target is Modality.IMAGE


@pytest.mark.parametrize("target", list(Modality))
@pytest.mark.parametrize("content", EACH_KIND)
def test_a_reranker_that_adds_nothing_changes_nothing(ranker, content, target):
    plain = ranker.search(SearchQuery(content=content, target=target, reranker="plain"))
    off = ranker.search(SearchQuery(content=content, target=target, reranker=OFF))
    assert [hit.study_id for hit in plain.hits] == [hit.study_id for hit in off.hits]
    assert (off.reranker_manifest, off.times.graph) == (None, 0)


def test_reranking_moves_hits_and_tells_both_ranks(ranker):
    hits = ranker.search(SearchQuery(content=TextQuery(text="finding1 sign2"), target=Modality.REPORT, k=30)).hits
    assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
    assert sorted(hit.candidate_rank for hit in hits) == list(range(1, len(hits) + 1))
    assert [hit.candidate_rank for hit in hits] != [hit.rank for hit in hits]
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_equal_scores_are_ordered_by_id(tmp_path):
    archive = Archive(tmp_path / "archive.sqlite")
    same = [study(n, images=0, report="all the same words") for n in (5, 1, 9, 3)]
    archive.upsert([record(one) for one in same], encoder=ENCODER)
    view = ArchiveView.of(snapshot_of(tmp_path / "s", archive), SETTINGS)
    archive.close()
    content = TextQuery(text="all the same words")
    hits = ranker_of(view).search(SearchQuery(content=content, target=Modality.REPORT, reranker=OFF)).hits
    assert [hit.study_id for hit in hits] == ["S0001", "S0003", "S0005", "S0009"]


def test_a_study_is_never_its_own_hit(ranker):
    for target in Modality:
        hits = ranker.search(SearchQuery(content=StudyQuery(study_id="S0004"), target=target, k=100)).hits
        assert len(hits) == 29
        assert "S0004" not in {hit.study_id for hit in hits}


def test_excluded_studies_are_left_out_and_unknown_ones_ignored(ranker):
    query = SearchQuery(content=TextQuery(text="finding1"), k=100, exclude=("S0001", "S0025", "unknown"))
    assert len({hit.study_id for hit in ranker.search(query).hits} & {"S0001", "S0025"}) == 0


def test_each_patient_comes_once_and_studies_without_one_all(ranker):
    hits = ranker.search(SearchQuery(content=TextQuery(text="finding1"), k=100, one_per_patient=True)).hits
    patients = [STUDIES[int(hit.study_id[1:])].patient_id for hit in hits]
    assert len(hits) == 20
    assert len({patient for patient in patients if patient}) == patients.count("") == 10


def test_filters_narrow_the_hits(ranker):
    query = SearchQuery(content=TextQuery(text="finding1"), k=100, filters=Filters(normal=True))
    assert {int(hit.study_id[1:]) % 2 for hit in ranker.search(query).hits} == {1}
    none = SearchQuery(content=TextQuery(text="finding1"), filters=Filters(views=frozenset({View.AP})))
    assert ranker.search(none).hits == ()


def test_a_vector_of_any_length_asks_like_its_unit_vector(ranker):
    vector = np.random.default_rng(0).normal(size=DIMENSIONS).astype(np.float32)
    hits = [ranker.search(SearchQuery(content=VectorQuery(vector=vector * s))).hits for s in (1.0, 1e-20, 1e20)]
    assert [[hit.study_id for hit in found] for found in hits[1:]] == [[hit.study_id for hit in hits[0]]] * 2


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"k": 0}, "k"),
        ({"k": 1001}, "k"),
        ({"k": 20, "candidates": 10}, "candidates"),
        ({"candidates": 1001}, "candidates"),
        ({"reranker": "best"}, "reranker"),
        ({"content": TextQuery(text=" \n")}, "text"),
        ({"content": VectorQuery(vector=np.ones(DIMENSIONS - 1, np.float32))}, "embedding"),
        ({"content": VectorQuery(vector=np.zeros(DIMENSIONS, np.float32))}, "embedding"),
        ({"content": VectorQuery(vector=np.full(DIMENSIONS, np.nan, np.float32))}, "embedding"),
        ({"content": VectorQuery(vector=np.full(DIMENSIONS, np.inf, np.float32))}, "embedding"),
    ],
)
def test_what_is_wrong_is_named(ranker, change, field):
    with pytest.raises(InvalidQuery) as caught:
        ranker.search(SearchQuery(**({"content": TextQuery(text="x")} | change)))
    assert caught.value.field == field


def test_an_unknown_reranker_is_answered_with_those_that_exist(ranker):
    with pytest.raises(InvalidQuery, match="plain, sage, off"):
        ranker.search(SearchQuery(content=TextQuery(text="x"), reranker="best"))


def test_an_unknown_study_is_not_found(ranker):
    with pytest.raises(NotFound) as caught:
        ranker.search(SearchQuery(content=StudyQuery(study_id="S9999")))
    assert "S9999" not in str(caught.value)


def test_screening_asks_the_classifier_and_the_neighbours(ranker):
    screening = ranker.screen(TextQuery(text=STUDIES[2].report), k=1)
    assert 0 < screening.abnormal < 1
    assert (screening.vote, screening.voters) == (1.0, 1)
    assert ranker.screen(StudyQuery(study_id="S0002"), k=100).voters == 29


def test_an_empty_archive_answers_with_nothing(tmp_path):
    archive = Archive(tmp_path / "archive.sqlite")
    ranker = ranker_of(ArchiveView.of(snapshot_of(tmp_path / "s", archive), SETTINGS))
    archive.close()
    for target in Modality:
        assert ranker.search(SearchQuery(content=TextQuery(text="x"), target=target)).hits == ()
    assert ranker.screen(TextQuery(text="x")).voters == 0


def test_threads_get_the_answers_of_one_thread(view):
    from concurrent.futures import ThreadPoolExecutor

    ranker = ranker_of(view, DoubleBundle())
    asked = [SearchQuery(content=TextQuery(text=f"finding{n % 7} sign{n % 3}"), k=5) for n in range(60)]
    alone = [ranker.search(query).hits for query in asked]
    with ThreadPoolExecutor(6) as pool:
        assert [ranking.hits for ranking in pool.map(ranker.search, asked)] == alone


def test_pictures_differ():
    assert picture(1) != picture(2)


class Remote(NeighbourReranker):
    """Its host answers with this error, after these seconds."""

    def __init__(self, error: Exception, seconds: float = 0.0) -> None:
        super().__init__()
        self.error, self.seconds = error, seconds

    def score(self, batch):
        time.sleep(self.seconds)
        raise self.error


@pytest.mark.parametrize("error", [Unavailable("gone"), Overloaded(0.1), DeadlineTooShort(0.0)])
def test_where_the_rerankers_host_fails_the_encoders_order_comes_if_the_query_allows_it(view, error):
    ranker = ranker_of(view, DoubleBundle(rerankers={"sage": Remote(error)}))
    asked = SearchQuery(content=image_query(3), deadline=Deadline(5.0))
    degraded, plain = (ranker.search(replace(asked, **how)) for how in ({"may_degrade": True}, {"reranker": OFF}))
    assert (degraded.degraded, degraded.hits) == (True, plain.hits)
    with pytest.raises(type(error)):
        ranker.search(asked)


def test_with_no_time_left_nothing_is_degraded(view):
    ranker = ranker_of(view, DoubleBundle(rerankers={"sage": Remote(DeadlineTooShort(0.0), seconds=0.2)}))
    with pytest.raises(DeadlineTooShort):
        ranker.search(SearchQuery(content=image_query(3), deadline=Deadline(0.1), may_degrade=True))


@pytest.fixture
def unsearched(view, monkeypatch):
    """A ranker that must not look for candidates."""

    def nearest(*_given, **_named):
        raise AssertionError("candidates were looked for")

    monkeypatch.setattr(ArchiveView, "nearest", nearest)
    return ranker_of(view)


@pytest.mark.parametrize("content", EACH_KIND)
def test_what_asks_with_a_deadline_that_has_passed_is_not_computed(unsearched, content):
    for how in ({}, {"reranker": OFF}, {"may_degrade": True}):
        with pytest.raises(DeadlineTooShort):
            unsearched.search(SearchQuery(content=content, deadline=Deadline(0.0), **how))
    with pytest.raises(DeadlineTooShort):
        unsearched.screen(content, deadline=Deadline(0.0))


class TimedEncoder(HashingEncoder):
    """Takes these seconds of a clock for a text."""

    def __init__(self, clock: list[float], seconds: float) -> None:
        super().__init__()
        self.clock, self.seconds = clock, seconds

    def encode_texts(self, texts):
        self.clock[0] += self.seconds
        return super().encode_texts(texts)


class TimedReranker(NeighbourReranker):
    """Takes the next of these seconds of a clock."""

    def __init__(self, clock: list[float], seconds: Iterable[float]) -> None:
        super().__init__()
        self.clock, self.seconds = clock, iter(seconds)

    def score(self, batch):
        self.clock[0] += next(self.seconds)
        return super().score(batch)


def test_a_deadline_that_passes_while_the_query_is_encoded_ends_it(unsearched, clock):
    unsearched.encoder = TimedEncoder(clock, 0.2)
    with pytest.raises(DeadlineTooShort):
        unsearched.search(SearchQuery(content=TextQuery(text="x"), reranker=OFF, deadline=Deadline(0.1)))


@pytest.mark.parametrize(("slow", "degraded"), [(10, True), (1, False)])
def test_a_reply_is_degraded_where_the_recent_p95_is_longer_than_its_deadline(view, clock, slow, degraded):
    reranker = TimedReranker(clock, [1.0] * slow + [0.01] * (101 - slow))
    ranker = ranker_of(view, DoubleBundle(rerankers={"sage": reranker}))
    asked = SearchQuery(content=StudyQuery(study_id="S0003"), may_degrade=True)
    for _ in range(100):
        assert not ranker.search(asked).degraded
    assert ranker.search(replace(asked, deadline=Deadline(0.5))).degraded is degraded
