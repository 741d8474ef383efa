"""ModelStreamInfer: answers in order, one request's fault is its own answer, a place of its own for each stream."""

from __future__ import annotations

import threading
import time

import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

from helpers.doubles import IMAGE_SIZE, HashingEncoder
from helpers.kserve import SyncClient, refusal, served_bundle, sync_client, tensor
from helpers.serving import STUDIES, serving

PIXELS = np.random.default_rng(1).integers(0, 256, (8, IMAGE_SIZE, IMAGE_SIZE), dtype=np.uint8)


def asked(place: int, model: str = "image_encoder") -> dict[str, object]:
    """A request for one of PIXELS."""
    inputs = [tensor("pixels", PIXELS[place : place + 1])]
    return {"model_name": model, "inputs": inputs, "request_id": str(place)}


def test_answers_come_in_the_order_of_the_requests(client):
    answers = client.stream([asked(place) for place in range(8)])
    expected = HashingEncoder().encode_images(PIXELS)
    for place, (result, error) in enumerate(answers):
        assert error is None
        assert result.get_response().id == str(place)
        assert result.get_response().parameters["triton_final_response"].bool_param
        assert np.array_equal(result.as_numpy("vectors")[0], expected[place])


def test_a_stream_may_ask_several_models(client):
    answers = client.stream([asked(0), {"model_name": "search", "inputs": [tensor("text", "finding1")]}, asked(1)])
    assert [result.get_response().model_name for result, _ in answers] == ["image_encoder", "search", "image_encoder"]


def test_a_fault_is_its_own_requests_answer_and_the_stream_goes_on(client):
    faulty = {"model_name": "image_encoder", "inputs": [tensor("pixels", PIXELS[0])], "request_id": "faulty"}
    answers = client.stream([asked(0), faulty, asked(1, model="unknown"), asked(2)])
    assert [result is not None for result, _ in answers] == [True, False, False, True]
    assert "pixels: has the shape" in str(answers[1][1])
    assert "no such model" in str(answers[2][1])


def test_a_faults_answer_names_its_request(kserve):
    stub = service_pb2_grpc.GRPCInferenceServiceStub(kserve.channel)
    requests = [service_pb2.ModelInferRequest(model_name=name, id=name) for name in ("unknown", "text_encoder")]
    answers = list(stub.ModelStreamInfer(iter(requests), timeout=20))
    assert [(bool(answer.error_message), answer.infer_response.id) for answer in answers] == [
        (True, "unknown"),
        (True, "text_encoder"),
    ]


def test_idle_streams_leave_room_for_calls_and_their_number_is_bounded(tmp_path):
    limits = {"workers": 1, "in_flight": 1, "streams": 1}
    with (
        serving(tmp_path / "home", STUDIES[:3], bundle=served_bundle(), limits=limits) as running,
        sync_client.InferenceServerClient(running.address) as client,
    ):
        answered = threading.Event()
        client.start_stream(lambda result, error: answered.set())
        client.async_stream_infer(**asked(0))
        assert answered.wait(20)
        assert client.infer(**asked(1)).as_numpy("vectors").shape[0] == 1
        second = service_pb2_grpc.GRPCInferenceServiceStub(running.channel).ModelStreamInfer(iter([]), timeout=20)
        assert refusal(lambda: list(second))[0] == "RESOURCE_EXHAUSTED"
        client.stop_stream()


def test_stopping_the_server_ends_an_idle_stream_at_once(tmp_path):
    with serving(tmp_path / "home", STUDIES[:3], bundle=served_bundle()) as running:
        client = SyncClient(running.address)
        answered = threading.Event()
        client.start_stream(lambda result, error: answered.set())
        client.async_stream_infer(**asked(0))
        assert answered.wait(20)
        start = time.monotonic()
        running.server.stop(15.0)
        assert time.monotonic() - start < 10.0
        client.close()
