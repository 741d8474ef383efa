"""ModelInfer: what is sent reaches the engine as it is, or is refused by its name."""

from __future__ import annotations

import re

import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from helpers.doubles import IMAGE_SIZE, HashingEncoder
from helpers.kserve import (
    RERANKED,
    VOCABULARY,
    graph_feed,
    refusal,
    sync_client,
    tensor,
    tensors,
)
from helpers.serving import error_of

MODELS = ["image_encoder", "text_encoder", "reranker_sage", "search"]
PIXELS = np.random.default_rng(0).integers(0, 256, (3, IMAGE_SIZE, IMAGE_SIZE), dtype=np.uint8)
IDS = np.arange(10, dtype=np.int64).reshape(2, 5)


@pytest.fixture
def stub(kserve):
    """The service without a client around it, for requests that tritonclient does not make."""
    return service_pb2_grpc.GRPCInferenceServiceStub(kserve.channel)


def typed(name, datatype, shape, model="text_encoder", **contents):
    """A request with typed contents."""
    given = {"name": name, "datatype": datatype, "shape": shape, "contents": contents}
    return service_pb2.ModelInferRequest(model_name=model, inputs=[given])


def test_an_encoder_gets_the_batch_as_it_was_sent(client, kserve):
    engine = kserve.library.engines.engines["image_encoder"]
    engine.feeds.clear()
    result = client.infer("image_encoder", [tensor("pixels", PIXELS)])
    assert np.array_equal(result.as_numpy("vectors"), HashingEncoder().encode_images(PIXELS))
    assert [feed["pixels"].shape for feed in engine.feeds] == [PIXELS.shape]
    assert np.array_equal(engine.feeds[0]["pixels"], PIXELS)


def test_a_reranker_scores_a_graph(client, kserve):
    feed = graph_feed(candidates=6, graphs=2)
    scores = client.infer("reranker_sage", tensors(feed)).as_numpy("scores")
    assert scores.shape == (2, 6)
    assert np.array_equal(scores, kserve.library.engines.engines["reranker_sage"].run(feed)["scores"])


def test_a_request_id_and_version_come_back(client):
    result = client.infer(
        "text_encoder", [tensor("ids", IDS)], model_version="1", request_id="request-7"
    ).get_response()
    assert (result.id, result.model_name, result.model_version) == ("request-7", "text_encoder", "1")
    assert client.infer("text_encoder", [tensor("ids", IDS)]).get_response().id == ""


def test_only_the_outputs_that_are_asked_for_come_in_their_order(client):
    wanted = [sync_client.InferRequestedOutput(name) for name in ("scores", "ids")]
    result = client.infer("search", [tensor("text", "finding1")], outputs=wanted)
    assert [output.name for output in result.get_response().outputs] == ["scores", "ids"]
    assert result.as_numpy("cosines") is None
    assert result.as_numpy("ids").shape == result.as_numpy("scores").shape == (10,)


def test_typed_contents_say_the_same_as_raw_ones(stub, client):
    raw = client.infer("text_encoder", [tensor("ids", IDS)]).get_response().raw_output_contents
    answer = stub.ModelInfer(typed("ids", "INT64", [2, 5], int64_contents=IDS.ravel().tolist()), timeout=20)
    assert answer.raw_output_contents == raw
    words = typed("text", "BYTES", [1], model="search", bytes_contents=[b"finding1"])
    first = client.infer("search", [tensor("text", "finding1")]).get_response().raw_output_contents
    assert stub.ModelInfer(words, timeout=20).raw_output_contents == first
    pixels = typed("pixels", "UINT8", PIXELS.shape, model="image_encoder", uint_contents=PIXELS.ravel().tolist())
    vectors = np.frombuffer(stub.ModelInfer(pixels, timeout=20).raw_output_contents[0], "<f4")
    assert np.array_equal(vectors.reshape(3, -1), HashingEncoder().encode_images(PIXELS))


def test_raw_and_typed_contents_in_one_request_are_refused(stub):
    request = typed("ids", "INT64", [2, 5], int64_contents=IDS.ravel().tolist())
    request.raw_input_contents.append(IDS.tobytes())
    with pytest.raises(Exception, match="raw_input_contents") as caught:
        stub.ModelInfer(request, timeout=20)
    assert error_of(caught.value)[0] == "INVALID_ARGUMENT"


REFUSED = {
    "unknown model": ("unknown", [("ids", IDS)], "NOT_FOUND", "this server has image_encoder, text_encoder"),
    "wrong datatype": ("text_encoder", [("ids", IDS.astype(np.int32))], "INVALID_ARGUMENT", "ids: is INT32.*INT64"),
    "wrong rank": ("text_encoder", [("ids", IDS[0])], "INVALID_ARGUMENT", r"ids: .*\[5\].*\[-1, -1\]"),
    "wrong size": ("image_encoder", [("pixels", PIXELS[:, :30])], "INVALID_ARGUMENT", r"pixels: .*\[3, 30, 32\]"),
    "missing input": ("text_encoder", [], "INVALID_ARGUMENT", "ids: is missing"),
    "unknown input": ("text_encoder", [("ids", IDS), ("mask", IDS)], "INVALID_ARGUMENT", "it takes ids"),
    "an input twice": ("text_encoder", [("ids", IDS), ("ids", IDS)], "INVALID_ARGUMENT", "twice"),
    "too many at once": ("image_encoder", [("pixels", np.repeat(PIXELS, 2, axis=0))], "INVALID_ARGUMENT", "at most 4"),
    "too many tokens": (
        "text_encoder",
        [("ids", np.zeros((1, 17), np.int64))],
        "INVALID_ARGUMENT",
        "ids: .*at most 16",
    ),
    "an unknown token": ("text_encoder", [("ids", IDS + VOCABULARY)], "INVALID_ARGUMENT", "ids: .*from 0 to 99"),
    "a negative token": ("text_encoder", [("ids", IDS - 1)], "INVALID_ARGUMENT", "ids: .*from 0 to 99"),
}


@pytest.mark.parametrize(("model", "inputs", "code", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_wrong_with_a_request_is_told_by_the_inputs_name(client, model, inputs, code, message):
    found, told = refusal(lambda: client.infer(model, [tensor(name, array) for name, array in inputs]))
    assert (found, re.search(message, told) is not None) == (code, True), told


def test_every_input_of_a_reranker_is_missed_by_its_name(client):
    for name in RERANKED:
        feed = graph_feed()
        del feed[name]
        code, message = refusal(lambda feed=feed: client.infer("reranker_sage", tensors(feed)))
        assert code == "INVALID_ARGUMENT"
        assert message.startswith(f"{name}: is missing")


def test_axes_that_belong_together_must_agree(client):
    feed = graph_feed(candidates=3) | {"mask": np.ones((1, 4), np.float32)}
    code, message = refusal(lambda: client.infer("reranker_sage", tensors(feed)))
    assert (code, message.split(":")[0]) == ("INVALID_ARGUMENT", "mask")


@pytest.mark.parametrize("row", [-2, 10_000])
def test_an_edge_to_a_node_that_is_not_there_never_reaches_the_engine(client, kserve, row):
    engine = kserve.library.engines.engines["reranker_sage"]
    feed = graph_feed()
    feed["candidate_image.idx"][0, 1, 2] = row
    engine.feeds.clear()
    code, message = refusal(lambda: client.infer("reranker_sage", tensors(feed)))
    assert (code, message.split(":")[0], engine.feeds) == ("INVALID_ARGUMENT", "candidate_image.idx", [])


def test_contents_that_do_not_fill_their_shape_are_refused(stub):
    for size in (0, 79, 81):
        request = typed("ids", "INT64", [2, 5])
        request.inputs[0].ClearField("contents")
        request.raw_input_contents.append(bytes(size))
        with pytest.raises(Exception, match="ids: holds") as caught:
            stub.ModelInfer(request, timeout=20)
        assert error_of(caught.value)[0] == "INVALID_ARGUMENT"


def test_an_unknown_version_is_not_found(client):
    for call in (client.get_model_metadata, client.get_model_config, client.get_inference_statistics):
        assert refusal(lambda call=call: call("search", "9"))[0] == "NOT_FOUND"
    code, message = refusal(lambda: client.infer("search", [tensor("text", "a")], model_version="9"))
    assert (code, "version 1 only" in message) == ("NOT_FOUND", True)


def test_an_unknown_output_is_refused_and_so_are_classes(client):
    wanted = [sync_client.InferRequestedOutput("logits")]
    code, message = refusal(lambda: client.infer("text_encoder", [tensor("ids", IDS)], outputs=wanted))
    assert (code, "it has vectors" in message) == ("INVALID_ARGUMENT", True)
    classes = [sync_client.InferRequestedOutput("vectors", class_count=3)]
    code, message = refusal(lambda: client.infer("text_encoder", [tensor("ids", IDS)], outputs=classes))
    assert (code, message.split(":")[0]) == ("INVALID_ARGUMENT", "vectors")


def test_a_fault_of_an_engine_is_internal_and_opaque(client, kserve, monkeypatch, caplog):
    def broken(feed):
        raise RuntimeError("secret contents")

    monkeypatch.setattr(kserve.library.engines.engines["text_encoder"], "answer", broken)
    code, message = refusal(lambda: client.infer("text_encoder", [tensor("ids", IDS)]))
    assert (code, "incident" in message, "secret" in message + caplog.text) == ("INTERNAL", True, False)
