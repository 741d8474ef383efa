"""What goes wrong speaks to the caller."""

from __future__ import annotations

import socket

import grpc
import pytest

from radrank.client import (
    Client,
    ClientError,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Overloaded,
    Refused,
    ServerError,
    Unavailable,
)
from radrank.client._status import from_status

CODES = [
    (grpc.StatusCode.INVALID_ARGUMENT, InvalidArgument),
    (grpc.StatusCode.NOT_FOUND, NotFound),
    (grpc.StatusCode.UNAUTHENTICATED, Refused),
    (grpc.StatusCode.PERMISSION_DENIED, Refused),
    (grpc.StatusCode.FAILED_PRECONDITION, FailedPrecondition),
    (grpc.StatusCode.RESOURCE_EXHAUSTED, Overloaded),
    (grpc.StatusCode.DEADLINE_EXCEEDED, DeadlineExceeded),
    (grpc.StatusCode.UNAVAILABLE, Unavailable),
    (grpc.StatusCode.INTERNAL, ServerError),
    (grpc.StatusCode.UNIMPLEMENTED, ServerError),
]


@pytest.mark.parametrize(("status", "kind"), CODES, ids=lambda value: getattr(value, "name", ""))
def test_each_status_has_its_error_and_keeps_the_servers_words(address, fake, status, kind):
    fake.fails = (status, "the server's own words")
    with Client(address) as client, pytest.raises(kind, match="the server's own words") as raised:
        client.search(text="a")
    assert type(raised.value) is kind
    assert raised.value.code == status.name
    assert isinstance(raised.value.__cause__, grpc.RpcError)


def test_streaming_calls_map_errors_too(address, fake):
    fake.fails = (grpc.StatusCode.INVALID_ARGUMENT, "study 0: study_id: must not be empty")
    with Client(address) as client, pytest.raises(InvalidArgument, match="study 0"):
        client.upsert([])


def test_nobody_at_the_target_says_how_to_start_one():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        target = f"127.0.0.1:{free.getsockname()[1]}"
    with Client(target, timeout=3) as client:
        with pytest.raises(Unavailable, match=f"{target}; is it running\\? start it with: radrank serve"):
            client.stats()
        with pytest.raises(Unavailable, match=r"not serving after 0\.3 s: no radrank server answers"):
            client.wait_until_serving(timeout=0.3)
        with pytest.raises(Unavailable):
            list(client.search_stream([("a", {"text": "a"})], timeout=3))


def test_a_timeout_is_told_apart(address, fake):
    fake.slow = 1.0
    with Client(address, timeout=0.1) as client, pytest.raises(DeadlineExceeded, match="in time"):
        client.search(text="a")


def test_overload_says_when_to_come_back(address, fake):
    fake.fails = (grpc.StatusCode.RESOURCE_EXHAUSTED, "too many requests in flight; try again in 0.250 s")
    with Client(address) as client:
        with pytest.raises(Overloaded) as raised:
            client.search(text="a")
        assert raised.value.retry_after == 0.25
        fake.trailing = (("grpc-retry-pushback-ms", "1500"),)
        with pytest.raises(Overloaded) as raised:
            client.search(text="a")
        assert raised.value.retry_after == 1.5
        fake.fails, fake.trailing = (grpc.StatusCode.RESOURCE_EXHAUSTED, "busy"), ()
        with pytest.raises(Overloaded) as raised:
            client.search(text="a")
        assert raised.value.retry_after is None


def test_a_message_over_64_mib_is_the_callers_to_cure(address):
    with Client(address) as client, pytest.raises(InvalidArgument, match="larger than one call may carry"):
        client.search(image=bytes(65 * 2**20))


def test_a_status_by_number_as_streams_send_it():
    assert isinstance(from_status(5, "no such study"), NotFound)
    assert isinstance(from_status(99, "?"), ServerError)
    assert str(from_status(13, "")) == "internal"
    assert isinstance(from_status(8, "busy; try again in 2 s"), ClientError)


def test_an_absent_authority_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        Client("localhost:1", ca=tmp_path / "absent.pem")
