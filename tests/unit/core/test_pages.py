from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from helpers.doubles import SETTINGS, ranker_of, record, snapshot_of, study
from radrank.core import pages
from radrank.core.archive import Archive
from radrank.core.pages import MappedFiles, mapped_bytes
from radrank.core.ranking import SearchQuery, StudyQuery
from radrank.core.view import View

MIB = 1 << 20
BUDGET = 48 * MIB
VECTORS = np.random.default_rng(0).normal(size=(2, 30_000, 512)).astype(np.float32)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[Path]:
    """Two arrays of 59 MiB."""
    folder = tmp_path_factory.mktemp("arrays")
    for number, array in enumerate(VECTORS):
        np.save(folder / f"{number}.npy", array)
    return sorted(folder.iterdir())


@pytest.fixture
def start(monkeypatch) -> int:
    """What is mapped now, which then counts as the libraries'."""
    found = mapped_bytes()
    monkeypatch.setattr(pages, "_libraries", lambda: found)
    return found


def read(arrays, after=lambda: None) -> int:
    """Gathers some hundred rows as searches do, and tells the most that was mapped after any of them."""
    rng, most = np.random.default_rng(1), 0
    for _ in range(400):
        for number, array in enumerate(arrays):
            rows = rng.integers(0, len(array), 8)
            assert np.array_equal(array[rows], VECTORS[number][rows])
        after()
        most = max(most, mapped_bytes())
    return most


def test_what_stays_mapped_keeps_within_the_budget_and_every_row_is_read_right(files, start):
    mapped = MappedFiles(BUDGET)
    arrays = [mapped.open(path) for path in files]
    assert read(arrays, mapped.trim) - start <= BUDGET
    assert not arrays[0].flags.writeable


def test_without_trimming_all_of_it_stays(files, start):
    """The measure above can tell."""
    mapped = MappedFiles(BUDGET)
    assert read([mapped.open(path) for path in files]) - start > 2 * BUDGET


def test_within_the_budget_nothing_is_given_back(files, start, monkeypatch):
    mapped = MappedFiles(1 << 30)
    arrays = [mapped.open(path) for path in files]
    monkeypatch.setattr(mapped, "_give_back", lambda: pytest.fail("gave pages back"))
    read(arrays, mapped.trim)


def test_the_kernel_is_asked_once_or_twice_a_search_however_much_is_given_back(files, start, monkeypatch):
    mapped = MappedFiles(BUDGET)
    arrays = [mapped.open(path) for path in files]
    asked, given = [], []
    give_back = mapped._give_back
    monkeypatch.setattr(pages, "mapped_bytes", lambda: asked.append(1) or mapped_bytes())
    monkeypatch.setattr(mapped, "_give_back", lambda: given.append(1) or give_back())
    for _ in range(3):
        asked.clear(), given.clear()
        for array in arrays:
            assert array.sum()
        mapped.trim()
        assert len(given) >= 2
        assert len(asked) <= 2


def test_a_budget_of_nothing_gives_back_what_it_can_and_ends(files, start):
    mapped = MappedFiles(-start)
    array = mapped.open(files[0])
    assert array.sum()
    before = mapped_bytes()
    mapped.trim()
    assert before - mapped_bytes() > 50 * MIB


def test_a_system_that_does_not_tell_is_never_trimmed(files, monkeypatch):
    monkeypatch.setattr(pages, "_STATM", Path("/nowhere/statm"))
    assert mapped_bytes() == 0
    MappedFiles(0).trim()


def test_what_is_kept_is_never_given_back_and_takes_nothing_of_the_budget(files, start):
    mapped = MappedFiles(BUDGET)
    arrays = [mapped.open(files[0], keep=True), mapped.open(files[1])]
    kept = VECTORS[0].nbytes
    assert arrays[0].sum()
    most = read(arrays, mapped.trim) - start
    assert kept + BUDGET // 2 < most <= kept + BUDGET + MIB
    assert mapped_bytes() - start >= kept


def test_searches_and_screenings_give_back_what_they_mapped_too_much(tmp_path, monkeypatch):
    archive = Archive(tmp_path / "archive.sqlite")
    archive.upsert([record(study(n)) for n in range(9)], encoder="e" * 64)
    ranker = ranker_of(View.of(snapshot_of(tmp_path / "snapshots", archive), SETTINGS))
    trimmed: list[None] = []
    monkeypatch.setattr(ranker.view.snapshot.files, "trim", lambda: trimmed.append(None))
    ranker.search(SearchQuery(content=StudyQuery(study_id="S0001")))
    assert len(trimmed) == 1
    ranker.screen(StudyQuery(study_id="S0001"))
    assert len(trimmed) == 2
    archive.close()
