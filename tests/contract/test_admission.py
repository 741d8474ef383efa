"""Under load and under deadlines: what is admitted is answered, what is not is told when to come back."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from helpers.doubles import DoubleBundle, HashingEncoder, NeighbourReranker
from helpers.serving import STUDIES, error_of, health, new_study, search_request, serving
from radrank.core.errors import Unavailable
from radrank.v1 import archive_pb2, retrieval_pb2

SLOW = 0.05  # seconds


class HeldEncoder(HashingEncoder):
    """Encodes texts when it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go, self.entered = threading.Event(), threading.Event()
        self.go.set()
        self.encoded = 0

    def encode_texts(self, texts):
        self.entered.set()
        assert self.go.wait(20)
        self.encoded += 1
        return super().encode_texts(texts)


class SlowReranker(NeighbourReranker):
    def score(self, batch):
        time.sleep(SLOW)
        return super().score(batch)


class LostReranker(NeighbourReranker):
    """Runs on a host that has gone."""

    def score(self, batch):
        raise Unavailable("the engine's host does not answer")


@pytest.fixture
def held(tmp_path):
    """A server with two places and one worker, whose encoder can be held."""
    encoder = HeldEncoder()
    limits = {"in_flight": 2, "workers": 1}
    with serving(tmp_path / "home", STUDIES[:6], bundle=DoubleBundle(encoder=encoder), limits=limits) as running:
        running.encoder = encoder
        yield running
        encoder.go.set()


def computing(running, pool):
    """A call that computes until the encoder is let go."""
    running.encoder.go.clear()
    running.encoder.entered.clear()
    call = pool.submit(running.search)
    assert running.encoder.entered.wait(10)
    return call


def filled(running, pool):
    """Takes both places: one call computes, one waits for its turn."""
    return [computing(running, pool), pool.submit(admitted, running)]


def admitted(running):
    """A search that tries again while another call has its place: `refusal` may have come before it."""
    while True:
        try:
            return running.search()
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise


def refusal(running) -> grpc.RpcError:
    """Of the first call that finds no place."""
    for _ in range(100):
        try:
            running.retrieval.Search(search_request(), timeout=0.2)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                return error
    raise AssertionError("nothing was refused")


def test_past_the_places_a_call_is_refused_at_once_and_told_when_to_come_back(held):
    with ThreadPoolExecutor(4) as pool:
        calls = filled(held, pool)
        error = refusal(held)
        retry = error_details_pb2.RetryInfo()
        assert rpc_status.from_call(error).details[0].Unpack(retry)
        assert retry.retry_delay.ToMilliseconds() == int(dict(error.trailing_metadata())["retry-after-ms"]) >= 10
        held.encoder.go.set()
        assert all(call.result().hits for call in calls)
        assert held.search().hits


@pytest.mark.parametrize("method", ["Search", "Embed", "Screen"])
def test_a_call_is_refused_before_its_message_is_there(held, method):
    ended = threading.Event()

    def never():
        ended.wait(20)
        yield b""

    call = held.channel.stream_unary(f"/radrank.v1.Retrieval/{method}")
    with ThreadPoolExecutor(4) as pool:
        try:
            filled(held, pool)
            refusal(held)
            with pytest.raises(grpc.RpcError) as caught:
                call(never(), timeout=5)
            assert error_of(caught.value)[0] == "RESOURCE_EXHAUSTED"
        finally:
            ended.set()
            held.encoder.go.set()


def test_health_and_lookups_are_answered_however_full_it_is(held):
    with ThreadPoolExecutor(4) as pool:
        filled(held, pool)
        refusal(held)
        assert health(held.channel) == 1
        assert held.stats().studies == 6
        assert held.retrieval.GetStudy(retrieval_pb2.GetStudyRequest(study_id="S0001"), timeout=5).study_id
        held.encoder.go.set()


def test_a_call_without_a_deadline_waits_for_its_turn(held):
    with ThreadPoolExecutor(4) as pool:
        first = computing(held, pool)
        second = pool.submit(held.retrieval.Search, search_request())
        time.sleep(0.1)
        assert not second.done()
        held.encoder.go.set()
        assert first.result().hits
        assert second.result().hits


def test_what_waited_past_its_deadline_is_not_computed(held):
    with ThreadPoolExecutor(4) as pool:
        first = computing(held, pool)
        with pytest.raises(grpc.RpcError) as caught:
            held.retrieval.Search(search_request(), timeout=0.1)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        before = held.encoder.encoded
        held.encoder.go.set()
        assert first.result().hits
        time.sleep(0.2)
        assert held.encoder.encoded == before + 1


def test_a_stream_waits_for_its_turn_and_is_not_refused(held):
    with ThreadPoolExecutor(4) as pool:
        filled(held, pool)
        refusal(held)
        requests = iter([retrieval_pb2.SearchStreamRequest(tag="t", search=search_request())])
        reply = pool.submit(lambda: next(held.retrieval.SearchStream(requests, timeout=20)))
        time.sleep(0.1)
        assert not reply.done()
        held.encoder.go.set()
        assert reply.result().search.hits


class NotingReranker(NeighbourReranker):
    """Computes where it is asked, and notes in which threads that was."""

    def __init__(self) -> None:
        super().__init__()
        self.manifest = replace(self.manifest, runtime="onnxruntime-cpu 1.0")
        self.threads: list[str] = []

    def score(self, batch):
        self.threads.append(threading.current_thread().name.partition("_")[0])
        return super().score(batch)


@pytest.fixture
def noting(tmp_path):
    """A server that notes where it re-ranks."""
    reranker = NotingReranker()
    bundle = DoubleBundle(rerankers={"sage": reranker})
    with serving(tmp_path / "home", STUDIES, bundle=bundle) as running:
        running.threads = reranker.threads
        yield running


def test_what_encodes_nothing_is_done_in_the_event_loop_and_found_alike(noting):
    query = {"study": {"study_id": "S0003"}}
    replies = [noting.search(query=query).hits for _ in range(64)]
    assert all(reply == replies[0] for reply in replies)
    assert noting.threads[:16] == ["call"] * 16
    assert noting.threads[16:].count("front") == 47  # and one the other way


@pytest.mark.parametrize("fields", [{"query": {"text": "finding1"}}, {"include_report": True}])
def test_what_encodes_or_looks_something_up_has_a_thread(noting, fields):
    for _ in range(40):
        noting.search(**({"query": {"study": {"study_id": "S0003"}}} | fields))
    assert set(noting.threads) == {"call"}


def test_requests_of_a_stream_are_done_there_too(noting):
    search = search_request(query={"study": {"study_id": "S0003"}})
    requests = [retrieval_pb2.SearchStreamRequest(tag=str(tag), search=search) for tag in range(64)]
    replies = list(noting.retrieval.SearchStream(iter(requests), timeout=20))
    assert [reply.tag for reply in replies] == [request.tag for request in requests]
    assert noting.threads.count("front") == 47  # but for the first 16, and one the other way


def test_an_engine_that_waits_for_others_never_holds_up_the_loop(noting):
    noting.library.engines.rerankers["sage"].manifest = replace(
        noting.library.engines.rerankers["sage"].manifest, runtime="triton 2.51.0"
    )
    for _ in range(40):
        noting.search(query={"study": {"study_id": "S0003"}})
    assert set(noting.threads) == {"call"}


def test_an_upsert_whose_caller_goes_while_it_is_encoded_changes_nothing(held):
    held.encoder.go.clear()
    held.encoder.entered.clear()
    call = held.archive.Upsert.future(iter([archive_pb2.UpsertRequest(study=new_study())]), timeout=20)
    assert held.encoder.entered.wait(10)
    call.cancel()
    time.sleep(0.2)  # until the server has heard of it
    held.encoder.go.set()
    time.sleep(0.2)
    assert held.stats().studies == 6


@pytest.fixture
def slow(tmp_path):
    """A server that has learnt how long its re-ranker takes."""
    bundle = DoubleBundle(rerankers={"slow": SlowReranker()}, default_reranker="slow")
    with serving(tmp_path / "home", STUDIES[:6], bundle=bundle) as running:
        for _ in range(16):
            assert not running.search().degraded
        yield running


def test_too_late_to_rerank_the_encoders_order_comes_if_the_request_allows_it(slow):
    reply = slow.retrieval.Search(search_request(allow_degraded=True), timeout=SLOW * 0.8)
    assert reply.degraded
    assert [hit.candidate_rank for hit in reply.hits] == [hit.rank for hit in reply.hits]
    assert (reply.provenance.reranker, reply.times.rerank_us) == ("", 0)
    assert list(reply.hits) == list(slow.search(reranker="off").hits)


def test_without_that_it_is_told_that_the_deadline_is_too_short(slow):
    with pytest.raises(grpc.RpcError) as caught:
        slow.retrieval.Search(search_request(), timeout=SLOW * 0.8)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_with_time_enough_it_is_reranked(slow):
    reply = slow.retrieval.Search(search_request(allow_degraded=True), timeout=20)
    assert not reply.degraded
    assert reply.provenance.reranker == "slow"


def test_where_no_reranker_was_asked_for_nothing_is_degraded(slow):
    assert not slow.search(reranker="off", allow_degraded=True).degraded


def test_an_engine_that_does_not_answer_degrades_a_reply_or_makes_it_unavailable(tmp_path):
    bundle = DoubleBundle(rerankers={"lost": LostReranker()}, default_reranker="lost")
    with serving(tmp_path / "home", STUDIES[:6], bundle=bundle) as running:
        assert running.search(allow_degraded=True).degraded
        with pytest.raises(grpc.RpcError) as caught:
            running.search()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_an_idle_stream_does_not_delay_the_end(tmp_path):
    with serving(tmp_path / "home", STUDIES[:6]) as running:
        leave = threading.Event()

        def requests():
            yield retrieval_pb2.SearchStreamRequest(tag="t", search=search_request())
            leave.wait(20)

        stream = running.retrieval.SearchStream(requests(), timeout=30)
        assert next(stream).search.hits
        start = time.monotonic()
        running.server.stop(15)
        leave.set()
        assert time.monotonic() - start < 5
        with pytest.raises(grpc.RpcError) as caught:
            next(stream)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_an_embedding_is_the_same_alone_and_among_others(standing):
    def embed(*texts):
        queries = [{"text": text} for text in texts]
        return list(standing.retrieval.Embed(retrieval_pb2.EmbedRequest(queries=queries), timeout=20).vectors)

    texts = [f"finding {number} of the left lung" for number in range(32)]
    assert embed(*texts)[:8] == embed(*texts[:8])
    assert embed(*texts)[0] == embed(texts[0])[0]
