"""Requests that run as one get what each would have got alone."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from helpers.circle import build, builder_of
from radrank.core.errors import InvalidQuery
from radrank.core.ports import EngineManifest
from radrank.engines.batching import Batching, requests_of, together
from radrank.engines.engine import TensorSpec


class Doubling:
    """Answers twice what it is asked, slowly; remembers how many requests came at once."""

    inputs = (TensorSpec(name="x", dtype=np.dtype(np.float32), shape=(-1, -1)),)
    outputs = (TensorSpec(name="y", dtype=np.dtype(np.float32), shape=(-1, -1)),)
    manifest = EngineManifest(sha256="", precision="fp32", runtime="double")

    def __init__(self, seconds: float = 0.02) -> None:
        self.sizes: list[int] = []
        self.closed = False
        self._seconds = seconds

    def warm_up(self, feeds) -> None:
        for feed in feeds:
            self.run(feed)

    def run(self, feed):
        self.sizes.append(len(feed["x"]))
        time.sleep(self._seconds)
        if (feed["x"] < 0).any():
            raise RuntimeError("the engine broke")
        return {"y": 2 * feed["x"]}

    def close(self) -> None:
        self.closed = True


def row(value: float, width: int = 3) -> dict[str, np.ndarray]:
    return {"x": np.full((1, width), value, np.float32)}


def test_who_comes_while_it_is_busy_goes_together_and_gets_its_own():
    engine = Doubling()
    batching = Batching(engine, most=8)
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda value: batching.run(row(value))["y"], range(64)))
    for value, answer in enumerate(answers):
        assert answer.tolist() == [[2.0 * value] * 3]
    assert sum(engine.sizes) == 64
    assert max(engine.sizes) == 8
    assert len(engine.sizes) < 32


def test_a_lone_request_does_not_wait():
    engine = Doubling(seconds=0.0)
    batching = Batching(engine, most=8)
    start = time.perf_counter()
    for value in range(20):
        batching.run(row(value))
    assert time.perf_counter() - start < 0.5
    assert engine.sizes == [1] * 20


def test_with_a_delay_an_idle_engine_waits_for_others_and_no_longer_than_until_it_is_full():
    engine = Doubling(seconds=0.0)
    batching = Batching(engine, most=4, delay=10.0)
    start = time.perf_counter()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda value: batching.run(row(value)), range(4)))
    assert engine.sizes == [4]
    assert time.perf_counter() - start < 5


def test_only_equal_shapes_go_together():
    engine = Doubling()
    batching = Batching(engine, most=8)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda value: batching.run(row(value, width=2 + value % 2))["y"], range(32)))
    assert [answer.shape[1] for answer in answers] == [2, 3] * 16


def test_what_is_larger_than_a_batch_goes_alone():
    engine = Doubling(seconds=0.0)
    wide = {"x": np.ones((9, 3), np.float32)}
    assert Batching(engine, most=8).run(wide)["y"].shape == (9, 3)
    assert engine.sizes == [9]


def test_an_engines_error_reaches_all_who_went_and_nobody_after():
    batching = Batching(Doubling(), most=8)
    barrier = threading.Barrier(4)

    def ask(value: float) -> object:
        barrier.wait()
        try:
            return batching.run(row(value))["y"]
        except RuntimeError as error:
            return str(error)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(ask, [-1.0] * 4))
    assert found == ["the engine broke"] * 4
    assert batching.run(row(1.0))["y"].tolist() == [[2.0] * 3]


def test_a_wrong_feed_is_refused_before_it_joins_others():
    with pytest.raises(InvalidQuery, match="x: must be float32"):
        Batching(Doubling(), most=8).run({"x": np.ones((1, 3))})


def test_it_closes_its_engine():
    engine = Doubling()
    Batching(engine, most=2).close()
    assert engine.closed


@pytest.mark.parametrize("counts", [(1, 1), (2, 1, 3)])
def test_graphs_put_together_are_those_that_were_built_together(counts):
    """Nodes stand elsewhere, and every edge leads to what it led to."""
    builder = builder_of()
    graphs = [build(builder, k=1 + place % 3) for place in range(sum(counts))]
    # Padded to one bucket, as equal shapes are.
    parts, start = [], 0
    for count in counts:
        parts.append(dict(builder.batch(graphs[start : start + count]).arrays))
        start += count
    joined, whole = together(parts), builder.batch(graphs).arrays
    assert requests_of(joined) == sum(counts)
    for name, array in whole.items():
        assert joined[name].shape == array.shape
        if not name.endswith(".idx") and name not in ("image", "report"):
            assert np.array_equal(joined[name], array)
    for name in ("candidate_image", "candidate_report", "query_image", "query_report"):
        source = name.split("_")[1]
        reached = [arrays[source][np.maximum(arrays[f"{name}.idx"], 0)] for arrays in (joined, whole)]
        there = whole[f"{name}.idx"] >= 0
        assert np.array_equal(joined[f"{name}.idx"] >= 0, there)
        assert np.array_equal(reached[0][there], reached[1][there])
