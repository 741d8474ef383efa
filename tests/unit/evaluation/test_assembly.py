"""From options to findings, with doubles of bundle and data set: what is opened, cut, described and refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from helpers.doubles import DoubleBundle, HashingEncoder, NeighbourReranker, record, snapshot_of, study
from helpers.judging import silent
from radrank.core.archive import Archive
from radrank.core.errors import Corrupt, InvalidQuery, Mismatch, NotFound
from radrank.core.studies import Split
from radrank.evaluation import assembly
from radrank.evaluation.assembly import Options, opened_snapshot, run
from radrank.evaluation.figures import save_figures
from radrank.evaluation.results import Scope

GROUPS = ("edema", "fracture", "opacity")


def made(number, split, **known):
    kind = number % 4
    labels = () if kind == 0 else (GROUPS[kind - 1],)
    words = f"finding{kind} with sign{number % 3} of study{number}"
    known = {"labels": labels, "normal": kind == 0, "split": split, "report": words} | known
    return study(number, **known)


def shelf(*studies, left_out=None):
    class Shelf(list):
        skipped = ()

    found = Shelf(studies)
    found.left_out = left_out or {}
    return found


def source():
    splits = [Split.TRAIN, Split.TRAIN, Split.TEST, Split.VALIDATION]
    return shelf(*(made(number, splits[number % 5 % 4]) for number in range(60)), left_out={"no indexing": 3})


def target():
    unseen = made(130, None, images=0, report="one more")  # nothing to look at
    return shelf(*(made(100 + number, None) for number in range(24)), unseen)


DATASETS = {"source": source, "covid": target}


def bundle(name, *, seed=0, gain=0.2, dataset="source"):
    made = DoubleBundle(
        sha256=f"{name}".ljust(64, "0"),
        encoder=HashingEncoder(seed=seed),
        encoder_id=f"{seed}" * 64,
        rerankers={"sage": NeighbourReranker(gain)},
    )
    made.manifest = SimpleNamespace(name=name, training={"dataset": {"name": dataset}})
    return made


BUNDLES = {
    "one": lambda: bundle("one"),
    "two": lambda: bundle("two", gain=-0.1),
    "clip": lambda: bundle("clip", seed=1),
    "elsewhere": lambda: bundle("elsewhere", dataset="openi"),
    "kept": lambda: bundle("kept"),
}


@pytest.fixture(autouse=True)
def doubles(monkeypatch):
    opened = []

    def open_bundle(path, settings):
        opened.append(BUNDLES[path.name]())
        return opened[-1]

    monkeypatch.setattr(assembly, "open_bundle", open_bundle)
    monkeypatch.setattr(assembly, "open_dataset", lambda name, root: DATASETS[name]())
    return opened


def options(*names, **changed):
    fixed = {"dataset": "source", "root": None, "split": "test", "draws": 20, "candidates": 10, "threads": 1}
    return Options(bundles=[Path(name) for name in names or ["one"]], **fixed | changed)


def test_a_split_is_judged_and_described(doubles, tmp_path):
    outcome = run(options(command="radrank evaluate --bundle one"), silent)
    report = outcome.report
    assert outcome.name == "one"
    assert report.title == "one on source, test split"
    assert [table.direction for table in report.tables] == [
        "image→report",
        "report→image",
        "image→image",
        "report→report",
    ]
    assert report.tables[0].queries[Scope.ALL] == len([s for s in source() if s.split is Split.TEST])
    assert all(report.leaks.values())
    notes = "\n".join(report.notes)
    for told in (
        "`radrank evaluate --bundle one`",
        "source: 60 studies; left out: 3 × no indexing.",
        "Judged: 12 image entries beside 36 in the archive",
        "fewer than 50 studies to tune on",
    ):
        assert told in notes
    assert "S00" not in notes
    assert doubles[0].encoder.closed
    written = save_figures(outcome.parts, outcome.clouds, tmp_path)
    assert len(written) == len({*tmp_path.iterdir()}) == 12


def test_seeds_and_baseline_come_together():
    outcome = run(options("one", "two", baseline=Path("clip"), baseline_name="before"), silent)
    assert outcome.report.title == "one (2 seeds) on source, test split"
    seeds = {row.method: row.seeds for row in outcome.report.tables[0].rows}
    assert (seeds["sage"], seeds["embedding only"], seeds["before"]) == (2, 1, 1)
    assert {one.against for one in outcome.report.tables[0].comparisons} == {"before"}
    assert [one.title for one in outcome.clouds] == ["before", "one"]


def test_bundles_of_one_encoder_read_the_data_set_once(monkeypatch):
    read = []
    monkeypatch.setattr(assembly, "open_dataset", lambda name, root: read.append(name) or source())
    run(options("one", "two"), silent)
    assert read == ["source"]


def test_a_transfer_has_the_archive_of_either_and_of_both():
    outcome = run(options(dataset="covid", root=Path("data/covid"), transfer=Path("data/source"), split="all"), silent)
    assert list(outcome.parts) == ["source", "target", "both"]
    report = outcome.report
    assert report.title == "one on covid, all studies"
    assert [table.direction for table in report.tables[::4]] == [f"image→report, archive: {a}" for a in outcome.parts]
    assert {table.queries[Scope.ALL] for table in report.tables[::4]} == {24}
    assert len(report.screening) == 6
    assert len(report.leaks) == 9
    notes = "\n".join(report.notes)
    assert "case notes" in notes
    assert "source (source): 60 studies" in notes
    assert len(report.notes) == len(set(report.notes))


def archived(home, *numbers):
    store = Archive(home / "archive.sqlite")
    store.upsert([record(made(number, None)) for number in numbers], encoder="e" * 64)
    snapshot = snapshot_of(home / "snapshots", store)
    store.close()
    return snapshot


def test_unseen_studies_are_judged_beside_a_snapshot(tmp_path, monkeypatch):
    archived(tmp_path, *range(60))
    monkeypatch.setitem(BUNDLES, "kept", lambda: replace_encoder(bundle("kept"), "e" * 64))
    outcome = run(options("kept", dataset="covid", root=None, split="all", archive=tmp_path), silent)
    assert outcome.report.tables[0].queries[Scope.ALL] == 24
    notes = "\n".join(outcome.report.notes)
    assert "The archive is a snapshot" in notes
    assert "beside 60 in the archive" in notes
    assert not any(row.matched for row in outcome.report.tables[0].rows)


def replace_encoder(made, encoder_id):
    made.encoder_id = encoder_id
    return made


@pytest.mark.parametrize("place", ["", "snapshots", "itself"])
def test_a_snapshot_is_found_by_itself_its_folder_or_the_archives_home(tmp_path, place):
    snapshot = archived(tmp_path, 1, 2)
    path = snapshot.path if place == "itself" else tmp_path / place
    assert opened_snapshot(path, "e" * 64).sha256 == snapshot.sha256


def test_a_snapshot_that_is_not_there_or_of_another_encoder_or_broken_is_refused(tmp_path):
    with pytest.raises(NotFound, match="radrank index build"):
        opened_snapshot(tmp_path, "e" * 64)
    snapshot = archived(tmp_path, 1)
    with pytest.raises(Mismatch, match="encoder"):
        opened_snapshot(tmp_path, "f" * 64)
    (snapshot.path / "manifest.json").write_text("{}")
    with pytest.raises(Corrupt, match="manifest"):
        opened_snapshot(tmp_path, "e" * 64)


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"archive": Path("a"), "transfer": Path("t")}, "transfer"),
        ({"archive": Path("a"), "baseline": Path("clip")}, "baseline"),
        ({"split": "all"}, "split"),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_opened(doubles, asked, field):
    with pytest.raises(InvalidQuery) as refused:
        run(options(**asked), silent)
    assert refused.value.field == field
    assert not doubles


@pytest.mark.parametrize("names", [("one", "one"), ("one", "elsewhere")])
def test_bundles_that_are_no_seeds_of_one_recipe_are_refused(names):
    with pytest.raises(InvalidQuery, match="bundle"):
        run(options(*names), silent)


def test_maps_show_every_entry_by_its_finding():
    outcome = run(options(), silent)
    points = outcome.clouds[0].images
    assert len(points.vectors) == len(points.groups) == 12
    for normal, group in zip(points.normal, points.groups, strict=True):
        assert group == "" if normal == 1 else group in GROUPS
