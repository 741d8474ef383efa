from __future__ import annotations

from dataclasses import replace
from datetime import date
from itertools import product

import numpy as np
import pytest

from helpers.doubles import DIMENSIONS, LAYOUT, SETTINGS, picture, record, snapshot_of, study
from radrank.core.archive import Archive
from radrank.core.columns import VIEW_CODES
from radrank.core.filters import Filters
from radrank.core.studies import Modality, StudyImage, View
from radrank.core.vectors import unit
from radrank.core.view import View as ArchiveView
from radrank.server.library import replayed

NONE = np.empty(0, dtype=np.int32)
ENCODER = "e" * 64


@pytest.fixture
def archive(tmp_path):
    archive = Archive(tmp_path / "archive.sqlite")
    yield archive
    archive.close()


@pytest.fixture
def queries():
    return unit(np.random.default_rng(3).normal(size=(8, DIMENSIONS)))


def found(view, m, query, k=10, filters=None):
    """(study id, position, cosine) of the nearest items."""
    mask = view.mask(m, filters or Filters(), NONE)
    nearest = view.nearest(m, query, k, mask)
    ids = view.ids(view.nodes[m].study[nearest.rows])
    return [
        (bytes(study_id).decode(), view.position(m, int(row))[0], round(float(cosine), 5))
        for study_id, row, cosine in zip(ids, nearest.rows, nearest.cosines, strict=True)
    ]


def truth(archive, m, query, k=10):
    """The same, from the archive's own vectors."""
    best = []
    for held in archive.records():
        images = held.study.images
        if m is Modality.IMAGE and images:
            vector = unit(held.image_vectors.sum(axis=0))
            best.append((held.study.study_id, images.index(held.study.primary_image), round(float(vector @ query), 5)))
        elif m is Modality.REPORT and held.study.report:
            best.append((held.study.study_id, 0, round(float(held.report_vector @ query), 5)))
    return sorted(best, key=lambda one: -one[2])[:k]


def seen(one, *views):
    """The study with an image of each of these views."""
    number = int(one.study_id[1:])
    images = [
        StudyImage(image_id=f"{i}", content=picture(1000 * number + i), view=View(view)) for i, view in enumerate(views)
    ]
    return replace(one, images=tuple(images))


def churn(archive, view, steps=40, seed=0):
    """Random upserts and deletions, each in the archive and in the view."""
    rng = np.random.default_rng(seed)
    for step in range(steps):
        numbers = [int(n) for n in rng.integers(0, 40, size=rng.integers(1, 4))]
        if rng.random() < 0.3:
            ids = [f"S{n:04d}" for n in numbers]
            _, sequence = archive.delete(ids)
            view = view.with_changes([], ids, sequence)
        else:
            records = [
                record(
                    seen(
                        study(n, report=f"finding{n % 5} again{step}", normal=bool(n % 2)),
                        *rng.choice(list(View), size=rng.integers(0, 4)),
                    )
                )
                for n in numbers
            ]
            _, _, sequence = archive.upsert(records, encoder=ENCODER)
            view = view.with_changes(records, [], sequence)
    return view


@pytest.mark.parametrize("held", [0, 1, 30])
@pytest.mark.parametrize("m", list(Modality))
def test_a_view_finds_what_the_archive_holds_whatever_has_changed(archive, tmp_path, queries, held, m):
    archive.upsert([record(study(n, images=n % 3)) for n in range(held)], encoder=ENCODER)
    view = ArchiveView.of(snapshot_of(tmp_path / "snapshots", archive), SETTINGS)
    for query in queries:
        assert found(view, m, query) == truth(archive, m, query)
    view = churn(archive, view)
    assert view.sequence == archive.sequence
    for query in queries:
        assert found(view, m, query) == truth(archive, m, query)


@pytest.mark.parametrize("k", [3, 30, 50], ids=["the index", "all of them", "more than there are"])
@pytest.mark.parametrize("m", list(Modality))
def test_a_snapshot_alone_is_found_best_first_by_index_and_by_scan(archive, tmp_path, queries, m, k):
    archive.upsert([record(study(n)) for n in range(30)], encoder=ENCODER)
    view = ArchiveView.of(snapshot_of(tmp_path / "snapshots", archive), SETTINGS)
    for query in queries:
        assert found(view, m, query, k=k) == truth(archive, m, query, k=k)


def test_a_replay_after_a_kill_finds_what_the_live_view_found(archive, tmp_path, queries):
    archive.upsert([record(study(n)) for n in range(30)], encoder=ENCODER)
    snapshot = snapshot_of(tmp_path / "snapshots", archive)
    live = churn(archive, ArchiveView.of(snapshot, SETTINGS))
    reopened = Archive(archive.path)
    again = replayed(ArchiveView.of(snapshot, SETTINGS), reopened)
    reopened.close()
    assert again.sequence == live.sequence
    assert again.fresh_studies == live.fresh_studies
    for m, query in product(Modality, queries):
        assert found(again, m, query) == found(live, m, query)


def test_additions_replay_to_the_very_same_neighbour_tables(archive, tmp_path):
    archive.upsert([record(study(n)) for n in range(10)], encoder=ENCODER)
    snapshot = snapshot_of(tmp_path / "snapshots", archive)
    live = ArchiveView.of(snapshot, SETTINGS)
    for n in range(10, 20):
        fresh = [record(study(n, images=2))]
        live = live.with_changes(fresh, [], archive.upsert(fresh, encoder=ENCODER)[2])
    again = replayed(ArchiveView.of(snapshot, SETTINGS), archive)
    for m in Modality:
        assert np.array_equal(again.nodes[m].same.rows.fresh, live.nodes[m].same.rows.fresh)
        assert np.array_equal(again.nodes[m].cross.rows.fresh, live.nodes[m].cross.rows.fresh)
        assert np.array_equal(again.nodes[m].facts.fresh, live.nodes[m].facts.fresh)


def test_compaction_keeps_the_results(archive, tmp_path, queries):
    archive.upsert([record(study(n)) for n in range(20)], encoder=ENCODER)
    live = churn(archive, ArchiveView.of(snapshot_of(tmp_path / "a", archive), SETTINGS))
    compacted = ArchiveView.of(snapshot_of(tmp_path / "b", archive), SETTINGS)
    assert (compacted.stale_rows, compacted.sequence) == (0, live.sequence)
    for m, query in product(Modality, queries):
        assert found(compacted, m, query) == found(live, m, query)


def test_a_replaced_study_is_found_once(archive, tmp_path):
    archive.upsert([record(study(1, report="old words"))], encoder=ENCODER)
    view = ArchiveView.of(snapshot_of(tmp_path / "snapshots", archive), SETTINGS)
    fresh = record(study(1, report="new words"))
    view = view.with_changes([fresh], [], 2)
    assert [hit[0] for hit in found(view, Modality.REPORT, fresh.report_vector)] == ["S0001"]
    assert view.fresh_studies == 1
    assert view.stale_rows == 2


def test_a_view_never_changes(archive, tmp_path, queries):
    archive.upsert([record(study(n)) for n in range(5)], encoder=ENCODER)
    view = ArchiveView.of(snapshot_of(tmp_path / "snapshots", archive), SETTINGS)
    before = found(view, Modality.IMAGE, queries[0])
    view.with_changes([record(study(9))], ["S0001"], 2)
    assert found(view, Modality.IMAGE, queries[0]) == before


SEEN = {
    "S0000": (View.LATERAL, View.PA),
    "S0001": (View.LATERAL,),
    "S0002": (View.AP, View.LATERAL, View.PA),
    "S0003": (),
    "S0004": (View.UNKNOWN, View.AP),
    "S0005": (View.FRONTAL,),
}
PRIMARY = {"S0000": (1, View.PA), "S0001": (0, View.LATERAL), "S0002": (2, View.PA), "S0004": (1, View.AP)}


@pytest.fixture(params=["in a snapshot", "fresh", "half"])
def of_views(request, archive, tmp_path):
    """A view of studies of these views, and their records."""
    records = [record(seen(study(n), *SEEN[f"S{n:04d}"])) for n in range(6)]
    held = {"in a snapshot": 6, "fresh": 0, "half": 3}[request.param]
    archive.upsert(records[:held], encoder=ENCODER)
    view = ArchiveView.of(snapshot_of(tmp_path / "snapshots", archive), SETTINGS)
    return view.with_changes(records[held:], [], 2), records


def test_all_views_of_a_study_are_one_hit(of_views, queries):
    view, records = of_views
    assert len(view.nodes[Modality.IMAGE]) == 5
    for held in records:
        row = view.item_of(Modality.IMAGE, view.find(held.study.study_id))
        assert (row is None) == (not held.study.images)
        if row is not None:
            vector = view.nodes[Modality.IMAGE].vectors.take(np.array([row]))[0]
            np.testing.assert_allclose(vector, unit(held.image_vectors.sum(axis=0)), atol=1e-6)
    hits = found(view, Modality.IMAGE, queries[0], k=50)
    assert sorted(hit[0] for hit in hits) == ["S0000", "S0001", "S0002", "S0004", "S0005"]


def test_a_hit_names_the_primary_image(of_views):
    view, _ = of_views
    for study_id, (position, shown) in PRIMARY.items():
        row = view.item_of(Modality.IMAGE, view.find(study_id))
        assert view.position(Modality.IMAGE, row) == (position, VIEW_CODES[shown])


@pytest.mark.parametrize("m", list(Modality))
@pytest.mark.parametrize("wanted", [{View.LATERAL}, {View.AP}, {View.PA, View.FRONTAL}, {View.UNKNOWN}, set(View)])
def test_a_study_passes_by_any_of_its_views(of_views, queries, m, wanted):
    view, _ = of_views
    hits = found(view, m, queries[0], k=50, filters=Filters(views=frozenset(wanted)))
    assert {hit[0] for hit in hits} == {study_id for study_id, views in SEEN.items() if wanted & set(views)}


def test_a_view_of_what_was_replaced_passes_no_filter(of_views, queries):
    view, _ = of_views
    view = view.with_changes([record(seen(study(2), View.PA))], [], 3)
    for m in Modality:
        hits = found(view, m, queries[0], k=50, filters=Filters(views=frozenset({View.AP})))
        assert {hit[0] for hit in hits} == {"S0004"}


def test_a_snapshot_and_fresh_rows_hold_the_very_same_items(archive, tmp_path):
    records = [record(seen(known(n), *SEEN[f"S{n:04d}"])) for n in range(6)]
    fresh = ArchiveView.of(snapshot_of(tmp_path / "a", archive), SETTINGS).with_changes(records, [], 1)
    archive.upsert(records, encoder=ENCODER)
    built = ArchiveView.of(snapshot_of(tmp_path / "b", archive), SETTINGS)
    for m in Modality:
        rows = np.arange(len(built.nodes[m]))
        assert np.array_equal(fresh.nodes[m].vectors.take(rows), built.nodes[m].vectors.take(rows))
        assert np.array_equal(fresh.nodes[m].study, built.nodes[m].study)
        assert [fresh.position(m, row) for row in rows] == [built.position(m, row) for row in rows]
        assert np.array_equal(fresh.nodes[m].same.rows.take(rows), built.nodes[m].same.rows.take(rows))
        assert np.array_equal(fresh.nodes[m].normal, built.nodes[m].normal)
        facts = [view.nodes[m].facts.take(rows) for view in (fresh, built)]
        assert np.array_equal(*facts)
        assert facts[0].any(axis=0).sum() > 10


FINDINGS = {0: (True, ()), 1: (False, ("edema",)), 2: (None, ("opacity", "gallstones")), 3: (None, ())}


def known(number):
    """A study whose findings are told by its number."""
    normal, labels = FINDINGS[number % 4]
    return study(number, normal=normal, labels=labels)


@pytest.mark.parametrize("held", [6, 3, 0])
def test_rows_tell_beliefs_findings_and_pairs_fresh_or_not(archive, tmp_path, held):
    records = [record(known(n)) for n in range(6)]
    archive.upsert(records[:held], encoder=ENCODER)
    view = ArchiveView.of(snapshot_of(tmp_path / "snapshots", archive), SETTINGS).with_changes(records[held:], [], 2)
    assert LAYOUT.groups == ("edema", "fracture", "opacity", "scar")
    vectors = {
        Modality.IMAGE: np.stack([one.image_item.vector for one in records]),
        Modality.REPORT: np.stack([one.report_vector for one in records]),
    }
    for m in Modality:
        own, paired, findings = np.split(view.nodes[m].facts.take(np.arange(6)), 3, axis=1)
        assert np.array_equal(own, LAYOUT.beliefs(vectors[m]))
        assert np.array_equal(paired, LAYOUT.beliefs(vectors[m.other]))
        # Of gallstones the layout has no group.
        none, normal, edema, opacity = [0, 0, 0, 0, 0], [1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 1, 0]
        assert findings.tolist() == [normal, edema, opacity, none, normal, edema]


def test_a_replaced_study_tells_what_is_known_of_it_now(archive, tmp_path):
    archive.upsert([record(known(n)) for n in range(3)], encoder=ENCODER)
    view = ArchiveView.of(snapshot_of(tmp_path / "snapshots", archive), SETTINGS)
    late = record(study(1, report="wholly other words", normal=None, labels=("scar",)))
    view = view.with_changes([late], [], 2).with_changes([record(study(7, images=0))], [], 3)
    images, reports = view.nodes[Modality.IMAGE], view.nodes[Modality.REPORT]
    assert view.item_of(Modality.REPORT, view.find("S0001")) == 3
    assert reports.alive.tolist() == [True, False, True, True, True]
    image, report, scar = LAYOUT.beliefs(late.image_item.vector), LAYOUT.beliefs(late.report_vector), [0, 0, 0, 0, 1]
    assert np.array_equal(images.facts.take(np.array([3]))[0], np.concatenate([image, report, scar], dtype=np.float32))
    told, lonely = reports.facts.take(np.array([3, 4]))
    assert np.array_equal(told, np.concatenate([report, image, scar], dtype=np.float32))
    assert not lonely[5:10].any()


@pytest.fixture
def varied(archive, tmp_path):
    """Studies 0 to 11; the even in the snapshot, the odd fresh."""
    made = [
        study(
            n,
            view=View.LATERAL if n % 4 == 0 else View.PA,
            labels=("opacity",) if n % 3 == 0 else ("edema", "opacity") if n % 3 == 1 else (),
            normal={0: True, 1: False, 2: None}[n % 3],
            date=date(2020, 1, n) if n else None,
        )
        for n in range(12)
    ]
    archive.upsert([record(one) for one in made if int(one.study_id[1:]) % 2 == 0], encoder=ENCODER)
    view = ArchiveView.of(snapshot_of(tmp_path / "snapshots", archive), SETTINGS)
    return made, view.with_changes([record(one) for one in made if int(one.study_id[1:]) % 2], [], 2)


@pytest.mark.parametrize("m", list(Modality))
@pytest.mark.parametrize(
    ("filters", "passes"),
    [
        (Filters(views=frozenset({View.LATERAL})), lambda s: s.images[0].view is View.LATERAL),
        (Filters(views=frozenset({View.LATERAL, View.PA})), lambda s: True),
        (Filters(labels_any=frozenset({"edema", "nothing"})), lambda s: "edema" in s.labels),
        (Filters(labels_all=frozenset({"edema", "opacity"})), lambda s: len(s.labels) == 2),
        (Filters(labels_all=frozenset({"edema", "nothing"})), lambda s: False),
        (Filters(normal=True), lambda s: s.normal is True),
        (Filters(normal=False), lambda s: s.normal is False),
        (Filters(since=date(2020, 1, 4)), lambda s: s.date and s.date.day >= 4),
        (Filters(until=date(2020, 1, 4)), lambda s: s.date and s.date.day <= 4),
        (
            Filters(since=date(2020, 1, 2), until=date(2020, 1, 9), normal=False),
            lambda s: s.date and 2 <= s.date.day <= 9 and s.normal is False,
        ),
    ],
)
def test_filters_let_pass_what_they_say_fresh_or_not(varied, queries, m, filters, passes):
    made, view = varied
    wanted = {one.study_id for one in made if passes(one)}
    assert {hit[0] for hit in found(view, m, queries[0], k=50, filters=filters)} == wanted


def test_excluded_studies_are_not_found(varied, queries):
    _, view = varied
    excluded = np.array([view.find("S0003"), view.find("S0004")], dtype=np.int32)
    nearest = view.nearest(Modality.IMAGE, queries[0], 50, view.mask(Modality.IMAGE, Filters(), excluded))
    ids = {bytes(one).decode() for one in view.ids(view.nodes[Modality.IMAGE].study[nearest.rows])}
    assert len(ids) == 10
    assert not ids & {"S0003", "S0004"}


def test_unknown_and_deleted_studies_are_not_there(varied):
    _, view = varied
    assert view.find("S0003") is not None
    assert view.find("S000") is None
    assert view.find("S0003" + "x" * 300) is None
    gone = view.with_changes([], ["S0002", "S0003", "unknown"], 3)
    assert gone.find("S0002") is gone.find("S0003") is None
