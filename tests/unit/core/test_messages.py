"""Messages of the archive to candidates: looked up where a snapshot holds them, made anew where that is not true."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from helpers.doubles import (
    SETTINGS,
    DoubleBundle,
    NeighbourMessages,
    ToldReranker,
    ranker_of,
    record,
    snapshot_of,
    study,
)
from radrank.core import graph
from radrank.core.archive import Archive
from radrank.core.graph import GraphBuilder
from radrank.core.messages import MessageTables
from radrank.core.ranking import SearchQuery, StudyQuery, TextQuery
from radrank.core.snapshot import Snapshot
from radrank.core.studies import Modality
from radrank.core.view import View

STUDIES = 40
NOBODY = np.array([], dtype=np.int32)
ROWS = np.arange(STUDIES)


def snapshot(home: Path, messages: NeighbourMessages | None) -> Snapshot:
    archive = Archive(home / "archive.sqlite")
    archive.upsert([record(study(number)) for number in range(STUDIES)], encoder="e" * 64)
    made = snapshot_of(home / "snapshots", archive, [messages] if messages else [])
    archive.close()
    return made


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Snapshot:
    """With messages to all of its items."""
    return snapshot(tmp_path_factory.mktemp("kept"), NeighbourMessages())


def view_of(snapshot: Snapshot) -> View:
    return View.of(snapshot, SETTINGS)


def tables(view: View) -> tuple[MessageTables, NeighbourMessages]:
    """The view's, and what makes messages for it; that has made none yet."""
    layout = view.snapshot.layout
    builder = GraphBuilder(gallery=view.nodes, archive=view.nodes, layout=layout, settings=SETTINGS)
    make = NeighbourMessages()
    return MessageTables(view.nodes, builder, make), make


def anew(view: View, target: Modality, rows: np.ndarray, excluded: np.ndarray = NOBODY) -> np.ndarray:
    """The same without anything looked up."""
    layout = view.snapshot.layout
    builder = GraphBuilder(gallery=view.nodes, archive=view.nodes, layout=layout, settings=SETTINGS)
    return NeighbourMessages()(builder.around(target, rows, excluded))[0, : len(rows)]


def test_a_snapshot_holds_the_messages_to_all_of_its_items(kept):
    view = view_of(kept)
    looked_up, make = tables(view)
    for m in Modality:
        assert list(view.nodes[m].messages) == ["neighbours"]
        assert np.array_equal(looked_up(m, ROWS, NOBODY), anew(view, m, ROWS))
    assert make.made == 0


def test_without_them_they_are_made_for_every_search(tmp_path, kept):
    bare = view_of(snapshot(tmp_path, None))
    made, make = tables(bare)
    assert np.array_equal(made(Modality.REPORT, ROWS, NOBODY), anew(view_of(kept), Modality.REPORT, ROWS))
    assert make.made == STUDIES


@pytest.mark.parametrize("target", list(Modality))
def test_who_hears_from_an_excluded_study_is_told_anew_and_nobody_else(kept, target):
    view = view_of(kept)
    looked_up, make = tables(view)
    excluded = np.array([3, 17], dtype=np.int32)
    found = looked_up(target, ROWS, excluded)
    assert np.array_equal(found, anew(view, target, ROWS, excluded))
    changed = (found != anew(view, target, ROWS)).any(axis=1)
    assert changed.any()
    assert changed.sum() <= make.made < STUDIES


@pytest.mark.parametrize("target", list(Modality))
def test_who_heard_from_a_study_that_went_or_came_since_is_told_anew(kept, target):
    view = view_of(kept).with_changes([record(study(90)), record(study(5, report="another report"))], ["S0011"], 100)
    looked_up, make = tables(view)
    nodes = view.nodes[target]
    rows = np.flatnonzero(nodes.alive)
    assert rows[-1] >= STUDIES  # fresh ones are among them
    assert np.array_equal(looked_up(target, rows, NOBODY), anew(view, target, rows))
    assert 2 <= make.made < len(rows)


def test_searches_rank_alike_with_and_without_them(tmp_path, kept):
    bare = snapshot(tmp_path, None)
    answers = []
    for held in (kept, bare):
        make = NeighbourMessages()
        view = view_of(held).with_changes([record(study(90))], ["S0011"], 100)
        ranker = ranker_of(view, DoubleBundle(rerankers={"sage": ToldReranker(make)}))
        queries = [StudyQuery(study_id="S0007"), StudyQuery(study_id="S0090"), TextQuery(text="finding3 of study3")]
        found = [ranker.search(SearchQuery(content=content, exclude=("S0002",))).hits for content in queries]
        answers.append((found, make.made))
    (with_them, few), (without, many) = answers
    assert with_them == without
    assert 0 < few < many
    assert any(hit.rank != hit.candidate_rank for hits in with_them for hit in hits)


def test_edges_that_a_reranker_with_messages_does_not_read_are_not_looked_for(kept, monkeypatch):
    monkeypatch.setattr(graph, "cosines_among", lambda *_: pytest.fail("compared the candidates with one another"))
    reranker = ToldReranker(NeighbourMessages())
    reranker.relations = frozenset(["query_image", "query_report"])
    ranker = ranker_of(view_of(kept), DoubleBundle(rerankers={"sage": reranker}))
    assert ranker.search(SearchQuery(content=TextQuery(text="finding3 of study3"))).hits
