"""What `bench stages` makes of times, and its floors over a real bundle; the server itself is in tests/e2e."""

from __future__ import annotations

import json
from contextlib import contextmanager

import numpy as np
import pytest

from helpers.made_up import tiny_bundle
from radrank.bench import stages as module
from radrank.bench._stages_report import overhead, stages_markdown, stages_plot
from radrank.bench.floors import Floors
from radrank.bench.footprint import make_home
from radrank.bench.sides import in_process, questions
from radrank.bench.stages import BEYOND, EMBEDDING, IMAGE, REPLY, STAGES, TEXT, WHOLE, WIRE, Stages, kind_of
from radrank.client.results import StageTimes

FLOORS = [f"floor {name}" for name in ("candidates", "graph", "rerank", "order")]


@contextmanager
def silent(label, total):
    yield lambda done: None


@pytest.fixture(scope="module")
def floors(tmp_path_factory):
    home = tmp_path_factory.mktemp("stages") / "archive"
    make_home(home, tiny_bundle(), 200, threads=1, bar=silent)
    with in_process(tiny_bundle(), home) as (bundle, ranker):
        yield Floors(bundle, ranker, "sage", candidates=50)


def names(calls) -> list[str]:
    return [name for call in calls for name in call()]


def test_every_kind_of_query_has_the_floors_of_the_stages_that_it_runs(floors):
    question = questions("demo", None, 1)[0]
    assert names(floors.of_embedding(question.phrase)) == ["floor decode", *FLOORS, "scan"]
    assert names(floors.of_text(question.phrase)) == ["floor encode", *FLOORS, "scan"]
    assert names(floors.of_image(question.image)) == ["floor decode", "floor encode", *FLOORS, "scan"]


def test_the_engines_floor_is_the_engine_on_the_queries_own_graph(floors, monkeypatch):
    fed: list[dict] = []

    class Engine:
        inputs = floors._engine.inputs

        def run(self, feed):
            fed.append(feed)

    monkeypatch.setattr(floors, "_engine", Engine())
    for call in floors.of_embedding("normal heart"):
        call()
    assert list(fed[0]) == [given.name for given in Engine.inputs]
    assert fed[0]["base"].shape == (1, 100)  # 50 candidates in the bucket of 100
    assert fed[0]["mask"].sum() == 50


def test_what_the_client_sees_is_split_without_rest(monkeypatch):
    class Reply:
        times = StageTimes(
            decode_us=10, encode_us=200, candidates_us=300, graph_us=1000, rerank_us=1500, order_us=90, total_us=3200
        )

    class Client:
        def search(self, **query):
            return Reply()

    ticks = iter([0, 4_000_000])
    monkeypatch.setattr(module, "perf_counter_ns", lambda: next(ticks))
    told = module._told(Client(), {"text": "a"})
    assert told == pytest.approx(
        {
            "decode": 0.01,
            "encode": 0.2,
            "candidates": 0.3,
            "graph": 1.0,
            "rerank": 1.5,
            "order": 0.09,
            REPLY: 0.1,
            WIRE: 0.8,
            BEYOND: 0.9,
            WHOLE: 4.0,
        }
    )
    assert sum(told[stage] for stage in STAGES) + told[BEYOND] == pytest.approx(told[WHOLE])


def times(**milliseconds: float) -> dict[str, np.ndarray]:
    """Three questions, two rounds; a tenth more from one to the next."""
    spread = np.array([[0.9, 0.9], [1.0, 1.0], [1.1, 1.1]])
    return {name.replace("_", " "): spread * value for name, value in milliseconds.items()}


def result(beyond: float = 0.7) -> Stages:
    stages = dict.fromkeys(STAGES, 1.0) | {"decode": 0.0}
    found = times(**stages, reply=0.1, wire=0.6, client=6.0, floor_rerank=0.5, floor_wire=0.35, scan=0.2)
    found[BEYOND] = times(beyond=beyond)["beyond"]
    return Stages(
        kinds=[kind_of(name, found) for name in (EMBEDDING, TEXT, IMAGE)],
        bundle="tiny",
        reranker="sage",
        studies=200,
        queries=3,
        candidates=100,
        rounds=2,
        command="radrank bench stages --out results",
        machine={"cores": "2"},
    )


def test_a_stage_stands_beside_its_floor():
    kind = result().kinds[0]
    rerank, graph = kind.stage("rerank"), kind.stage("graph")
    assert (rerank.ms, rerank.floor_ms, rerank.over.value) == (1.0, 0.5, 2.0)
    assert (graph.ms, graph.floor_ms, graph.over) == (1.0, None, None)
    assert kind.stage("decode").over is None  # did not run
    assert kind.stage(BEYOND).over.value == pytest.approx(2.0)  # an empty call is the floor of both
    assert kind.scan_ms == 0.2


def test_what_a_client_sees_beyond_the_stages_is_held_to_a_millisecond():
    assert "0.700 ms, at most 1 ms" in overhead(result())
    assert "1.300 ms, **more than** 1 ms" in overhead(result(1.3))


def test_the_tables_are_of_all_kinds_and_the_result_is_json_and_a_picture(tmp_path):
    told = stages_markdown(result())
    assert [line for line in told.splitlines() if line.startswith("## ")] == ["## embedding", "## text", "## image"]
    assert "| rerank | 1.000 | 0.500 | 2.00 [2.00, 2.00] | the same engine in a bare loop |" in told
    assert "| graph | 1.000 |  |  |  |" in told
    assert "`radrank bench stages --out results`" in told
    kept = json.loads(json.dumps(result().to_json(), allow_nan=False))
    assert kept["kinds"][0]["stages"][0]["name"] == "decode"
    stages_plot(result(), tmp_path / "stages.png")
    assert (tmp_path / "stages.png").read_bytes().startswith(b"\x89PNG")
