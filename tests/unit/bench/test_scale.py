"""`bench scale` and the parts of `bench footprint`, small; the served archive itself is in tests/e2e."""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

from helpers.doubles import LAYOUT
from radrank.bench.clusters import BLOCK, ClusteredSpace, write_vectors
from radrank.bench.footprint import made_up_vectors
from radrank.bench.memory import held_bytes, memory_of, memory_of_all
from radrank.bench.scale import Options, measure
from radrank.client.cli import main
from radrank.core.errors import InvalidQuery
from radrank.core.studies import Modality
from radrank.engines.index import HnswFactory

SMALL = Options(rows=(900, 300), dimensions=24, queries=40, k=20, recall=0.9)


@contextmanager
def silent(label, total):
    yield lambda done: None


def test_every_size_is_measured_in_both_kinds_of_direction(tmp_path):
    sizes = list(measure(SMALL, tmp_path, silent))
    assert [size.rows for size in sizes] == [300, 900]
    for size in sizes:
        assert [(by.source, by.target) for by in size.searched] == [("image", "report"), ("report", "report")]
        for by in size.searched:
            assert by.recall >= 0.9
            assert by.ef >= 20
            assert min(by.p50, by.exact_p50, size.build_seconds) > 0
            assert by.p50 <= by.p99
        assert size.index_bytes > size.rows * 24 * 4
        assert size.vectors_bytes == 128 + size.rows * 24 * 4


def test_a_second_call_uses_what_is_there(tmp_path, monkeypatch):
    before = list(measure(SMALL, tmp_path, silent))
    monkeypatch.setattr(HnswFactory, "build", lambda *_, **__: pytest.fail("built anew"))
    assert list(measure(SMALL, tmp_path, silent)) == before
    again = list(measure(replace(SMALL, recall=0.99), tmp_path, silent))  # another recall: the same indexes
    assert [size.build_seconds for size in again] == [size.build_seconds for size in before]
    assert all(
        a.ef >= b.ef for x, y in zip(again, before, strict=True) for a, b in zip(x.searched, y.searched, strict=True)
    )


def test_the_command_writes_tables_and_a_plot(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    words = ["--rows", "300,900", "--dimensions", "24", "--queries", "20", "--k", "20", "--threads", "1"]
    with pytest.raises(SystemExit) as left:
        main(["bench", "scale", "--out", str(tmp_path), *words])
    assert not left.value.code
    assert len(json.loads((tmp_path / "scale.json").read_text())["sizes"]) == 2
    told = (tmp_path / "scale.md").read_text(encoding="utf-8")
    assert "| 900 | image → report |" in told
    assert "300 → 900 rows, report → report: p50 ×" in told
    assert (tmp_path / "scale.png").stat().st_size > 5_000


def test_too_few_rows_are_refused(tmp_path):
    with pytest.raises(InvalidQuery, match="rows"):
        list(measure(replace(SMALL, rows=(30,)), tmp_path, silent))


def test_a_study_has_the_same_vectors_in_every_gallery(tmp_path):
    space = ClusteredSpace(16, seed=3)
    large = write_vectors(space, Modality.REPORT, BLOCK + 40, tmp_path / "large.npy")
    small = write_vectors(ClusteredSpace(16, seed=3), Modality.REPORT, 100, tmp_path / "small.npy")
    assert np.array_equal(large[:100], small)
    assert large.shape == (BLOCK + 40, 16)
    np.testing.assert_allclose(np.linalg.norm(large, axis=1), 1, atol=1e-5)
    assert not np.array_equal(space.held_out(5)[Modality.REPORT], small[:5])


def test_modalities_are_shifted_and_still_pair_up():
    block = next(ClusteredSpace(64).studies(0, 2_000))
    images, reports = block[Modality.IMAGE], block[Modality.REPORT]
    within, across = images @ images.T, images @ reports.T
    assert within.mean() - across.mean() > 0.04
    own = np.diag(across)
    assert own.mean() > np.partition(across, -100, axis=1)[:, -100].mean()


def test_made_up_vectors_are_laid_out_as_a_bundles_are():
    (numbers, vectors) = next(made_up_vectors(LAYOUT, range(BLOCK, BLOCK + 50)))
    assert numbers == range(BLOCK, BLOCK + 50)
    for m in Modality:
        assert vectors[m].shape == (50, LAYOUT.dimensions)
        np.testing.assert_allclose(np.linalg.norm(vectors[m], axis=1), 1, atol=1e-5)
        beliefs = LAYOUT.beliefs(vectors[m])
        assert 0 < beliefs.min() < beliefs.max() <= 1


def test_memory_tells_its_parts():
    before = held_bytes()
    held = np.ones(40 << 20, dtype=np.uint8)
    found = memory_of()
    assert 39 << 20 < found.anonymous - before < 60 << 20
    assert found.anonymous + found.file <= found.resident * 1.05
    assert found.peak >= found.resident * 0.95
    del held


def test_memory_of_all_counts_those_that_a_process_started():
    with subprocess.Popen(["sleep", "60"]) as child:
        alone, other = memory_of(), memory_of(child.pid)
        together = memory_of_all(os.getpid())
        child.kill()
    assert together.peak >= alone.peak + other.peak  # peaks never fall
