from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from helpers.doubles import DIMENSIONS, HashingEncoder, record, study
from radrank.core.archive import Archive
from radrank.core.errors import Mismatch, NotFound

ENCODER = "e" * 64


@pytest.fixture
def archive(tmp_path: Path):
    archive = Archive(tmp_path / "home" / "archive.sqlite")
    yield archive
    archive.close()


def test_a_study_comes_back_as_it_went_in(archive):
    given = record(
        study(
            1,
            images=2,
            patient_id="P1",
            labels=("opacity",),
            uncertain=("edema",),
            normal=False,
            date=date(2150, 2, 28),
        )
    )
    assert archive.upsert([given], encoder=ENCODER) == (1, 0, 1)
    found = archive.record("S0001", previews=True)
    assert found.study == given.study
    assert np.array_equal(found.image_vectors, given.image_vectors)
    assert np.array_equal(found.report_vector, given.report_vector)


def test_a_study_without_images_or_without_a_report_is_whole(archive):
    archive.upsert([record(study(1, images=0)), record(study(2, report=""))], encoder=ENCODER)
    assert len(archive.record("S0001").image_vectors) == 0
    assert archive.record("S0002").report_vector is None


def test_an_upsert_replaces_the_whole_study(archive):
    archive.upsert([record(study(1, images=3, labels=("opacity",)))], encoder=ENCODER)
    assert archive.upsert([record(study(1, report="other")), record(study(2))], encoder=ENCODER) == (1, 1, 2)
    found = archive.record("S0001").study
    assert (found.findings, found.labels, len(found.images)) == ("other", (), 1)


def test_of_several_studies_with_one_id_the_last_stays(archive):
    twice = [record(study(1, report="first")), record(study(2)), record(study(1, report="last"))]
    assert archive.upsert(twice, encoder=ENCODER) == (2, 1, 1)
    assert archive.record("S0001").study.findings == "last"


def test_deleting_counts_what_was_there_and_leaves_a_mark(archive):
    archive.upsert([record(study(1)), record(study(2))], encoder=ENCODER)
    assert archive.delete(["S0001", "S0001", "unknown"]) == (1, 2)
    with pytest.raises(NotFound):
        archive.record("S0001")
    assert archive.changes_since(1) == ([], ["S0001"], 2)
    archive.upsert([record(study(1))], encoder=ENCODER)
    assert archive.changes_since(2)[1] == []


def test_changes_come_in_the_order_in_which_they_were_made(archive):
    for number in (3, 1, 2):
        archive.upsert([record(study(number))], encoder=ENCODER)
    changed, gone, last = archive.changes_since(1)
    assert [(sequence, found.study.study_id) for sequence, found in changed] == [(2, "S0001"), (3, "S0002")]
    assert (gone, last) == ([], 3)


def test_a_failed_upsert_changes_nothing(archive):
    archive.upsert([record(study(1))], encoder=ENCODER)
    broken = replace(record(study(2)), image_vectors=np.empty((0, DIMENSIONS), np.float32))
    with pytest.raises(ValueError, match="zip"):
        archive.upsert([record(study(1, report="new")), broken], encoder=ENCODER)
    assert archive.sequence == 1
    assert archive.record("S0001").study.findings != "new"


def test_vectors_of_two_encoders_are_never_mixed(archive):
    archive.upsert([record(study(1))], encoder=ENCODER)
    with pytest.raises(Mismatch):
        archive.upsert([record(study(2))], encoder="f" * 64)
    assert archive.counts().studies == 1


def test_replacing_vectors_keeps_everything_else(archive):
    archive.upsert([record(study(n, images=2)) for n in range(5)], encoder=ENCODER)
    other = HashingEncoder(seed=9)
    fresh = (record(found.study, other) for found in archive.records(previews=True))
    assert archive.replace_vectors(fresh, encoder="f" * 64) == 2
    assert archive.encoder == "f" * 64
    assert archive.record("S0003", previews=True).study == study(3, images=2)
    assert np.array_equal(archive.record("S0003").image_vectors, record(study(3, images=2), other).image_vectors)


def test_replacing_the_vectors_of_some_studies_only_is_refused(archive):
    archive.upsert([record(study(n)) for n in range(3)], encoder=ENCODER)
    with pytest.raises(Mismatch):
        archive.replace_vectors([record(study(0))], encoder="f" * 64)
    assert archive.encoder == ENCODER


def test_records_come_sorted_by_the_bytes_of_their_ids(archive):
    ids = ["b", "a", "B", "é", "ü", "a1"]
    archive.upsert([record(study(0, study_id=name)) for name in ids], encoder=ENCODER)
    assert [found.study.study_id for found in archive.records()] == sorted(ids, key=str.encode)


def test_image_ids_come_for_many_images_at_once(archive):
    archive.upsert([record(study(n, images=2)) for n in range(4)], encoder=ENCODER)
    asked = [("S0002", 1), ("S0000", 0), ("S0009", 0), ("S0002", 7)] * 200
    assert archive.image_ids(asked) == ["I0002-1", "I0000-0", None, None] * 200


def test_counts_know_labels_and_status(archive):
    archive.upsert(
        [
            record(study(1, labels=("edema", "opacity"), normal=False)),
            record(study(2, labels=("opacity",), normal=False, report="")),
            record(study(3, images=0, normal=True)),
        ],
        encoder=ENCODER,
    )
    counts = archive.counts()
    assert (counts.studies, counts.images, counts.reports, counts.normal, counts.abnormal) == (3, 2, 2, 1, 2)
    assert counts.labels == (("opacity", 2), ("edema", 1))


def test_an_empty_archive_counts_zero(archive):
    assert archive.counts().normal == 0
    assert (archive.sequence, archive.encoder) == (0, None)


def test_a_reopened_archive_has_everything(tmp_path):
    path = tmp_path / "archive.sqlite"
    first = Archive(path)
    first.upsert([record(study(1))], encoder=ENCODER)
    second = Archive(path)  # as after a kill: the first was never closed
    assert second.record("S0001").study.study_id == "S0001"
    first.close()
    second.close()


def test_an_archive_of_another_schema_is_refused(tmp_path):
    import sqlite3

    path = tmp_path / "archive.sqlite"
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(Mismatch, match="schema"):
        Archive(path)
