"""`radrank bench gpu` without a GPU: what it measures there, what it leaves out and why, and that it ends in time."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby

import pytest
from typer.testing import CliRunner

from helpers.made_up import tiny_backbone, tiny_bundle
from radrank.bench import gpu as module
from radrank.bench import gpu_card, gpu_found, gpu_serving, turns
from radrank.bench._gpu_report import aims, gpu_markdown, gpu_plot
from radrank.bench.commands import bench
from radrank.bench.gpu import Options, gpu
from radrank.bench.gpu_card import Card, find_card
from radrank.bench.gpu_cells import Cell, cells, feed_of, shapes_of
from radrank.bench.gpu_found import LEAST_SECONDS, Budget, Found, Measured, Row
from radrank.bench.gpu_serving import Load, Loads, read, under_load
from radrank.bench.gpu_sides import COMPILED, CPU, CUDA, EAGER, GRAPH, RTX, TENSORRT
from radrank.bench.gpu_turns import sampled
from radrank.bench.turns import clocked
from radrank.core.errors import InvalidQuery, Unavailable
from radrank.engines.manifest import read_manifest
from radrank.training import runs

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning")  # torch's own
H200 = Card(name="NVIDIA H200", memory="143771 MiB", driver="580.1", compute_capability="9.0", cuda="13.0")
SAGE = Cell(model="reranker_sage", batch=1, candidates=100)


@contextmanager
def silent(label, total):
    yield lambda: None


@pytest.fixture(autouse=True)
def _no_rest(monkeypatch):
    monkeypatch.setattr(turns, "REST_SECONDS", 0.0)


@pytest.fixture
def no_gpu(monkeypatch):
    def absent():
        raise Unavailable("no GPU here: none")

    monkeypatch.setattr(module, "find_card", absent)


@pytest.fixture
def options(tmp_path, monkeypatch) -> Options:
    monkeypatch.setattr(runs, "load_backbone", lambda name, weights: tiny_backbone())
    return Options(
        bundle=tiny_bundle(),
        out=tmp_path,
        run=tiny_bundle().parent / "run",
        minutes=0.2,
        only=("text", "sage"),
        batches=(1, 3),
        candidates=(100,),
    )


@pytest.fixture
def found(options, no_gpu, monkeypatch) -> Found:
    monkeypatch.setattr(gpu_found, "CELL_SECONDS", 0.3)
    monkeypatch.setattr(gpu_found.Budget, "bears", lambda *asked: False)  # compiling takes long
    return gpu(options, task=silent, keep=lambda found: None)


def of(found: Found | None, one: Measured) -> dict[tuple[str, str], Row]:
    return {(row.side, row.precision): row for row in one.rows}


def test_the_sides_of_the_cpu_are_measured_and_those_of_a_gpu_are_named_with_the_reason(found):
    assert [one.cell.name for one in found.measured] == [
        "text_encoder, batch 1",
        "text_encoder, batch 3",
        "reranker_sage, K = 100, batch 1",
        "reranker_sage, K = 100, batch 3",
    ]
    for one in found.measured:
        rows = of(found, one)
        for side in (EAGER, CPU):
            row = rows[side, "fp32"]
            assert 0.0 < row.p50 <= row.p99
            assert row.runs >= 5
            assert row.difference <= 1e-4
            assert row.passes
        assert rows[COMPILED, "fp32"].reason.startswith("no time left to compile it")
        for side in (CUDA, GRAPH, TENSORRT, RTX):
            assert rows[side, "fp16"].reason == "no GPU here: none"
            assert rows[side, "fp16"].p50 is None


def test_another_answer_shows_as_a_difference_and_fails_the_gate(options, no_gpu, monkeypatch):
    from radrank.bench.gpu_torch import TorchModels

    def wrong(models, name, **how):
        right = answer(models, name, **how)
        return lambda feed: right(feed)[:, ::-1]

    answer = TorchModels.answer
    monkeypatch.setattr(TorchModels, "answer", wrong)
    monkeypatch.setattr(gpu_found, "CELL_SECONDS", 0.1)
    monkeypatch.setattr(gpu_found.Budget, "bears", lambda *asked: False)
    one = gpu(replace(options, only=("text",), batches=(1,)), task=silent, keep=lambda found: None).measured[0]
    row = of(None, one)[EAGER, "fp32"]
    assert row.difference > 1e-2
    assert row.passes is False


def test_a_side_that_fails_is_a_row_and_the_others_are_measured(options, no_gpu, monkeypatch):
    from radrank.bench.gpu_torch import TorchModels

    def broken(feed):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(TorchModels, "answer", lambda models, name, **how: broken)
    monkeypatch.setattr(gpu_found, "CELL_SECONDS", 0.1)
    (one,) = gpu(replace(options, only=("text",), batches=(1,)), task=silent, keep=lambda found: None).measured
    rows = of(None, one)
    assert rows[EAGER, "fp32"].reason == "RuntimeError: out of memory"
    assert rows[CPU, "fp32"].p50 > 0.0


def test_every_cell_is_kept_as_soon_as_it_is_measured(options, no_gpu, monkeypatch):
    monkeypatch.setattr(gpu_found, "CELL_SECONDS", 0.1)
    monkeypatch.setattr(gpu_found.Budget, "bears", lambda *asked: False)
    kept: list[int] = []
    gpu(replace(options, only=("text",)), task=silent, keep=lambda found: kept.append(len(found.measured)))
    assert kept == [1, 2]


def test_so_is_what_the_server_under_load_did(options, no_gpu, monkeypatch):
    loads = [Load(kind=kind, rate=5.0, objective_ms=8.0, p50=1.0) for kind in ("image", "text")]
    monkeypatch.setattr(module, "under_load", lambda *asked: iter(loads))
    kept: list[int] = []
    gpu(
        replace(options, archive=options.out, minutes=0.001),
        task=silent,
        keep=lambda found: kept.append(len(found.loads)),
    )
    assert kept[-2:] == [1, 2]


def test_without_a_run_torch_is_named_with_what_it_needs(options, no_gpu, monkeypatch):
    monkeypatch.setattr(gpu_found, "CELL_SECONDS", 0.1)
    one = gpu(replace(options, run=None, only=("text",), batches=(1,)), task=silent, keep=lambda found: None).measured[
        0
    ]
    assert "--run" in of(None, one)[EAGER, "fp32"].reason


def test_when_time_is_up_the_cells_that_are_left_are_named(options, no_gpu):
    found = gpu(replace(options, minutes=0.001), task=silent, keep=lambda found: None)
    assert [one.reason for one in found.measured] == ["no time left"] * 4
    assert "- text_encoder, batch 1; text_encoder, batch 3; " in gpu_markdown(found)


def test_a_budget_is_shared_among_cells_and_the_first_get_theirs():
    now = [0.0]
    budget = Budget(100.0, clock=lambda: now[0])
    assert budget.timing(20) == pytest.approx(3.0)
    assert budget.timing(1) == gpu_found.CELL_SECONDS
    assert budget.bears(60.0, 20)
    assert not budget.bears(90.0, 20)
    now[0] = 97.0
    assert budget.timing(20) == LEAST_SECONDS
    now[0] = 99.0
    assert budget.timing(20) == 0.0


def test_sides_are_sampled_in_turn_for_as_long_as_they_share():
    heard: list[str] = []
    calls = {name: clocked(name, lambda name=name: heard.append(name)) for name in ("a", "b")}
    taken = sampled(calls, seconds=0.01, rounds=2)
    assert "".join(name for name, _ in groupby(heard)) == "aba"  # who was first is last in the next round
    assert len(taken["a"]) == heard.count("a") - 2  # one call of each turn warms up
    assert len(taken["b"]) >= 2


def test_calls_that_are_slower_than_their_share_all_count_and_end_the_rounds():
    heard: list[str] = []

    def slow():
        heard.append("slow")
        turns.time.sleep(0.02)

    taken = sampled({"slow": clocked("slow", slow)}, seconds=0.03, rounds=5)
    assert len(taken["slow"]) == len(heard) <= 3


def test_cells_begin_with_what_is_wanted_most():
    asked = cells(("image", "sage"), (1, 8, 32), (50, 100, 200))
    assert [one.shape for one in asked] == [
        "batch 1",
        "batch 8",
        "batch 32",
        "K = 100, batch 1",
        "K = 100, batch 32",
        "K = 50, batch 1",
        "K = 200, batch 1",
    ]
    with pytest.raises(InvalidQuery, match="image, text, sage, gcn, gat"):
        cells(("vit",), (1,), (100,))


@pytest.mark.parametrize("cell", cells(("image", "text", "sage", "gcn"), (1, 3), (50, 100)), ids=lambda cell: cell.name)
def test_a_feed_fills_its_bucket_so_that_no_side_gains_by_padding(cell):
    manifest, _ = read_manifest(tiny_bundle())
    feed = feed_of(cell, manifest, tiny_bundle())
    assert {name: array.shape for name, array in feed.items()} == dict(shapes_of(cell, manifest))
    if "ids" in feed:
        assert (feed["ids"] != manifest.text.pad_id).all()
    if "mask" in feed:
        assert feed["mask"].all()


def test_a_card_is_read_from_its_driver(monkeypatch):
    told = {1: "NVIDIA H200, 143771 MiB, 580.1, 9.0\n", 0: "| NVIDIA-SMI 580.1   CUDA Version: 13.0 |"}
    monkeypatch.setattr(gpu_card, "_nvidia_smi", lambda *arguments: told[bool(arguments)])
    assert find_card() == H200
    assert str(H200) == "NVIDIA H200, 143771 MiB, compute capability 9.0, driver 580.1, CUDA 13.0"


def test_without_a_driver_the_reason_says_so(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Unavailable, match="no GPU here: there is no nvidia-smi"):
        find_card()


def report(**rows: float | None) -> Found:
    """On an H200; milliseconds by side, None for one that the gate refuses."""
    names = {"eager": (EAGER, "fp32"), "graph": (GRAPH, "fp16"), "cpu": (CPU, "fp32")}
    made = [
        Row(
            side=names[key][0],
            precision=names[key][1],
            p50=ms or 0.1,
            p99=2.0,
            runs=9,
            passes=ms is not None,
            agreement="τ",
        )
        for key, ms in rows.items()
    ]
    return Found(
        date="2026-01-01",
        card=H200,
        no_card="",
        bundle="made up",
        command="radrank bench gpu",
        machine={"cores": "16"},
        measured=(Measured(cell=SAGE, rows=made),),
        loads=(Load(kind="image", rate=500.0, objective_ms=8.0, achieved=499.0, p50=3.0, p99=9.0, runtime="cuda"),),
    )


@pytest.mark.parametrize(("ms", "verdict"), [(0.25, "reached"), (0.31, "**missed**"), (None, "not measured")])
def test_what_is_wanted_is_held_against_the_side_that_may_serve(ms, verdict):
    rerank, p50, p99 = aims(report(eager=0.01, graph=ms))
    assert (rerank.wanted, rerank.verdict) == (0.3, verdict)
    assert [aim.verdict for aim in (p50, p99)] == ["reached", "**missed**"]


def test_a_cpu_s_searches_are_no_answer_to_what_is_wanted_of_a_gpu():
    assert [aim.verdict for aim in aims(replace(report(cpu=1.0), card=None))] == ["not measured"] * 3


def test_the_report_shows_sides_by_cells_and_the_plot_is_drawn(tmp_path):
    made = report(eager=4.0, graph=None)
    told = gpu_markdown(made)
    assert "| torch eager | fp32 | 4.00 / 2.00 (9) |" in told
    assert "τ: **refused**" in told
    assert "| image | 500 | 499.0 | 3.0 | 9.0 | no, p99 8 ms |  | cuda  |" in told
    gpu_plot(made, tmp_path / "gpu.png")
    gpu_plot(replace(made, measured=()), tmp_path / "none.png")
    assert (tmp_path / "gpu.png").stat().st_size > 10_000


def test_a_server_that_is_not_loaded_for_want_of_time_is_named(tmp_path):
    loads = list(under_load(tiny_bundle(), tmp_path, Loads(), tmp_path, left=lambda: 10.0))
    assert [(load.kind, load.reason) for load in loads] == [
        (kind, "no time left") for kind in ("image", "text", "embedding")
    ]


def test_a_server_that_does_not_start_is_named_with_the_reason(tmp_path, monkeypatch):
    @contextmanager
    def broken(bundle, archive):
        raise Unavailable("the server did not start")
        yield

    monkeypatch.setattr(gpu_serving, "serving", broken)
    loads = list(under_load(tiny_bundle(), tmp_path, Loads(kinds=("text",)), tmp_path, left=lambda: 1e3))
    assert [load.reason for load in loads] == ["the server did not start"]


def test_the_load_generator_s_figures_are_taken_over():
    run = {"achieved": 498.0, "latency_ms": {"OK": {"p50": 3.5, "p99": 7.9}}, "errors": {"UNAVAILABLE": 2}}
    run |= {"skipped": 0, "void": False, "reason": "", "meets_objective": True}
    told = {"runs": [run], "server": {"runtime": "onnxruntime-cuda 1", "precision": "fp16"}}
    load = read(told, Load(kind="image", rate=500.0, objective_ms=8.0))
    assert (load.p50, load.p99, load.met, load.errors) == (3.5, 7.9, True, "UNAVAILABLE 2")
    assert load.runtime == "onnxruntime-cuda 1"


def test_the_command_writes_its_files_and_has_an_example(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "load_backbone", lambda name, weights: tiny_backbone())
    monkeypatch.setattr(gpu_found, "CELL_SECONDS", 0.1)
    asked = ["--only", "text", "--batches", "1", "--minutes", "0.1", "--out", str(tmp_path / "results")]
    ran = CliRunner().invoke(bench, ["gpu", "--bundle", str(tiny_bundle()), *asked])
    assert ran.exit_code == 0, ran.output
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == ["gpu.json", "gpu.md", "gpu.png"]
    stored = json.loads((tmp_path / "results" / "gpu.json").read_text())
    assert stored["measured"][0]["cell"]["model"] == "text_encoder"
    assert "Example: radrank bench gpu" in CliRunner().invoke(bench, ["gpu", "--help"]).output
