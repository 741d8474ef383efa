"""`radrank index tune`, and what `radrank serve` makes of it."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from helpers.doubles import LAYOUT, SETTINGS, DoubleBundle, record, study
from radrank.client.cli import main
from radrank.core.archive import Archive
from radrank.core.errors import Corrupt
from radrank.core.graph import DIRECTIONS
from radrank.core.snapshot import build_snapshot
from radrank.core.studies import Modality
from radrank.engines.index import ExactFactory, HnswFactory, HnswSettings
from radrank.server import loading
from radrank.server.home import database_of, snapshots_of, tuning_of
from radrank.server.settings import load
from radrank.server.tuning import tuned

STUDIES = [record(study(n)) for n in range(150)]


def home_of(root: Path, factory) -> Path:
    """An archive with a snapshot by this factory."""
    archive = Archive(database_of(root))
    archive.upsert(STUDIES, encoder="e" * 64)
    build_snapshot(
        snapshots_of(root),
        archive.records(),
        sequence=archive.sequence,
        encoder="e" * 64,
        layout=LAYOUT,
        graph=SETTINGS,
        factory=factory,
    )
    archive.close()
    return root


@pytest.fixture
def home(tmp_path) -> Path:
    return home_of(tmp_path / "home", HnswFactory())


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a command line; returns (exit code, output, errors)."""
    monkeypatch.setenv("COLUMNS", "160")

    def go(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main([str(word) for word in words])
        told = capsys.readouterr()
        return int(left.value.code or 0), told.out, told.err

    return go


def test_every_direction_is_told_and_kept(run, home):
    code, out, err = run("index", "tune", "--archive", home, "--k", 20, "--queries", 30)
    assert code == 0, err
    kept = json.loads(tuning_of(home).read_text(encoding="utf-8"))[HnswFactory().name]
    assert (kept["k"], kept["recall"]) == (20, 0.95)
    assert set(kept["directions"]) == {f"{source} → {target}" for source, target in DIRECTIONS}
    for name, found in kept["directions"].items():
        assert name in out
        assert 20 <= found["ef"] <= 150
        assert found["recall"] >= 0.95
        assert (found["rows"], found["queries"]) == (150, 30)
    assert "tuning" in err


def test_the_server_looks_as_far_as_was_found(home, monkeypatch):
    efs = {"image → report": 111, "report → report": 44}
    tuning_of(home).write_text(
        json.dumps({HnswFactory().name: {"k": 100, "directions": {name: {"ef": ef} for name, ef in efs.items()}}})
    )
    monkeypatch.setattr(loading, "open_bundle", lambda *_: DoubleBundle())
    with loading.Opened(load(bundle=home.parent, archive=home)) as opened:
        library = opened.library()
        with library.lease() as edition:
            items = edition.ranker.view.snapshot.items
            assert items[Modality.REPORT].index.ef_of(Modality.IMAGE) == 111
            assert items[Modality.REPORT].index.ef_of(Modality.REPORT) == 44
            assert items[Modality.IMAGE].index.ef_of(Modality.REPORT) == HnswSettings().ef
        library.close()


def test_a_search_is_told_what_asks(home, monkeypatch):
    from radrank.core.ranking import SearchQuery, VectorQuery

    monkeypatch.setattr(loading, "open_bundle", lambda *_: DoubleBundle())
    asked: list[tuple[Modality, Modality | None]] = []
    with loading.Opened(load(bundle=home.parent, archive=home)) as opened:
        library = opened.library()
        with library.lease() as edition:
            for m, items in edition.ranker.view.snapshot.items.items():
                search = items.index.search
                monkeypatch.setattr(
                    items.index,
                    "search",
                    lambda queries, k, *, source=None, m=m, search=search: (
                        asked.append((source, m)) or search(queries, k, source=source)
                    ),
                )
            for source in Modality:
                content = VectorQuery(vector=STUDIES[0].report_vector, modality=source)
                edition.ranker.search(SearchQuery(content=content, candidates=20))
        library.close()
    assert set(asked) == set(DIRECTIONS)  # candidates of the other modality, and neighbours of both


def test_it_says_nothing_of_an_index_that_it_was_not_made_for(home, caplog):
    tuning_of(home).write_text(json.dumps({"hnsw m=7 ef_construction=9": {"directions": {}}}))
    factory = HnswFactory()
    with caplog.at_level(logging.WARNING):
        assert tuned(factory, home) is factory
    assert "radrank index tune" in caplog.text
    assert tuned(exact := ExactFactory(), home) is exact


def test_without_a_tuning_everything_stays_as_it_was(home):
    factory = HnswFactory()
    assert tuned(factory, home) is factory


def test_what_was_found_for_another_index_stays(run, home):
    tuning_of(home).write_text(json.dumps({"hnsw m=7 ef_construction=9": {"directions": {}}}))
    run("index", "tune", "--archive", home, "--k", 5, "--queries", 10)
    assert set(json.loads(tuning_of(home).read_text(encoding="utf-8"))) == {
        "hnsw m=7 ef_construction=9",
        HnswFactory().name,
    }


@pytest.mark.parametrize(
    "content", ["{", "[1]", '{"hnsw m=32 ef_construction=200": {"directions": {"image": {"ef": 1}}}}']
)
def test_a_broken_file_is_answered_with_the_cure(home, content):
    tuning_of(home).write_text(content)
    with pytest.raises(Corrupt, match="radrank index tune"):
        tuned(HnswFactory(), home)


def test_an_exact_scan_has_nothing_to_tune(run, tmp_path):
    code, _, err = run("index", "tune", "--archive", home_of(tmp_path / "exact", ExactFactory()))
    assert code != 0
    assert "--index hnsw" in err


def test_a_recall_out_of_reach_is_told(run, home, monkeypatch):
    monkeypatch.setattr("radrank.engines.tuning.recall_of", lambda *_: 0.5)
    code, _, err = run("index", "tune", "--archive", home, "--queries", 10)
    assert code == 1
    assert "no ef gives recall 0.95" in err
