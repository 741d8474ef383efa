from __future__ import annotations

import json

import numpy as np
import pytest

from helpers.doubles import LAYOUT, SETTINGS, ExactFactory, record, snapshot_of, study
from radrank.core.archive import Archive
from radrank.core.errors import Corrupt, Mismatch, NotFound
from radrank.core.snapshot import build_snapshot, current, open_snapshot, prune
from radrank.core.studies import Modality
from radrank.core.vectors import fused

ENCODER = "e" * 64


@pytest.fixture
def archive(tmp_path):
    archive = Archive(tmp_path / "archive.sqlite")
    archive.upsert(
        [record(study(n, images=n % 3, labels=("opacity",) if n % 2 else ())) for n in range(12)], encoder=ENCODER
    )
    yield archive
    archive.close()


@pytest.fixture
def home(tmp_path):
    return tmp_path / "snapshots"


def test_a_snapshot_holds_every_study_of_the_archive(archive, home):
    snapshot = snapshot_of(home, archive)
    assert snapshot.manifest["counts"] == {"studies": 12, "image_items": 8, "report_items": 12}
    row = snapshot.columns.find("S0005")
    images, reports = snapshot.items[Modality.IMAGE], snapshot.items[Modality.REPORT]
    assert np.array_equal(images.vectors[images.study == row], fused(archive.record("S0005").image_vectors)[None])
    assert images.study.tolist() == [1, 2, 4, 5, 7, 8, 10, 11]
    assert np.array_equal(reports.vectors[row], archive.record("S0005").report_vector)
    assert snapshot.columns.labels["opacity"].tolist() == [1, 3, 5, 7, 9, 11]


def test_a_snapshot_keeps_what_its_vectors_say_of_items_and_of_their_pairs(archive, home):
    snapshot = snapshot_of(home, archive)
    assert snapshot.layout == LAYOUT
    beliefs = {m: LAYOUT.beliefs(snapshot.items[m].vectors) for m in Modality}
    images, reports = (snapshot.items[m].nodes.facts.base for m in Modality)
    width = LAYOUT.beliefs_width
    assert (images.shape, reports.shape) == ((8, 3 * width), (12, 3 * width))
    assert beliefs[Modality.IMAGE].std(axis=0).min() > 0.01
    assert np.array_equal(images[:, :width], beliefs[Modality.IMAGE])
    assert np.array_equal(reports[:, :width], beliefs[Modality.REPORT])
    # Every study has a report, of the same row; every third has no image.
    assert np.array_equal(images[:, width : 2 * width], beliefs[Modality.REPORT][snapshot.items[Modality.IMAGE].study])
    pairs = [-1, 0, 1, -1, 2, 3, -1, 4, 5, -1, 6, 7]
    for paired, pair in zip(reports[:, width : 2 * width], pairs, strict=True):
        assert np.array_equal(paired, beliefs[Modality.IMAGE][pair] if pair >= 0 else np.zeros(width))


def test_neighbour_tables_never_name_the_own_study(archive, home):
    snapshot = snapshot_of(home, archive)
    for m in Modality:
        items = snapshot.items[m]
        for table, among in ((items.nodes.same, m), (items.nodes.cross, m.other)):
            rows = table.rows.base
            there = rows >= 0
            studies = snapshot.items[among].study
            assert (studies[rows[there]] != np.broadcast_to(items.study[:, None], rows.shape)[there]).all()


def test_the_newest_snapshot_is_the_current_one_and_the_rest_can_go(archive, home):
    first = snapshot_of(home, archive)
    archive.delete(["S0001"])
    second = snapshot_of(home, archive)
    assert current(home) == second.path
    (home / ".building-left").mkdir()
    assert {path.parent for path in home.glob("*/manifest.json")} == {first.path, second.path}
    prune(home, keep=[second.path])
    assert list(home.iterdir()) != []
    assert {path.name for path in home.iterdir()} == {"CURRENT", second.path.name}


@pytest.mark.parametrize("name", ["image/vectors.npy", "report/facts.npy", "report/index.bin", "studies/ids.npy"])
def test_a_changed_file_is_found(archive, home, name):
    path = snapshot_of(home, archive).path
    content = bytearray((path / name).read_bytes())
    content[-1] ^= 1
    (path / name).write_bytes(content)
    with pytest.raises(Corrupt, match=name):
        open_snapshot(path, factory=ExactFactory())


def test_a_missing_file_is_found(archive, home):
    path = snapshot_of(home, archive).path
    (path / "image" / "study.npy").unlink()
    with pytest.raises(NotFound):
        open_snapshot(path, factory=ExactFactory())


def test_a_manifest_that_leads_outside_is_refused(archive, home):
    path = snapshot_of(home, archive).path
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"]["../../archive.sqlite"] = {"sha256": "0", "bytes": 1}
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(Corrupt, match="outside"):
        open_snapshot(path, factory=ExactFactory())


def test_a_snapshot_of_another_encoder_or_index_is_refused(archive, home):
    path = snapshot_of(home, archive).path
    with pytest.raises(Mismatch, match="encoder"):
        open_snapshot(path, factory=ExactFactory(), encoder="f" * 64)
    other = ExactFactory()
    other.name = "other"
    with pytest.raises(Mismatch, match="index"):
        open_snapshot(path, factory=other)


@pytest.mark.parametrize("schema", [1, 2, 3])
def test_a_snapshot_that_another_version_laid_out_is_refused_and_the_cure_named(archive, home, schema):
    path = snapshot_of(home, archive).path
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["layout"]
    (path / "manifest.json").write_text(json.dumps(manifest | {"schema": schema}))
    with pytest.raises(Mismatch, match=f"radrank index build: expected schema 4, found schema {schema}"):
        open_snapshot(path, factory=ExactFactory())


def test_a_build_that_fails_leaves_nothing_and_keeps_the_current_one(archive, home):
    before = snapshot_of(home, archive)

    def interrupted():
        yield record(study(1))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_snapshot(
            home,
            interrupted(),
            sequence=2,
            encoder=ENCODER,
            layout=LAYOUT,
            graph=SETTINGS,
            factory=ExactFactory(),
        )
    assert current(home) == before.path
    assert {path.name for path in home.iterdir()} == {"CURRENT", before.path.name}


def test_without_a_snapshot_the_cure_is_named(tmp_path):
    with pytest.raises(NotFound, match="radrank index build"):
        current(tmp_path)


def test_an_empty_archive_makes_an_empty_snapshot(tmp_path, home):
    archive = Archive(tmp_path / "empty.sqlite")
    snapshot = snapshot_of(home, archive)
    assert len(snapshot.columns) == 0
    assert {items.nodes.facts.base.shape for items in snapshot.items.values()} == {(0, 3 * LAYOUT.beliefs_width)}
    assert snapshot.columns.find("S0001") is None
    archive.close()
