from __future__ import annotations

import json
import logging
import time
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.doubles import (
    LAYOUT,
    SETTINGS,
    DoubleBundle,
    ExactFactory,
    HashingEncoder,
    NeighbourMessages,
    ToldReranker,
    record,
    study,
)
from radrank.core.archive import Archive
from radrank.core.ranking import SearchQuery, TextQuery
from radrank.core.snapshot import current
from radrank.core.studies import Modality
from radrank.server import library as module
from radrank.server.home import Home
from radrank.server.library import Library
from radrank.server.settings import Compaction


@pytest.fixture
def home(tmp_path):
    with Home(tmp_path / "home") as home:
        yield home


def opened(home, *, bundle=None, factory=None, rows=1_000):
    return Library(home, bundle or DoubleBundle(), factory or ExactFactory(), Compaction(rows=rows, share=0.0))


def found(library, text="finding1 sign2", k=50):
    query = SearchQuery(content=TextQuery(text=text), target=Modality.REPORT, k=k)
    with library.lease() as edition:
        return edition.ranker.search(query).hits


def settled(library):
    """Waits for the compaction to have nothing left to do."""
    for _ in range(500):
        with library.lease() as edition:
            if edition.ranker.view.stale_rows == 0:
                return
        time.sleep(0.01)
    pytest.fail("no snapshot was built")


def test_a_new_home_is_an_empty_archive_that_can_be_searched(home):
    library = opened(home)
    assert found(library) == ()
    library.close()


def test_enough_changes_bring_a_new_snapshot_with_the_same_results(home):
    library = opened(home, rows=10)
    first = current(home.snapshots)
    library.upsert([record(study(n)) for n in range(9)])
    assert current(home.snapshots) == first
    library.upsert([record(study(9))])
    settled(library)
    assert current(home.snapshots) != first
    assert len(found(library)) == 10
    library.close()
    assert not first.exists()


def test_deletions_count_as_changes(home):
    library = opened(home, rows=10)
    library.upsert([record(study(n)) for n in range(9)])
    library.delete(["S0001", "S0002"])
    settled(library)
    assert len(found(library)) == 7
    library.close()
    archive = Archive(home.database)
    assert archive.changes_since(0)[1] == []  # the marks are dropped once no snapshot needs them
    archive.close()


def test_changes_during_a_build_are_in_what_is_served_after_it(home, monkeypatch):
    library = opened(home)
    library.upsert([record(study(n)) for n in range(5)])
    build = module.build

    def slow(*args, **more):
        path = build(*args, **more)
        library.upsert([record(study(7))])
        library.delete(["S0001"])
        return path

    monkeypatch.setattr(module, "build", slow)
    library.compact()
    assert {hit.study_id for hit in found(library)} == {"S0000", "S0002", "S0003", "S0004", "S0007"}
    library.close()


def test_a_build_that_fails_is_logged_without_its_words_and_serving_goes_on(home, monkeypatch, caplog):
    library = opened(home, rows=1)

    def broken(*_args, **_more):
        raise OSError("disk full of zebrafish")

    with monkeypatch.context() as patch:
        patch.setattr("radrank.server.library.build_snapshot", broken)
        with caplog.at_level(logging.ERROR):
            library.upsert([record(study(1))])
            for _ in range(500):
                if "no new snapshot" in caplog.text:
                    break
                time.sleep(0.01)
    assert "OSError at" in caplog.text
    assert "zebrafish" not in caplog.text
    assert len(found(library)) == 1
    library.upsert([record(study(2))])
    settled(library)
    library.close()


def test_closing_interrupts_a_build(home, monkeypatch):
    library = opened(home)
    library.upsert([record(study(n)) for n in range(20)])
    before = current(home.snapshots)
    library.archive.records = lambda: (library._closing.set() or one for one in [record(study(1))])
    from radrank.core.errors import Unavailable

    with pytest.raises(Unavailable):
        library.compact()
    assert current(home.snapshots) == before
    library.close()


def test_a_lost_or_older_snapshot_is_built_anew(home):
    library = opened(home)
    library.upsert([record(study(n)) for n in range(5)])
    expected = found(library)
    library.close()
    (home.snapshots / "CURRENT").unlink()
    library = opened(home)
    assert [hit.study_id for hit in found(library)] == [hit.study_id for hit in expected]
    library.close()


@pytest.mark.parametrize("schema", [1, 2])
def test_a_snapshot_that_another_version_laid_out_is_built_anew(home, schema):
    library = opened(home)
    library.upsert([record(study(n, images=2)) for n in range(5)])
    library.compact()
    expected = found(library)
    library.close()
    old = current(home.snapshots).rename(home.snapshots / "00000001-of-another")
    (home.snapshots / "CURRENT").write_text(old.name)
    manifest = json.loads((old / "manifest.json").read_text())
    del manifest["layout"]
    (old / "manifest.json").write_text(json.dumps(manifest | {"schema": schema}))
    library = opened(home)
    assert current(home.snapshots) != old
    assert not old.exists()
    assert found(library) == expected
    library.close()


def test_an_archive_put_back_from_a_backup_is_served_as_it_is(home):
    library = opened(home)
    library.upsert([record(study(1))])
    library.compact()
    library.close()
    for path in home.root.glob("archive.sqlite*"):
        path.unlink()
    library = opened(home)
    assert found(library) == ()
    library.close()


@pytest.mark.parametrize("what", ["nothing", "graph", "index", "share", "groups"])
def test_other_settings_bring_another_snapshot(home, monkeypatch, what):
    """The same ones do not: nor does their layout, which is not read from JSON as it was written."""
    library = opened(home)
    library.upsert([record(study(n)) for n in range(5)])
    library.compact()
    library.close()
    before = current(home.snapshots)
    factory = ExactFactory()
    layouts = {"share": replace(LAYOUT, share=0.4), "groups": replace(LAYOUT, groups=LAYOUT.groups[::-1])}
    bundle = DoubleBundle(
        encoder=HashingEncoder(layouts.get(what, LAYOUT)),
        graph=replace(SETTINGS, table_width=8 if what == "graph" else SETTINGS.table_width),
    )
    if what == "index":
        factory.name = "other"
    built: list[Path] = []
    build = module.build
    monkeypatch.setattr(module, "build", lambda *args, **more: built.append(build(*args, **more)) or built[-1])
    library = opened(home, bundle=bundle, factory=factory)
    assert current(home.snapshots) == (before if what == "nothing" else built[0])
    assert len(built) == (what != "nothing")
    with library.lease() as edition:
        assert edition.ranker.view.snapshot.layout == bundle.encoder.layout
    assert len(found(library)) == 5
    library.close()


def test_a_corrupt_snapshot_is_never_served(home):
    from radrank.core.errors import Corrupt

    library = opened(home)
    library.close()
    path = current(home.snapshots) / "studies" / "ids.npy"
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(Corrupt):
        opened(home)


def test_a_snapshot_of_other_rerankers_is_told_of_and_the_next_one_holds_their_messages(home, caplog):
    caplog.set_level(logging.WARNING)
    library = opened(home, rows=5)
    library.upsert([record(study(n)) for n in range(6)])
    settled(library)
    library.close()
    assert "messages" not in caplog.text
    bundle = DoubleBundle(rerankers={"sage": ToldReranker(NeighbourMessages())})
    library = opened(home, bundle=bundle)
    assert f"radrank index build --bundle bundle --archive {home.root}" in caplog.text
    before = found(library)
    library.compact()
    assert found(library) == before
    with library.lease() as edition:
        assert list(edition.ranker.view.nodes[Modality.REPORT].messages) == ["neighbours"]
    library.close()
    caplog.clear()
    opened(home, bundle=bundle).close()
    assert not caplog.text
