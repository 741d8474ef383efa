"""ModelStatistics: counts and nanoseconds of what really happened."""

from __future__ import annotations

import threading
import time

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from helpers.kserve import CLIENTS, client_of, refusal, served_bundle, tensor
from helpers.serving import STUDIES, serving

STAGES = ("queue", "compute_input", "compute_infer", "compute_output")


def ids(rows: int = 1):
    return [tensor("ids", np.ones((rows, 4), np.int64))]


def of(client, model):
    (found,) = client.get_inference_statistics(model).model_stats
    return found


@pytest.fixture(params=CLIENTS)
def counted(tmp_path, request):
    """(client, the text encoder's engine) of a server that nobody has asked yet, and that computes one at a time."""
    limits = {"workers": 1, "in_flight": 8}
    with (
        serving(tmp_path / "home", STUDIES[:3], bundle=served_bundle(), limits=limits) as running,
        client_of(request.param, running.address) as client,
    ):
        yield client, running.library.engines.engines["text_encoder"]


def test_all_models_start_at_zero(counted):
    stats = counted[0].get_inference_statistics().model_stats
    assert [found.name for found in stats] == ["image_encoder", "text_encoder", "reranker_sage", "search"]
    for found in stats:
        assert (found.version, found.inference_count, found.execution_count, found.last_inference) == ("1", 0, 0, 0)
        assert found.inference_stats.success.count == found.inference_stats.fail.count == 0


def test_requests_items_and_faults_are_counted(counted):
    client, _ = counted
    before = time.time() * 1_000
    for rows in (1, 1, 3):
        client.infer("text_encoder", ids(rows))
    refusal(lambda: client.infer("text_encoder", []))
    client.stream([{"model_name": "text_encoder", "inputs": ids()}])
    found = of(client, "text_encoder")
    assert (found.inference_count, found.execution_count) == (6, 4)
    assert (found.inference_stats.success.count, found.inference_stats.fail.count) == (4, 1)
    assert found.inference_stats.fail.ns > 0
    assert before - 1 <= found.last_inference <= time.time() * 1_000
    assert [(each.batch_size, each.compute_infer.count) for each in found.batch_stats] == [(1, 3), (3, 1)]
    assert of(client, "image_encoder").execution_count == 0


def test_the_stages_add_up_to_the_whole(counted):
    client, _ = counted
    start = time.perf_counter_ns()
    for _ in range(5):
        client.infer("text_encoder", ids())
    waited = time.perf_counter_ns() - start
    stats = of(client, "text_encoder").inference_stats
    parts = [getattr(stats, stage) for stage in STAGES]
    assert [part.count for part in parts] == [5] * 4
    assert all(part.ns > 0 for part in parts)
    assert sum(part.ns for part in parts) == stats.success.ns <= waited


def test_what_a_model_takes_is_its_compute(counted, monkeypatch):
    client, engine = counted
    answer = engine.answer
    monkeypatch.setattr(engine, "answer", lambda feed: (time.sleep(0.1), answer(feed))[1])
    client.infer("text_encoder", ids())
    stats = of(client, "text_encoder").inference_stats
    assert stats.compute_infer.ns >= 100_000_000
    assert sum(getattr(stats, stage).ns for stage in STAGES if stage != "compute_infer") < 100_000_000


def test_waiting_for_a_turn_is_queueing(counted, monkeypatch):
    client, engine = counted
    began, go_on = threading.Event(), threading.Event()
    answer = engine.answer

    def slow(feed):
        began.set()
        go_on.wait(20)
        return answer(feed)

    monkeypatch.setattr(engine, "answer", slow)
    with client_of("sync", client.address) as first:
        ahead = threading.Thread(target=lambda: first.infer("text_encoder", ids()), daemon=True)
        ahead.start()
        assert began.wait(20)
        threading.Timer(0.15, go_on.set).start()
        client.infer("text_encoder", ids(), client_timeout=20.0)
        ahead.join(20)
    assert 100_000_000 <= of(client, "text_encoder").inference_stats.queue.ns < 10_000_000_000


def test_a_streams_request_waits_from_when_it_came_not_from_the_streams_start(counted):
    client, _ = counted

    def requests():
        for name in ("first", "second"):
            yield service_pb2.ModelInferRequest(
                model_name="text_encoder",
                id=name,
                inputs=[{"name": "ids", "datatype": "INT64", "shape": [1, 4]}],
                raw_input_contents=[np.ones((1, 4), np.int64).tobytes()],
            )
            time.sleep(0.3)

    with grpc.insecure_channel(client.address) as channel:
        answers = list(service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(requests(), timeout=20))
    assert [answer.error_message for answer in answers] == ["", ""]
    assert of(client, "text_encoder").inference_stats.queue.ns < 200_000_000
