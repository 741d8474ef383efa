"""The front: where messages are parsed, and what the event loop says of what nobody caught."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from radrank.server import app, front
from radrank.server.admission import Admission
from radrank.server.calls import Caller
from radrank.server.front import Front
from radrank.server.helpers.pool import Helpers
from radrank.server.streams import Streams
from radrank.server.threads import Threads

METHOD = "/a.Service/Search"


class Context:
    """Of a call from this host, without a deadline."""

    def time_remaining(self) -> None:
        return None

    def invocation_metadata(self) -> tuple[()]:
        return ()

    def peer(self) -> str:
        return "ipv4:127.0.0.1:4711"


def front_of(
    threads: Threads,
    admission: Admission,
    answered: Callable[[Any, Caller], Any],
    *,
    parse: Callable[[bytes], Any] = bytes,
    token: str | None = None,
) -> Front:
    """With one method."""
    made = Front(admission=admission, streams=Streams(1), threads=threads, helpers=Helpers(0), token=token)
    handler = SimpleNamespace(
        request_streaming=False,
        response_streaming=False,
        unary_unary=answered,
        request_deserializer=parse,
        response_serializer=bytes,
    )
    made.add(lambda _servicer, server: server.add_registered_method_handlers("a.Service", {"Search": handler}), None)
    return made


def called(raw: bytes, *, parse: Callable[[bytes], Any] = bytes, late: float = 0.0) -> tuple[bytes, Caller]:
    """The answer of a service that gives its requests back, and what it was told of its caller.

    late: seconds from a call's arrival until its message is there
    """
    told: list[Caller] = []

    def answered(request: Any, caller: Caller) -> Any:
        told.append(caller)
        return request

    threads = Threads(1)

    async def call() -> bytes:
        made = front_of(threads, Admission(in_flight=1, workers=1), answered, parse=parse)
        found = made.service(SimpleNamespace(method=METHOD, invocation_metadata=()))
        await asyncio.sleep(late)
        answer: bytes = await found.unary_unary(raw, Context())
        return answer

    try:
        return asyncio.run(call()), told[0]
    finally:
        threads.close()


@pytest.mark.parametrize(("size", "in_loop"), [(100, True), (front._SHORT_BYTES + 1, False)])
def test_a_large_request_is_parsed_in_a_thread(size, in_loop):
    parsed = []

    def parse(raw: bytes) -> bytes:
        parsed.append(threading.current_thread() is threading.main_thread())
        return raw

    assert called(bytes(size), parse=parse)[0] == bytes(size)
    assert parsed == [in_loop]


def test_a_call_has_arrived_before_its_message_is_there():
    _, caller = called(b"", late=0.05)
    assert time.perf_counter_ns() - caller.arrived_ns >= 50_000_000
    assert caller.deadline.left is None


@pytest.mark.parametrize(("sent", "asked"), [((), 0), ((("authorization", "Bearer secret"),), 1)])
def test_who_may_not_ask_has_no_part_in_who_gets_a_place(sent, asked):
    async def call() -> tuple[int, bool]:
        admission, threads = Admission(in_flight=1, workers=1), Threads(1)
        made = front_of(threads, admission, lambda request, _: request, token="secret")
        with admission.place():
            found = made.service(SimpleNamespace(method=METHOD, invocation_metadata=sent))
        threads.close()
        return admission.asked, found.unary_unary is None  # refused, before its message is there

    assert asyncio.run(call()) == (asked, True)


def test_the_loop_says_where_something_went_wrong_and_not_what_it_said(caplog):
    async def broken() -> None:
        raise ValueError("the report says a secret word")

    async def nobody_asks() -> None:
        asyncio.get_running_loop().set_exception_handler(app._say_where)
        task = asyncio.create_task(broken())
        await asyncio.wait([task])
        del task
        gc.collect()

    with caplog.at_level(logging.ERROR, logger="radrank"):
        asyncio.run(nobody_asks())
    assert "in the event loop: ValueError at test_front.py" in caplog.text
    assert "secret" not in caplog.text
