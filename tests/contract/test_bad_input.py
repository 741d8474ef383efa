"""Bad input is answered with INVALID_ARGUMENT naming its field; nothing of it is repeated, nothing is changed."""

from __future__ import annotations

import io
import logging
import struct
import zlib

import grpc
import numpy as np
import pytest

from helpers.doubles import DIMENSIONS, picture
from helpers.serving import Running, error_of, new_study, search_request
from radrank.v1 import archive_pb2, retrieval_pb2

SECRET = "zebrafish"  # stands for whatever a caller may send


def vector(values) -> dict:
    return {"embedding": {"values": np.asarray(values, dtype="<f4").tobytes()}}


def huge_png(width: int = 9000, height: int = 8000) -> bytes:
    """A small file that announces 72 megapixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * (width + 1) * height, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def gif() -> bytes:
    from PIL import Image

    encoded = io.BytesIO()
    Image.new("L", (64, 64)).save(encoded, "GIF")
    return encoded.getvalue()


BAD_SEARCHES = {
    "no query": ({"query": None}, "query"),
    "an empty query": ({"query": {}}, "query"),
    "an empty image": ({"query": {"image": b""}}, "image"),
    "no image at all": ({"query": {"image": SECRET.encode() * 10}}, "image"),
    "a GIF": ({"query": {"image": gif()}}, "image"),
    "half an image": ({"query": {"image": picture(1, side=256, kind="JPEG")[:700]}}, "image"),
    "a JPEG's first bytes": ({"query": {"image": b"\xff\xd8\xff\xe0" + SECRET.encode()}}, "image"),
    "a DICOM's first bytes": ({"query": {"image": b"\0" * 128 + b"DICM" + SECRET.encode()}}, "image"),
    "72 megapixels": ({"query": {"image": huge_png()}}, "image"),
    "empty text": ({"query": {"text": ""}}, "text"),
    "blank text": ({"query": {"text": " \t\n\u00a0\u2003"}}, "text"),
    "an empty embedding": ({"query": {"embedding": {}}}, "embedding"),
    "an embedding of odd bytes": ({"query": {"embedding": {"values": b"\1" * (4 * DIMENSIONS - 1)}}}, "embedding"),
    "a short embedding": ({"query": vector(np.ones(DIMENSIONS - 1))}, "embedding"),
    "a long embedding": ({"query": vector(np.ones(DIMENSIONS + 1))}, "embedding"),
    "NaN": ({"query": vector([np.nan] + [1] * (DIMENSIONS - 1))}, "embedding"),
    "infinity": ({"query": vector([np.inf] + [1] * (DIMENSIONS - 1))}, "embedding"),
    "zeros": ({"query": vector(np.zeros(DIMENSIONS))}, "embedding"),
    "an embedding of no modality": (
        {"query": {"embedding": {"values": np.ones(DIMENSIONS, "<f4").tobytes(), "modality": 9}}},
        "embedding.modality",
    ),
    "a study without id": ({"query": {"study": {}}}, "study.study_id"),
    "a study's unknown item": ({"query": {"study": {"study_id": "S0001", "modality": 7}}}, "study.modality"),
    "no k": ({"k": 0}, "k"),
    "k above the limit": ({"k": 1001}, "k"),
    "a huge k": ({"k": 2**32 - 1}, "k"),
    "fewer candidates than k": ({"candidates": 4}, "candidates"),
    "too many candidates": ({"candidates": 1001}, "candidates"),
    "an unknown re-ranker": ({"reranker": SECRET}, "reranker"),
    "a nameless re-ranker": ({"reranker": ""}, "reranker"),
    "an unknown target": ({"target": 3}, "target"),
    "an unknown view": ({"filters": {"views": [1, 77]}}, "filters.views[1]"),
    "an unspecified view": ({"filters": {"views": [0]}}, "filters.views[0]"),
    "a label with blanks": ({"filters": {"labels_any": ["opacity", "Lung " + SECRET]}}, "filters.labels_any[1]"),
    "an empty label": ({"filters": {"labels_all": [""]}}, "filters.labels_all[0]"),
    "too many labels": ({"filters": {"labels_any": [f"l{n}" for n in range(65)]}}, "filters.labels_any"),
    "no such day": ({"filters": {"from": {"year": 2021, "month": 2, "day": 29}}}, "filters.from"),
    "an empty day": ({"filters": {"to": {}}}, "filters.to"),
    "a year too far": ({"filters": {"to": {"year": 10000, "month": 1, "day": 1}}}, "filters.to"),
    "a negative year": ({"filters": {"to": {"year": -2147483648, "month": 1, "day": 1}}}, "filters.to"),
    "from after to": (
        {"filters": {"from": {"year": 2021, "month": 1, "day": 2}, "to": {"year": 2021, "month": 1, "day": 1}}},
        "filters.from",
    ),
    "too many exclusions": ({"exclude_studies": [SECRET] * 1001}, "exclude_studies"),
    "too many previews": ({"k": 101, "include_preview": True}, "include_preview"),
}

BAD_STUDIES = {
    "no study": (archive_pb2.NewStudy(), ".study_id"),
    "a blank id": (new_study("  "), ".study_id"),
    "a long id": (new_study("é" * 129), ".study_id"),
    "an id with NUL": (new_study("a\0b"), ".study_id"),
    "an id with a line break": (new_study("a\nb"), ".study_id"),
    "an id with a C1 control": (new_study("a\x85b"), ".study_id"),
    "a long patient id": (new_study(patient_id="p" * 257), ".patient_id"),
    "neither image nor report": (new_study(findings=" \n"), ""),
    "a long report": (new_study(findings=SECRET * 8000), ".findings"),
    "a long impression": (new_study(impression="x" * 65537), ".impression"),
    "a label in capitals": (new_study(labels=["opacity", "Opacity"]), ".labels[1]"),
    "too many labels": (new_study(labels=[f"l{n}" for n in range(65)]), ".labels"),
    "no such day": (new_study(date={"year": 2023, "month": 13, "day": 1}), ".date"),
    "an empty day": (new_study(date={}), ".date"),
    "an empty image": (new_study(images=[{}]), ".images[0].content"),
    "a broken image": (
        new_study(images=[{"content": picture(1)}, {"content": SECRET.encode()}]),
        ".images[1].content",
    ),
    "72 megapixels": (new_study(images=[{"content": huge_png()}]), ".images[0].content"),
    "an unknown view": (new_study(images=[{"content": picture(1), "view": 9}]), ".images[0].view"),
    "a long image id": (new_study(images=[{"content": picture(1), "image_id": "i" * 257}]), ".images[0].image_id"),
    "two images with one id": (new_study(images=[{"content": picture(n), "image_id": "i"} for n in (1, 2)]), ".images"),
    "an id that is a place": (
        new_study(images=[{"content": picture(1), "image_id": "1"}, {"content": picture(2)}]),
        ".images",
    ),
    "too many images": (new_study(images=[{"content": picture(1)}] * 33), ".images"),
}


@pytest.fixture
def unharmed(standing: Running, caplog: pytest.LogCaptureFixture):
    """After the test the server answers as before, and no log has heard of what was sent."""
    caplog.set_level(logging.DEBUG)
    stats, hits = standing.stats(), standing.search().hits
    yield standing
    assert standing.stats() == stats
    assert standing.search().hits == hits
    assert SECRET not in caplog.text


def refused(call, code: str = "INVALID_ARGUMENT") -> str:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    found, message = error_of(caught.value)
    assert found == code, message
    assert SECRET not in message
    return message


@pytest.mark.parametrize(("fields", "field"), BAD_SEARCHES.values(), ids=BAD_SEARCHES)
def test_a_bad_search_names_its_field(unharmed, fields, field):
    assert refused(lambda: unharmed.search(**fields)).startswith(f"{field}: ")


def test_an_unknown_reranker_is_answered_with_the_names_that_exist(unharmed):
    assert "plain, sage, off" in refused(lambda: unharmed.search(reranker=SECRET))


@pytest.mark.parametrize(("study", "field"), BAD_STUDIES.values(), ids=BAD_STUDIES)
def test_a_bad_study_is_named_by_its_place_and_field(unharmed, study, field):
    message = refused(lambda: unharmed.upsert(new_study("GOOD1"), new_study("GOOD2"), study))
    assert message.startswith(f"studies[2]{field}: ")


def test_an_upsert_of_too_many_studies_is_refused(unharmed):
    message = refused(lambda: unharmed.upsert(*(new_study(f"N{n}") for n in range(1001))))
    assert message.startswith("studies: ")


@pytest.mark.parametrize(
    ("ids", "field"),
    [([], "study_ids"), (["x"] * 1001, "study_ids"), (["S0001", ""], "study_ids[1]"), (["x" * 257], "study_ids[0]")],
)
def test_a_bad_deletion_names_its_field(unharmed, ids, field):
    request = archive_pb2.DeleteRequest(study_ids=ids)
    assert refused(lambda: unharmed.archive.Delete(request, timeout=20)).startswith(f"{field}: ")


@pytest.mark.parametrize(
    ("queries", "field"),
    [
        ([], "queries"),
        ([{"text": "x"}] * 65, "queries"),
        ([{"text": "x"}, {}], "queries[1]"),
        ([vector(np.ones(DIMENSIONS))], "queries[0]"),
        ([{"study": {"study_id": SECRET}}], "queries[0]"),
        ([{"text": "x"}, {"text": " "}], "queries[1].text"),
        ([{"image": SECRET.encode()}], "queries[0].image"),
    ],
)
def test_a_bad_embed_names_its_field(unharmed, queries, field):
    request = retrieval_pb2.EmbedRequest(queries=queries)
    assert refused(lambda: unharmed.retrieval.Embed(request, timeout=20)).startswith(f"{field}: ")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "query"),
        ({"query": vector(np.ones(DIMENSIONS))}, "query"),
        ({"query": {"text": "x"}, "k": 101}, "k"),
        ({"query": {"image": b"x"}}, "image"),
    ],
)
def test_a_bad_screening_names_its_field(unharmed, fields, field):
    request = retrieval_pb2.ScreenRequest(**fields)
    assert refused(lambda: unharmed.retrieval.Screen(request, timeout=20)).startswith(f"{field}: ")


def test_unknown_studies_are_not_found(unharmed):
    query = {"study": {"study_id": SECRET}}
    refused(lambda: unharmed.search(query=query), "NOT_FOUND")
    refused(lambda: unharmed.retrieval.Screen(retrieval_pb2.ScreenRequest(query=query), timeout=20), "NOT_FOUND")
    refused(
        lambda: unharmed.retrieval.GetStudy(retrieval_pb2.GetStudyRequest(study_id=SECRET), timeout=20), "NOT_FOUND"
    )


@pytest.mark.parametrize("study_id", ["", "a\tb", "x" * 300])
def test_an_id_that_can_not_be_is_named(unharmed, study_id):
    request = retrieval_pb2.GetStudyRequest(study_id=study_id)
    assert refused(lambda: unharmed.retrieval.GetStudy(request, timeout=20)).startswith("study_id: ")


def test_bytes_that_are_no_message_end_nothing(unharmed):
    call = unharmed.channel.unary_unary("/radrank.v1.Retrieval/Search", None, None)
    for size in (1, 100_000):
        message = refused(lambda size=size: call(b"\xff\xff" + size * SECRET.encode(), timeout=20))
        assert message.startswith("request: is not a message of this method")


def test_what_no_one_foresaw_is_told_as_an_incident(unharmed, monkeypatch, caplog):
    def broken(*_args, **_more):
        raise RuntimeError(f"the report says {SECRET}")

    with monkeypatch.context() as patch:
        patch.setattr("radrank.core.ranking.Ranker.search", broken)
        message = refused(unharmed.search, "INTERNAL")
    incident = message.split()[-1]
    assert incident in caplog.text
    assert "RuntimeError at" in caplog.text
    assert "test_bad_input.py" in caplog.text


def test_a_message_over_the_limit_is_refused(standing):
    with pytest.raises(grpc.RpcError) as caught:
        standing.search(query={"image": b"x" * (64 * 2**20 + 1)})
    assert error_of(caught.value)[0] == "RESOURCE_EXHAUSTED"
    assert standing.search().hits


def test_a_bad_request_in_a_stream_is_told_by_its_tag_and_the_stream_goes_on(unharmed):
    requests = [
        retrieval_pb2.SearchStreamRequest(tag="one", search=search_request()),
        retrieval_pb2.SearchStreamRequest(tag="two", search=search_request(reranker=SECRET)),
        retrieval_pb2.SearchStreamRequest(tag="three", search=search_request(query={"study": {"study_id": SECRET}})),
        retrieval_pb2.SearchStreamRequest(tag="four"),
        retrieval_pb2.SearchStreamRequest(tag="x" * 257, search=search_request()),
        retrieval_pb2.SearchStreamRequest(tag="six", search=search_request()),
    ]
    replies = list(unharmed.retrieval.SearchStream(iter(requests), timeout=20))
    assert [reply.tag for reply in replies] == [request.tag for request in requests]
    assert [reply.error.code for reply in replies] == [0, 3, 5, 3, 3, 0]
    assert [reply.error.message.split(":")[0] for reply in replies[1:5]] == [
        "reranker",
        "no such study",
        "query",
        "tag",
    ]
    assert replies[0].search.hits == replies[5].search.hits
