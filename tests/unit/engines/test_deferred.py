"""An engine that is opened when it is first asked."""

from __future__ import annotations

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
