"""`bench peers` and `bench stages` over the demo bundle and a real server; `bench bundle` the whole way, small."""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager

import pytest

from radrank.bench import shaped
from radrank.bench.checkpoint import Sizes
from radrank.bench.contest import CAREFUL, OURS, SERVER
from radrank.bench.peers import EMBEDDING, GRAPH, IMAGE, PHRASE, REPORT
from radrank.bench.stages import ROWS
from radrank.client.cli import main


@pytest.fixture
def home(demo_home, tmp_path):
    copy = tmp_path / "home"
    shutil.copytree(demo_home, copy, ignore=shutil.ignore_patterns(".lock"))
    return copy


@pytest.fixture(autouse=True)
def _plain(monkeypatch):
    """The server runs what this process runs."""
    monkeypatch.setenv("RADRANK_ENGINES__RUNTIME", "onnxruntime-cpu")


@contextmanager
def silent(label, total):
    yield lambda: None


def run(*words: object) -> int:
    try:
        main([str(word) for word in words])
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def test_three_sides_answer_alike_in_one_run(demo_run, demo_bundle, home, tmp_path, capsys):
    where = ("--run", demo_run, "--bundle", demo_bundle, "--archive", home, "--out", tmp_path / "out")
    assert run("bench", "peers", *where, "--queries", 2, "--rounds", 1, "--seconds", 1) == 0
    found = json.loads((tmp_path / "out" / "peers.json").read_text())
    assert [part["name"] for part in found["parts"]] == [PHRASE, REPORT, IMAGE, EMBEDDING, GRAPH]
    for part in found["parts"]:
        assert set(part["medians"]) == {CAREFUL, OURS, SERVER}
        assert min(part["medians"].values()) > 0
    assert [one["kind"] for one in found["throughput"]] == ["text", "image", "embedding"]
    for one in found["throughput"]:
        assert min(one["ours"], one["server"]) > 0
        assert one["refused"] == 0
    assert found["scores"] <= 1e-4
    assert found["same_hits"]
    assert found["lengths"][PHRASE]["ours"] < found["lengths"][PHRASE]["theirs"] == 256
    assert (tmp_path / "out" / "peers.md").read_text() in capsys.readouterr().out
    assert (tmp_path / "out" / "peers.png").is_file()


def test_stages_stand_beside_their_floors(demo_bundle, home, tmp_path):
    where = ("--bundle", demo_bundle, "--archive", home, "--out", tmp_path / "out")
    assert run("bench", "stages", *where, "--queries", 2, "--rounds", 2) == 0
    found = json.loads((tmp_path / "out" / "stages.json").read_text())
    assert [kind["name"] for kind in found["kinds"]] == ["embedding", "text", "image"]
    for kind in found["kinds"]:
        assert [stage["name"] for stage in kind["stages"]] == list(ROWS)
        ms = {stage["name"]: stage["ms"] for stage in kind["stages"]}
        assert ms["client"] > ms["graph"] + ms["rerank"] > 0
        assert kind["scan_ms"] > 0


@pytest.mark.slow
def test_a_bundle_of_random_weights_is_compared_as_any_other(tmp_path):
    small = shaped.Shape(
        sizes=Sizes(image_layers=1, text_layers=1, width=64, vocab=1000, embed_dim=32), rerankers=("sage",), rows=200
    )
    shaped.make(tmp_path, small, weights=None, task=silent, say=lambda _: None)
    where = ("--run", tmp_path / "run", "--bundle", tmp_path / "bundle", "--archive", tmp_path / "archive")
    assert run("bench", "peers", *where, "--out", tmp_path / "out", "--queries", 2, "--rounds", 1) == 0
    found = json.loads((tmp_path / "out" / "peers.json").read_text())
    assert found["bundle"] == "biomedclip-shaped"
    assert found["scores"] <= 1e-4
