"""An engine that is opened when it is first asked."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from helpers.made_up import tiny_bundle
from radrank.core.errors import Unavailable
from radrank.engines.bundle import open_bundle
from radrank.engines.deferred import Deferred
from radrank.engines.onnxruntime import CpuEngine


@pytest.fixture
def model():
    return open_bundle(tiny_bundle()).models["text_encoder"]


def test_it_is_opened_once_and_by_the_first_who_asks(model):
    opened = []

    def opener() -> CpuEngine:
        opened.append(CpuEngine(model, threads=1))
        return opened[-1]

    engine = Deferred(opener)
    assert not opened
    assert [given.name for given in engine.inputs] == ["ids"]
    assert [given.name for given in engine.outputs] == ["vectors"]
    assert engine.manifest.sha256 == model.sha256
    assert len(opened) == 1


def test_what_opening_raises_every_call_raises():
    def opener() -> CpuEngine:
        raise Unavailable("there is none")

    engine = Deferred(opener)
    for _ in range(2):
        with pytest.raises(Unavailable, match="there is none"):
            engine.run({})


def test_closed_it_opens_no_more(model):
    engine = Deferred(lambda: CpuEngine(model, threads=1))
    engine.close()
    with pytest.raises(Unavailable, match="closed"):
        engine.warm_up([])


def test_of_several_who_ask_at_once_one_opens_it(model):
    opened = []

    def slow() -> CpuEngine:
        opened.append(1)
        time.sleep(0.05)
        return CpuEngine(model, threads=1)

    engine, together = Deferred(slow), threading.Barrier(8)

    def ask() -> None:
        together.wait(10)
        engine.run({"ids": np.ones((1, 16), dtype=np.int64)})

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert opened == [1]


def test_closed_it_closes_what_it_has_opened(model, monkeypatch):
    closed = []
    monkeypatch.setattr(CpuEngine, "close", lambda _: closed.append(1))
    engine = Deferred(lambda: CpuEngine(model, threads=1))
    assert engine.inputs
    engine.close()
    assert closed == [1]
    assert engine.manifest.sha256 == model.sha256  # stays true
