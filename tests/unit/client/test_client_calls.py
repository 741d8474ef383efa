"""Each method of the client, against a server that makes its answers up."""

from __future__ import annotations

import inspect
import threading
from datetime import date

import numpy as np
import pytest

from radrank.client import Client, ClientError, InvalidArgument, NewImage, NewStudy, SearchOptions, _encode
from radrank.v1 import retrieval_pb2, types_pb2


@pytest.fixture
def client(address):
    with Client(address, timeout=5.0) as client:
        yield client


def test_search_by_words_returns_hits_times_and_provenance(client, fake):
    result = client.search(text="left effusion", k=3, include_report=True, include_labels=True)
    first, second, third = result.hits
    assert fake.asked.query.text == "left effusion"
    assert fake.asked.k == 3
    assert (first.study_id, first.rank, first.candidate_rank, first.moved) == ("CXR1000", 1, 2, 1)
    assert first.labels == ("pleural_effusion", "atelectasis")
    assert first.view == "pa"
    assert first.score == pytest.approx(0.912)
    assert (third.normal, third.moved) == (True, -2)
    assert second.report.startswith("Small bilateral")
    assert result.times.total_us == 12300
    assert result.provenance.reranker == "sage"
    assert (result.query_modality, result.target) == ("report", "image")


def test_every_search_option_reaches_its_field(client, fake):
    client.search(
        embedding=np.arange(8, dtype=np.float64),
        modality="report",
        target="report",
        k=7,
        candidates=50,
        reranker="off",
        views=["PA", "lateral"],
        labels_any=["opacity"],
        labels_all=["edema", "nodule"],
        normal=False,
        date_from=date(2150, 1, 2),
        date_to=date(2151, 12, 31),
        exclude=["CXR1"],
        one_per_patient=True,
        include_report=True,
        include_labels=True,
        include_preview=True,
    )
    asked = fake.asked
    assert np.frombuffer(asked.query.embedding.values, "<f4").tolist() == list(range(8))
    assert asked.query.embedding.modality == asked.target == types_pb2.MODALITY_REPORT
    assert (asked.k, asked.candidates, asked.reranker) == (7, 50, "off")
    assert list(asked.filters.views) == [types_pb2.VIEW_PA, types_pb2.VIEW_LATERAL]
    assert list(asked.filters.labels_any) == ["opacity"]
    assert list(asked.filters.labels_all) == ["edema", "nodule"]
    assert asked.filters.HasField("normal")
    assert asked.filters.normal is False
    since = getattr(asked.filters, "from")
    assert (since.year, since.month, since.day, asked.filters.to.year) == (2150, 1, 2, 2151)
    assert list(asked.exclude_studies) == ["CXR1"]
    assert asked.one_per_patient
    assert asked.include_report
    assert asked.include_labels
    assert asked.include_preview


def test_what_is_not_asked_for_is_absent_on_the_wire(client, fake):
    client.search(study="CXR1")
    assert fake.asked.query.study.study_id == "CXR1"
    assert not fake.asked.HasField("reranker")
    assert not fake.asked.filters.HasField("normal")
    assert not fake.asked.filters.HasField("from")
    assert not fake.asked.filters.HasField("to")


def test_an_image_may_be_bytes_or_a_path(client, fake, chest, tmp_path):
    path = tmp_path / "chest.png"
    path.write_bytes(chest)
    for image in (chest, path, str(path)):
        client.search(image=image)
        assert fake.asked.query.image == chest


def test_the_typed_keywords_are_those_of_the_message_maker():
    assert set(SearchOptions.__annotations__) == set(inspect.signature(_encode.search_request).parameters)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({}, "query"),
        ({"text": "a", "study": "b"}, "query"),
        ({"text": "a", "target": "pixels"}, "target: must be one of image, report"),
        ({"text": "a", "views": ["oblique"]}, "view: must be one of ap, frontal, lateral, pa"),
        ({"text": "a", "labels_any": "opacity"}, "labels_any"),
        ({"text": "a", "k": -1}, "k: "),
        ({"embedding": np.zeros((2, 8))}, "embedding"),
        ({"embedding": np.array(["a"])}, "embedding"),
    ],
)
def test_a_bad_query_is_named_before_anything_is_sent(client, fake, query, field):
    with pytest.raises(InvalidArgument, match=field):
        client.search(**query)
    assert fake.asked is None


def test_a_stream_answers_each_tag_and_survives_a_bad_request(client):
    ready = retrieval_pb2.SearchRequest(query=retrieval_pb2.Query(text="c"), k=2)
    queries = [("a", {"text": "a", "k": 1}), ("b", {"text": "b", "k": 2000}), ("c", ready)]
    replies = dict(client.search_stream(queries))
    assert list(replies) == ["a", "b", "c"]
    assert len(replies["a"].hits) == 1
    assert isinstance(replies["b"], InvalidArgument)
    assert str(replies["b"]) == "k: must be 1 to 1,000"
    assert len(replies["c"].hits) == 2


def test_what_the_queries_of_a_stream_raise_comes_after_the_replies_before_it(client):
    def queries():
        yield "a", {"text": "a"}
        raise OSError("the list broke")

    replies = client.search_stream(queries())
    assert next(replies)[0] == "a"
    with pytest.raises(OSError, match="the list broke"):
        next(replies)


def test_a_stream_can_be_left_early(client):
    stream = client.search_stream((str(tag), {"text": "a"}) for tag in range(10**6))
    assert next(stream)[0] == "0"
    stream.close()


def test_embed_returns_a_row_for_each_and_splits_long_lists(client, fake):
    vectors = client.embed(texts=["x" * (place % 8 + 1) for place in range(130)])
    assert vectors.shape == (130, 8)
    assert vectors.dtype == np.float32
    assert fake.embed_calls == [64, 64, 2]
    assert np.argmax(vectors[:8], axis=1).tolist() == [1, 2, 3, 4, 5, 6, 7, 0]
    assert client.embed(images=[b"12"]).argmax() == 2


def test_embed_splits_by_size_too(client, fake):
    client.embed(images=[bytes(20 * 2**20), bytes(20 * 2**20), b"1"])
    assert fake.embed_calls == [1, 2]


@pytest.mark.parametrize(
    "asked", [{}, {"texts": []}, {"texts": "one"}, {"images": b"one"}, {"images": [], "texts": []}]
)
def test_embed_wants_one_list(client, asked):
    with pytest.raises(InvalidArgument, match="embed"):
        client.embed(**asked)


def test_screen_and_a_vote_of_nobody(client, fake):
    result = client.screen(text="clear lungs", k=20)
    assert fake.asked.k == 20
    assert (result.abnormal_probability, result.abnormal_vote, result.voters) == (0.875, 0.75, 9)
    assert client.screen(text="nobody").abnormal_vote is None


def test_get_study(client, fake):
    study = client.get_study("CXR7", previews=True)
    assert fake.asked.include_previews
    assert (study.study_id, study.patient_id, study.normal) == ("CXR7", "P9", False)
    assert study.date == date(2168, 2, 29)
    assert study.images[0].view == "lateral"
    assert study.images[0].preview.startswith(b"\x89PNG")


def test_upsert_streams_studies_and_reads_their_files(client, fake, chest, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(chest)
    studies = (
        NewStudy(
            study_id=f"N{place}",
            images=[NewImage(content=path, view="ap"), NewImage(content=chest, image_id="side")],
            impression="Clear.",
            labels=["normal"],
            normal=True if place else None,
            date=date(2024, 5, 6),
        )
        for place in range(3)
    )
    result = client.upsert(studies)
    assert (result.added, result.replaced, result.sequence) == (3, 0, 8)
    first, second, _ = fake.asked
    assert first.images[0].content == first.images[1].content == chest
    assert first.images[0].view == types_pb2.VIEW_AP
    assert first.images[1].image_id == "side"
    assert not first.HasField("normal")
    assert second.normal
    assert first.date.day == 6


def test_an_upsert_whose_source_breaks_changes_nothing(client, fake, tmp_path):
    def studies():
        yield NewStudy(study_id="good", impression="Clear.")
        assert fake.upserting.wait(20)  # a call that is cancelled before it arrives proves nothing
        yield NewStudy(study_id="bad", images=[NewImage(content=tmp_path / "absent.png")])

    with pytest.raises(FileNotFoundError):
        client.upsert(studies())
    assert fake.aborted.wait(5)
    assert fake.upserted == []


def test_delete_takes_one_id_or_many(client, fake):
    result = client.delete(["a", "b", "c"])
    assert (result.deleted, result.unknown, result.sequence) == (2, 1, 9)
    client.delete("CXR1")
    assert list(fake.asked.study_ids) == ["CXR1"]


def test_stats(client):
    stats = client.stats()
    assert stats.studies == 3851
    assert next(iter(stats.labels.items())) == ("pleural_effusion", 412)
    assert stats.rerankers == ("sage", "gat")
    assert stats.provenance.archive_sequence == 7


def test_it_waits_until_the_server_is_serving(client, fake):
    fake.health = b"\x08\x02"
    threading.Timer(0.2, lambda: setattr(fake, "health", b"\x08\x01")).start()
    client.wait_until_serving(timeout=10)
    fake.health = b"\x08\x02"
    with pytest.raises(ClientError, match=r"after 0\.2 s: it is up but not serving"):
        client.wait_until_serving(timeout=0.2)


def test_the_token_goes_with_every_call_and_stays_out_of_the_repr(address, fake):
    with Client(address, token="s3cret") as client:
        for call in (lambda: client.search(text="a"), client.stats, lambda: client.wait_until_serving(5)):
            call()
            assert fake.metadata["authorization"] == "Bearer s3cret"
        list(client.search_stream([("a", {"text": "a"})]))
        assert "s3cret" not in repr(client)


def test_a_large_message_passes(client, fake):
    client.search(image=bytes(40 * 2**20))
    assert len(fake.asked.query.image) == 40 * 2**20
