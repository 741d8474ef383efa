"""What operators rely on: health, reflection, tokens, limits, logs."""

from __future__ import annotations

import json
import logging
import threading
import time

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from helpers.certificates import needs_openssl, self_signed
from helpers.doubles import DoubleBundle, ExactFactory
from helpers.serving import STUDIES, error_of, health, search_request, serving
from radrank.core.errors import InvalidQuery
from radrank.server.app import Server
from radrank.server.home import Home
from radrank.server.library import Library
from radrank.server.logs import JsonLines
from radrank.server.settings import load
from radrank.v1 import archive_pb2, retrieval_pb2, retrieval_pb2_grpc

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
NAMES = ("", "radrank.v1.Retrieval", "radrank.v1.Archive")


def test_health_says_serving_only_once_there_is_something_to_serve(tmp_path):
    tree = load(listen="127.0.0.1:0")
    server = Server(tree)
    address = server.start()
    with grpc.insecure_channel(address) as channel, Home(tmp_path / "home") as home:
        assert [health(channel, name) for name in NAMES] == [NOT_SERVING] * 3
        with pytest.raises(grpc.RpcError) as caught:
            retrieval_pb2_grpc.RetrievalStub(channel).Search(search_request(), timeout=10)
        assert error_of(caught.value)[0] == "UNAVAILABLE"
        library = Library(home, DoubleBundle(), ExactFactory(), tree.compaction)
        server.serve(library)
        assert [health(channel, name) for name in NAMES] == [SERVING] * 3
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=10)
        assert next(watch).status == SERVING
        stopping = threading.Thread(target=server.stop, args=(5.0,))
        stopping.start()
        assert next(watch).status == NOT_SERVING
        watch.cancel()
        stopping.join(10)
        library.close()


def test_who_watches_health_is_told_though_another_leaves_and_does_not_hold_up_the_end(tmp_path):
    with serving(tmp_path / "home", STUDIES[:3]) as running:
        stub = health_pb2_grpc.HealthStub(running.channel)
        leaves, stays = (stub.Watch(health_pb2.HealthCheckRequest(), timeout=20) for _ in range(2))
        assert next(leaves).status == next(stays).status == SERVING
        leaves.cancel()
        start = time.monotonic()
        running.server.stop(15.0)
        assert time.monotonic() - start < 10
        assert [told.status for told in stays] == [NOT_SERVING]


def test_what_is_loaded_after_the_end_is_not_served(tmp_path):
    server = Server(load(listen="127.0.0.1:0"))
    server.start()
    server.stop(0)
    with Home(tmp_path / "home") as home:
        library = Library(home, DoubleBundle(), ExactFactory(), load().compaction)
        server.serve(library)  # a library that took its time
        library.close()


def test_a_service_that_is_not_there_is_unknown_to_health(standing):
    stub, request = health_pb2_grpc.HealthStub(standing.channel), health_pb2.HealthCheckRequest(service="other")
    with pytest.raises(grpc.RpcError) as caught:
        stub.Check(request, timeout=10)
    assert error_of(caught.value)[0] == "NOT_FOUND"
    watch = stub.Watch(request, timeout=10)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    watch.cancel()


def test_before_there_is_something_to_serve_each_request_of_a_stream_is_told_so():
    server = Server(load(listen="127.0.0.1:0"))
    with grpc.insecure_channel(server.start()) as channel:
        search = search_request(query={"study": {"study_id": "S0001"}})
        requests = [retrieval_pb2.SearchStreamRequest(tag=tag, search=search) for tag in ("one", "two")]
        replies = list(retrieval_pb2_grpc.RetrievalStub(channel).SearchStream(iter(requests), timeout=20))
    server.stop(0)
    unavailable = grpc.StatusCode.UNAVAILABLE.value[0]
    assert [(reply.tag, reply.error.code) for reply in replies] == [("one", unavailable), ("two", unavailable)]


def test_stopping_lets_a_running_call_finish(tmp_path, monkeypatch):
    began, go_on = threading.Event(), threading.Event()
    encode = DoubleBundle().encoder.encode_texts

    def slow(texts):
        began.set()
        go_on.wait(20)
        return encode(texts)

    with serving(tmp_path / "home", STUDIES) as running:
        monkeypatch.setattr(running.library.engines.encoder, "encode_texts", slow)
        call = running.retrieval.Search.future(search_request(), timeout=20)
        began.wait(20)
        stopping = threading.Thread(target=running.server.stop, args=(20.0,))
        stopping.start()
        go_on.set()
        assert len(call.result().hits) == 5
        stopping.join(20)
        with pytest.raises(grpc.RpcError):
            running.search()


def test_reflection_lists_the_services(standing):
    stub = reflection_pb2_grpc.ServerReflectionStub(standing.channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    reply = next(stub.ServerReflectionInfo(iter([request]), timeout=10))
    names = {service.name for service in reply.list_services_response.service}
    assert names >= {"radrank.v1.Retrieval", "radrank.v1.Archive", "grpc.health.v1.Health"}


@pytest.fixture
def guarded(tmp_path):
    (tmp_path / "token").write_text("s3cret-token\n")
    with serving(tmp_path / "home", STUDIES[:3], token_file=tmp_path / "token") as running:
        yield running


@pytest.mark.parametrize(
    "metadata",
    [(), (("authorization", "Bearer wrong"),), (("authorization", "s3cret-token"),), (("authorization", "Bearer "),)],
)
def test_without_the_token_nobody_gets_in(guarded, metadata):
    calls = (
        lambda: guarded.retrieval.Search(search_request(), metadata=metadata, timeout=10),
        lambda: guarded.archive.Upsert(iter([]), metadata=metadata, timeout=10),
        lambda: next(guarded.retrieval.SearchStream(iter([]), metadata=metadata, timeout=10)),
        lambda: guarded.archive.Stats(archive_pb2.StatsRequest(), metadata=metadata, timeout=10),
        lambda: next(
            reflection_pb2_grpc.ServerReflectionStub(guarded.channel).ServerReflectionInfo(
                iter([]), metadata=metadata, timeout=10
            )
        ),
    )
    for call in calls:
        with pytest.raises(grpc.RpcError) as caught:
            call()
        code, message = error_of(caught.value)
        assert code == "UNAUTHENTICATED"
        assert "s3cret" not in message


def test_with_the_token_everything_works_and_health_needs_none(guarded):
    metadata = (("authorization", "Bearer s3cret-token"),)
    assert guarded.retrieval.Search(search_request(), metadata=metadata, timeout=10).hits
    requests = iter([retrieval_pb2.SearchStreamRequest(tag="t", search=search_request())])
    assert next(guarded.retrieval.SearchStream(requests, metadata=metadata, timeout=10)).search.hits
    assert health(guarded.channel) == SERVING


def test_a_port_that_is_taken_is_named(standing):
    server = Server(load(listen=standing.address))
    with pytest.raises(InvalidQuery, match=r"^listen: "):
        server.start()
    server.stop(0)


def test_streams_over_the_limit_are_told_when_to_come_back(tmp_path):
    with serving(tmp_path / "home", STUDIES[:3], limits={"streams": 1}) as running:
        leave = threading.Event()

        def requests():
            yield retrieval_pb2.SearchStreamRequest(tag="t", search=search_request())
            leave.wait(20)

        held = running.retrieval.SearchStream(requests(), timeout=30)
        next(held)
        with pytest.raises(grpc.RpcError) as caught:
            running.upsert()
        assert error_of(caught.value)[0] == "RESOURCE_EXHAUSTED"
        assert dict(caught.value.trailing_metadata())["retry-after-ms"] == "1000"
        assert dict(caught.value.trailing_metadata())["grpc-retry-pushback-ms"] == "1000"
        assert running.search().hits
        leave.set()
        list(held)
        running.upsert()


def test_idle_streams_do_not_hold_the_workers(tmp_path):
    with serving(tmp_path / "home", STUDIES[:3], limits={"workers": 1, "streams": 4}) as running:
        leave = threading.Event()

        def requests():
            yield retrieval_pb2.SearchStreamRequest(tag="t", search=search_request())
            leave.wait(20)

        held = [running.retrieval.SearchStream(requests(), timeout=30) for _ in range(4)]
        for stream in held:
            next(stream)
        assert running.search().hits
        leave.set()
        for stream in held:
            list(stream)


def test_the_access_log_has_method_code_and_time_and_nothing_else(standing, caplog):
    with caplog.at_level(logging.INFO, logger="radrank"):
        standing.search(query={"text": "a secret word"}, include_report=True)
        with pytest.raises(grpc.RpcError):
            standing.search(query={"study": {"study_id": "S9999"}})
    access = [record for record in caplog.records if record.name == "radrank.access"]
    assert [(record.method, record.code) for record in access] == [
        ("/radrank.v1.Retrieval/Search", "OK"),
        ("/radrank.v1.Retrieval/Search", "NOT_FOUND"),
    ]
    assert "secret" not in caplog.text
    assert "S9999" not in caplog.text
    entry = json.loads(JsonLines().format(access[0]))
    assert (entry["method"], entry["code"], entry["level"]) == ("/radrank.v1.Retrieval/Search", "OK", "info")
    assert entry["milliseconds"] > 0


@needs_openssl
def test_tls_is_served_with_the_files_given(tmp_path):
    files = self_signed(tmp_path)
    with serving(tmp_path / "home", STUDIES[:3], tls=files) as running:
        port = running.address.rpartition(":")[2]
        credentials = grpc.ssl_channel_credentials(files["certificate"].read_bytes())
        with grpc.secure_channel(f"localhost:{port}", credentials) as channel:
            assert health(channel) == SERVING
            assert retrieval_pb2_grpc.RetrievalStub(channel).Search(search_request(), timeout=10).hits
