from __future__ import annotations

import logging

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from radrank.core import errors
from radrank.server.statuses import status_of


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidQuery("k", "is wrong"), grpc.StatusCode.INVALID_ARGUMENT),
        (errors.NotFound("study"), grpc.StatusCode.NOT_FOUND),
        (errors.Overloaded(0.25), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (errors.DeadlineTooShort(0.1), grpc.StatusCode.DEADLINE_EXCEEDED),
        (errors.Unavailable("starting"), grpc.StatusCode.UNAVAILABLE),
        (errors.Corrupt("f", "a", "b"), grpc.StatusCode.FAILED_PRECONDITION),
        (errors.Mismatch("w", "a", "b"), grpc.StatusCode.FAILED_PRECONDITION),
        (errors.MissingExtra("pydicom", "dicom"), grpc.StatusCode.FAILED_PRECONDITION),
    ],
)
def test_every_error_has_its_status_and_its_words(error, code):
    status = status_of(error)
    assert (status.code, status.message) == (code, str(error))


def test_a_subclass_has_its_parents_status():
    class Special(errors.NotFound):
        pass

    assert status_of(Special("study")).code is grpc.StatusCode.NOT_FOUND


def test_overload_says_when_to_come_back():
    told = dict(status_of(errors.Overloaded(0.25)).metadata)
    assert told["retry-after-ms"] == told["grpc-retry-pushback-ms"] == "250"
    details = status_pb2.Status.FromString(told["grpc-status-details-bin"])
    retry = error_details_pb2.RetryInfo()
    assert details.details[0].Unpack(retry)
    assert retry.retry_delay.ToMilliseconds() == 250


def test_the_words_of_an_unknown_error_go_nowhere(caplog):
    def inner():
        raise KeyError("zebrafish")

    with caplog.at_level(logging.DEBUG):
        try:
            try:
                inner()
            except KeyError as cause:
                raise ValueError("zebrafish again") from cause
        except ValueError as error:
            status = status_of(error)
    assert status.code is grpc.StatusCode.INTERNAL
    assert "zebrafish" not in status.message + caplog.text
    assert "ValueError at" in caplog.text
    assert "caused by KeyError at" in caplog.text
    assert "test_statuses.py" in caplog.text
