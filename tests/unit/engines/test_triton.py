"""Models on a Triton in this process: the same answers, deadlines passed on, one retry, no other model believed."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from helpers.doubles import IMAGE_SIZE
from helpers.kserve import EngineDouble, graph_feed, served_bundle, spec
from helpers.triton_double import ScriptedTriton, scripted_triton
from radrank.core.errors import DeadlineTooShort, InvalidQuery, Mismatch, MissingExtra, Overloaded, Unavailable
from radrank.core.timing import Deadline
from radrank.engines import triton as module
from radrank.engines import triton_link
from radrank.engines.engine import Engine
from radrank.engines.runtimes import RUNTIMES, EngineSettings, choices
from radrank.engines.triton import TritonEngine

Code = grpc.StatusCode
FEED = {"pixels": np.full((2, IMAGE_SIZE, IMAGE_SIZE), 7, np.uint8)}


@pytest.fixture
def bundle():
    return served_bundle()


@pytest.fixture
def triton(bundle) -> Iterator[ScriptedTriton]:
    with scripted_triton(bundle.engines, bundle.models) as running:
        yield running


@pytest.fixture
def opened(bundle, triton):
    """Opens models of the bundle on it."""
    engines: list[Engine] = []

    def open_model(name: str = "image_encoder", **settings) -> Engine:
        named = {"runtime": "triton", "triton": triton.address} | settings
        engines.append(RUNTIMES["triton"](bundle.models[name], EngineSettings(**named)))
        return engines[-1]

    yield open_model
    for engine in engines:
        engine.close()


def settled(engine):
    """The answer once the channel is connected again."""
    for _ in range(200):
        try:
            return engine.run(FEED)
        except Unavailable as error:
            if "does not answer" not in str(error):
                raise
            time.sleep(0.02)
    raise AssertionError("it did not come back")


def test_every_model_answers_as_it_does_here(bundle, opened):
    ids = np.arange(24).reshape(3, 8)
    for name, feed in (("image_encoder", FEED), ("text_encoder", {"ids": ids}), ("reranker_sage", graph_feed())):
        here, there = bundle.engines[name], opened(name)
        assert (there.inputs, there.outputs) == (here.inputs, here.outputs)
        expected, found = here.run(feed), there.run(feed)
        assert found.keys() == expected.keys()
        for output in expected:
            np.testing.assert_array_equal(found[output], expected[output])
            found[output][...] = 0  # the caller's own


def test_provenance_is_what_triton_says(opened):
    made = opened().manifest
    assert (made.sha256, made.precision, made.runtime) == ("a" * 64, "fp32", "triton 2.51.0")


def test_a_request_is_raw_and_names_version_and_outputs(triton, opened):
    triton.version = "7"
    opened().run(FEED)
    (call,) = triton.asked()
    assert (call.request.model_version, [wanted.name for wanted in call.request.outputs]) == ("7", ["vectors"])
    assert list(call.request.raw_input_contents) == [FEED["pixels"].tobytes()]
    assert not call.request.inputs[0].HasField("contents")


def test_more_rows_than_triton_takes_are_asked_in_parts(bundle, triton, opened):
    many = {"pixels": np.random.default_rng(1).integers(0, 256, (9, IMAGE_SIZE, IMAGE_SIZE), np.uint8)}
    found = opened().run(many)["vectors"]
    assert [call.request.inputs[0].shape[0] for call in triton.asked()] == [4, 4, 1]
    np.testing.assert_allclose(found, bundle.engines["image_encoder"].run(many)["vectors"], rtol=1e-6)


def test_engines_of_one_address_share_a_channel_until_the_last_is_closed(bundle, triton):
    first, second = (
        TritonEngine(bundle.models[name], address=triton.address) for name in ("image_encoder", "text_encoder")
    )
    link = triton_link._links[triton.address, None]
    first.close()
    second.run({"ids": np.zeros((1, 8), np.int64)})
    second.close()
    assert (triton.address, None) not in triton_link._links
    with pytest.raises(ValueError, match="closed"):
        link.version()


def test_what_is_no_input_is_refused_before_it_is_sent(triton, opened):
    engine = opened()
    with pytest.raises(InvalidQuery, match="pixels: is missing"):
        engine.run({"ids": np.zeros((1, 8), np.int64)})
    with pytest.raises(InvalidQuery, match="pixels: must be uint8 with 3 axes"):
        engine.run({"pixels": np.zeros((1, IMAGE_SIZE, IMAGE_SIZE), np.float32)})
    assert not triton.asked()


# What it is opened with.


def test_it_serves_where_it_is_named_and_never_by_itself():
    assert "triton" not in [name for name, _ in choices(EngineSettings())]
    assert [name for name, _ in choices(EngineSettings(runtime="triton"))] == ["triton"]


def test_without_an_address_the_setting_is_named(opened):
    with pytest.raises(InvalidQuery, match=r"^engines\.triton: must name a Triton's gRPC"):
        opened(triton=None)


def test_without_tritonclient_the_extra_is_named(opened, monkeypatch):
    monkeypatch.setitem(sys.modules, "tritonclient.grpc", None)
    with pytest.raises(MissingExtra, match=r'pip install "radrank\[triton\]"'):
        opened()


def test_where_nobody_listens_it_is_said_at_once_and_plainly(triton, opened):
    triton.stop()
    start = time.monotonic()
    with pytest.raises(Unavailable, match=rf"engines\.triton: no Triton is ready at {triton.address}.* start it"):
        opened()
    assert time.monotonic() - start < 5
    assert (triton.address, None) not in triton_link._links


def test_what_speaks_another_protocol_is_no_triton(opened):
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with pytest.raises(Unavailable, match=r"not the gRPC port of a Triton \(UNIMPLEMENTED\)"):
        opened(triton=f"127.0.0.1:{port}")
    server.stop(None).wait()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"sha256": "b" * 64}, f"expected sha256 {'a' * 64}, found {'b' * 64}"),
        ({"sha256": ""}, f"expected sha256 {'a' * 64}, found none"),
        ({"precision": "fp16"}, "expected precision fp32, found fp16"),
    ],
)
def test_a_triton_with_another_model_is_refused_with_the_cure(triton, opened, changes, told):
    triton.exchange("image_encoder", **changes)
    with pytest.raises(Mismatch) as caught:
        opened(precision="fp32")
    assert told in str(caught.value)
    assert "radrank export triton --bundle . --snapshot SNAPSHOT --to REPOSITORY" in str(caught.value)


def test_a_triton_that_tells_no_precision_is_refused(triton, opened):
    triton.exchange("image_encoder", precision="")
    with pytest.raises(Mismatch, match="expected precision fp32, found none"):
        opened()


def test_where_no_precision_is_named_tritons_own_is_taken_to_the_gate(triton, opened):
    triton.exchange("image_encoder", precision="fp16")
    assert opened().manifest.precision == "fp16"


def test_a_triton_without_the_model_is_refused(triton, opened):
    triton.models = {}
    with pytest.raises(Mismatch, match=r"image_encoder on the Triton .* expected to be there, found NOT_FOUND"):
        opened()


def test_a_model_with_other_inputs_is_refused(triton, opened):
    triton.engines = {"image_encoder": triton.engines["text_encoder"]}
    with pytest.raises(Mismatch, match=r"expected inputs \['pixels'\], found \['ids'\]"):
        opened()


def test_tensors_that_are_no_numbers_are_refused(triton, opened):
    words = EngineDouble(inputs=(spec("pixels", object, -1),), outputs=(), answer=dict)
    triton.engines = {"image_encoder": words}
    with pytest.raises(Mismatch, match="expected tensors of numbers, found pixels of BYTES"):
        opened()


# What goes wrong later.


def test_a_connection_that_ends_is_tried_once_more(triton, opened):
    engine = opened()
    triton.codes.append(Code.UNAVAILABLE)
    assert engine.run(FEED)["vectors"].shape[0] == 2
    assert len(triton.asked()) == 2


def test_once_and_not_again(triton, opened):
    engine = opened()
    triton.codes.extend([Code.UNAVAILABLE] * 5)
    with pytest.raises(Unavailable, match="does not answer"):
        engine.run(FEED)
    assert len(triton.asked()) == 2


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (Code.RESOURCE_EXHAUSTED, Overloaded),
        (Code.DEADLINE_EXCEEDED, DeadlineTooShort),
        (Code.INVALID_ARGUMENT, InvalidQuery),
        (Code.INTERNAL, Unavailable),
        (Code.NOT_FOUND, Unavailable),
        (Code.UNAUTHENTICATED, Unavailable),
    ],
)
def test_what_another_try_would_not_cure_is_not_tried_again(triton, opened, caplog, code, error):
    engine = opened()
    triton.codes.append(code)
    with Deadline(20.0).running(), pytest.raises(error) as caught:
        engine.run(FEED)
    assert len(triton.asked()) == 1
    assert "patient" not in str(caught.value) + caplog.text


def test_a_dead_triton_is_told_at_once_and_comes_back_by_itself(triton, opened, caplog):
    engine = opened()
    with caplog.at_level(logging.INFO, logger="radrank"):
        triton.stop()
        for _ in range(3):
            start = time.monotonic()
            with pytest.raises(Unavailable):
                engine.run(FEED)
            assert time.monotonic() - start < 1.0
            time.sleep(0.5)  # long enough for waits between attempts to grow, if they did
        triton.start()
        back = time.monotonic()
        assert len(settled(engine)["vectors"]) == 2
        assert time.monotonic() - back < 1.0
    told = [record.getMessage() for record in caplog.records]
    assert told == [f"the Triton at {triton.address} {what}" for what in ("does not answer", "answers again")]


@pytest.mark.parametrize("changes", [{"sha256": "b" * 64}, {"precision": "fp16"}])
def test_a_triton_that_comes_back_with_another_model_is_not_believed_until_it_has_the_right_one(
    triton, opened, caplog, changes
):
    engine, right = opened(), triton.models
    engine.run(FEED)
    triton.stop()
    triton.exchange("image_encoder", **changes)
    triton.start()
    before = len(triton.asked())
    for _ in range(3):
        with pytest.raises(Unavailable, match="another model"):
            settled(engine)
    assert len(triton.asked()) == before
    assert caplog.text.count("radrank export triton --bundle") == 1
    triton.models = right
    assert len(engine.run(FEED)["vectors"]) == 2


def test_a_model_exchanged_in_place_is_noticed_within_a_second(triton, opened, monkeypatch):
    engine = opened()
    engine.run(FEED)
    asked = len(triton.asked("ModelConfig"))
    for _ in range(5):
        engine.run(FEED)
    assert len(triton.asked("ModelConfig")) == asked  # not at every request
    triton.exchange("image_encoder", sha256="b" * 64)
    assert module.TRUSTED_SECONDS <= 1.0
    monkeypatch.setattr(module, "TRUSTED_SECONDS", 0.0)  # instead of waiting for it
    with pytest.raises(Unavailable, match="another model"):
        engine.run(FEED)


def test_a_version_that_is_withdrawn_is_not_replaced_by_another(triton, opened):
    engine = opened()
    triton.version = "2"
    triton.codes.append(Code.UNAVAILABLE)
    with pytest.raises(Unavailable, match="another model"):
        engine.run(FEED)


def test_another_release_of_triton_is_told_in_the_provenance(triton, opened):
    engine = opened()
    triton.release = "2.60.0"
    triton.codes.append(Code.UNAVAILABLE)
    engine.run(FEED)
    assert engine.manifest.runtime == "triton 2.60.0"


def no_outputs(response):
    del response.outputs[:], response.raw_output_contents[:]


def renamed(response):
    response.outputs[0].name = "scores"


def cut(response):
    response.raw_output_contents[0] = response.raw_output_contents[0][:-4]


def of_another_version(response):
    response.model_version = "2"


@pytest.mark.parametrize("spoiled", [no_outputs, renamed, cut, of_another_version])
def test_an_answer_that_was_not_asked_for_does_not_count(triton, opened, spoiled):
    engine = opened()
    triton.spoiled = spoiled
    with pytest.raises(Unavailable, match="refused"):
        engine.run(FEED)


# Deadlines.


def test_the_running_deadline_is_passed_on_less_what_the_reply_needs(triton, opened):
    engine = opened()
    with Deadline(2.0).running():
        engine.run(FEED)
    assert 1.5 < triton.asked()[-1].seconds < 2.0


def test_without_one_a_call_is_bounded_all_the_same(triton, opened):
    engine = opened()
    engine.run(FEED)
    with Deadline(3_600.0).running():
        engine.run(FEED)
    assert [29.0 < call.seconds < 30.5 for call in triton.asked()] == [True, True]


def test_a_triton_that_takes_too_long_leaves_time_to_say_so(triton, opened):
    engine = opened()
    triton.delay = 1.0
    deadline = Deadline(0.3)
    with deadline.running(), pytest.raises(DeadlineTooShort):
        engine.run(FEED)
    assert deadline.leaves(0.0)
    assert len(triton.asked()) == 1


def test_with_no_deadline_it_is_unavailable(triton, opened, monkeypatch):
    engine = opened()
    monkeypatch.setattr(triton_link, "LONGEST_SECONDS", 0.2)
    triton.delay = 1.0
    with pytest.raises(Unavailable, match=r"within 0\.2 s"):
        engine.run(FEED)


def test_what_is_late_already_is_not_sent(triton, opened):
    engine = opened()
    with Deadline(-1.0).running(), pytest.raises(DeadlineTooShort):
        engine.run(FEED)
    assert not triton.asked()


def test_a_retry_that_has_no_time_is_told_as_unavailable(triton, opened):
    engine = opened()
    triton.codes.append(Code.UNAVAILABLE)
    triton.delay = 1.0
    with Deadline(0.3).running(), pytest.raises(Unavailable, match="does not answer"):
        engine.run(FEED)


def test_a_proxy_of_the_environment_sees_nothing(opened, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "")
    assert len(opened().run(FEED)["vectors"]) == 2
