from __future__ import annotations

import numpy as np
import pytest

from helpers.doubles import record, snapshot_of, study
from radrank.core.archive import Archive
from radrank.core.studies import Modality
from radrank.server.recall import recalls


@pytest.fixture
def snapshot(tmp_path):
    archive = Archive(tmp_path / "archive.sqlite")
    # Every report stands there twice: which of two equals comes first must not matter.
    archive.upsert([record(study(n, images=2, report=f"report {n // 2}")) for n in range(40)], encoder="e" * 64)
    yield snapshot_of(tmp_path / "snapshots", archive)
    archive.close()


def test_an_exact_index_finds_everything_in_all_four_directions(snapshot):
    found = list(recalls(snapshot, queries=25))
    assert {(one.source, one.target) for one in found} == {(a, b) for a in Modality for b in Modality}
    assert all(one.at == {1: 1.0, 10: 1.0, 100: 1.0} for one in found)
    assert {one.queries for one in found} == {25}


def test_what_an_index_misses_is_counted(snapshot, monkeypatch):
    index = snapshot.items[Modality.REPORT].index
    search = index.search

    def worse(queries, k, *, source):
        rows, cosines = search(queries, k, source=source)
        # Every other answer is replaced by the worst there is.
        rows = np.where(np.arange(rows.shape[1]) % 2 == 1, rows[:, -1:], rows)
        return rows, cosines

    monkeypatch.setattr(index, "search", worse)
    found = next(one for one in recalls(snapshot) if (one.source, one.target) == (Modality.IMAGE, Modality.REPORT))
    assert found.at[1] == 1.0
    assert found.at[10] == pytest.approx(0.5, abs=0.06)
