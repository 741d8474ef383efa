from __future__ import annotations

import threading

import grpc
import pytest

from helpers.doubles import DIMENSIONS, DoubleBundle, HashingEncoder, picture
from helpers.serving import STUDIES, Running, error_of, new_study, search_request, serving
from radrank.core.errors import Mismatch, Unavailable
from radrank.server.home import Home
from radrank.v1 import archive_pb2, retrieval_pb2, types_pb2


def first(running: Running, **fields) -> str:
    return running.search(**fields).hits[0].study_id


def test_an_upserted_study_is_found_by_the_next_search(running):
    reply = running.upsert(new_study(images=[{"content": picture(77), "view": types_pb2.VIEW_AP}]))
    assert (reply.added, reply.replaced, reply.sequence) == (1, 0, 2)
    assert first(running, query={"text": "wholly new words"}, target=types_pb2.MODALITY_REPORT) == "NEW"
    hit = running.search(query={"image": picture(77)}, target=types_pb2.MODALITY_IMAGE).hits[0]
    assert (hit.study_id, hit.image_id, hit.view) == ("NEW", "0", types_pb2.VIEW_AP)
    assert running.search(query={"study": {"study_id": "NEW"}}).provenance.archive_sequence == 2


def test_a_replaced_study_is_found_by_its_new_words_only(running):
    before = STUDIES[3].report
    reply = running.upsert(new_study("S0003"))
    assert (reply.added, reply.replaced) == (0, 1)
    found = running.search(query={"text": before}, target=types_pb2.MODALITY_REPORT, k=24, reranker="off").hits
    assert len(found) == 24
    assert next(hit for hit in found if hit.study_id == "S0003").cosine < 0.9
    assert running.stats().studies == 24


def test_every_field_of_a_study_is_kept(running):
    given = new_study(
        "FULL",
        patient_id="P",
        images=[{"image_id": "a", "content": picture(1)}, {"content": picture(2, kind="JPEG"), "view": 4}],
        impression="an impression",
        labels=["opacity", "edema", "opacity"],
        normal=False,
        date={"year": 2177, "month": 2, "day": 28},
    )
    running.upsert(given)
    found = running.retrieval.GetStudy(retrieval_pb2.GetStudyRequest(study_id="FULL"), timeout=20)
    assert (found.patient_id, found.findings, found.impression) == ("P", "wholly new words", "an impression")
    assert (list(found.labels), found.normal, found.date.year) == (["edema", "opacity"], False, 2177)
    assert [(image.image_id, image.view) for image in found.images] == [("a", 0), ("1", 4)]


def test_an_upsert_of_nothing_changes_nothing(running):
    assert running.upsert().sequence == running.stats().sequence == 1


def test_of_two_studies_with_one_id_the_last_counts(running):
    reply = running.upsert(new_study(), new_study(findings="the last word"))
    assert (reply.added, reply.replaced) == (1, 1)
    assert running.stats().studies == 25
    hits = running.search(query={"text": "the last word"}, target=types_pb2.MODALITY_REPORT, k=30).hits
    assert [hit.study_id for hit in hits].count("NEW") == 1


def test_an_upsert_that_the_caller_cancels_changes_nothing(running):
    gone = threading.Event()

    def requests():
        yield archive_pb2.UpsertRequest(study=new_study())
        gone.wait(20)

    call = running.archive.Upsert.future(requests(), timeout=20)
    call.cancel()
    gone.set()
    with pytest.raises(grpc.FutureCancelledError):
        call.result()
    assert running.stats().studies == 24


def test_deleted_studies_are_gone_and_unknown_ones_counted(running):
    request = archive_pb2.DeleteRequest(study_ids=["S0001", "S0001", "S0002", "unknown"])
    reply = running.archive.Delete(request, timeout=20)
    assert (reply.deleted, reply.unknown, reply.sequence) == (2, 1, 2)
    found = {hit.study_id for hit in running.search(k=24).hits}
    assert len(found) == 22
    assert not found & {"S0001", "S0002"}
    with pytest.raises(grpc.RpcError) as caught:
        running.search(query={"study": {"study_id": "S0001"}})
    assert error_of(caught.value)[0] == "NOT_FOUND"


def test_stats_count_the_archive_and_name_what_serves(running):
    running.upsert(new_study(), new_study("S0000"))
    stats = running.stats()
    assert (stats.studies, stats.images, stats.reports) == (25, 28, 25)
    assert (stats.normal, stats.abnormal) == (12, 11)
    assert [(one.label, one.studies) for one in stats.labels] == [("opacity", 11), ("edema", 3)]
    assert (stats.sequence, stats.unindexed_studies, stats.dimensions) == (2, 25, DIMENSIONS)
    assert (list(stats.rerankers), stats.default_reranker) == (["plain", "sage"], "sage")


def test_what_was_acknowledged_is_there_after_a_restart(tmp_path):
    with serving(tmp_path / "home", STUDIES) as running:
        running.upsert(new_study())
        running.archive.Delete(archive_pb2.DeleteRequest(study_ids=["S0001"]), timeout=20)
        before = running.search(k=24)
    with serving(tmp_path / "home") as running:
        after = running.search(k=24)
        assert after.hits == before.hits
        assert after.provenance == before.provenance
        assert first(running, query={"text": "wholly new words"}, target=types_pb2.MODALITY_REPORT) == "NEW"


def test_a_new_snapshot_takes_changes_in_while_searches_go_on(tmp_path):
    with serving(tmp_path / "home", STUDIES, compaction={"rows": 40, "share": 0.0}) as running:
        stop, failures, asked = threading.Event(), [], []

        def ask():
            while not stop.is_set():
                hits = running.search(query={"text": STUDIES[5].report}, target=types_pb2.MODALITY_REPORT).hits
                asked.append(1)
                if hits[0].study_id != "S0005":
                    failures.append(hits[0].study_id)

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        built = running.search().provenance.snapshot_sha256
        for number in range(100, 200):
            running.upsert(new_study(f"N{number}", findings=f"number {number}"))
        stop.set()
        for thread in threads:
            thread.join()
        assert asked
        assert not failures
        running.library.compact()
        assert running.stats().unindexed_studies == 0
        assert running.search().provenance.snapshot_sha256 != built
        assert first(running, query={"text": "number 150"}, target=types_pb2.MODALITY_REPORT) == "N150"
        assert running.stats().studies == 124
    kept = [path for path in (tmp_path / "home" / "snapshots").iterdir() if path.is_dir()]
    assert len(kept) == 1


def test_a_search_finishes_on_the_snapshot_it_started_on(running):
    with running.library.lease() as edition:
        old = edition.ranker.view.snapshot
        running.library.compact()
        assert old.path.is_dir()
        assert not any(items.index.closed for items in old.items.values())
    assert not old.path.exists()
    assert all(items.index.closed for items in old.items.values())


def test_an_archive_of_another_bundle_names_the_cure(tmp_path):
    with serving(tmp_path / "home", STUDIES[:2]):
        pass
    other = DoubleBundle(encoder=HashingEncoder(seed=1), encoder_id="f" * 64)
    with (
        pytest.raises(Mismatch, match="radrank index build --bundle bundle --archive"),
        serving(tmp_path / "home", bundle=other),
    ):
        pass


def test_one_process_at_a_time_holds_a_home(running, tmp_path):
    with pytest.raises(Unavailable, match="in use by process"):
        Home(tmp_path / "home")


def test_writers_side_by_side_lose_nothing(running):
    def write(start: int) -> None:
        for number in range(start, start + 10):
            running.upsert(new_study(f"W{number}", findings=f"writer {number}"))

    threads = [threading.Thread(target=write, args=(start,)) for start in (0, 10, 20, 30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stats = running.stats()
    assert (stats.studies, stats.sequence) == (64, 41)
    assert len(running.search(k=100, target=types_pb2.MODALITY_REPORT).hits) == 64


def test_a_stream_answers_in_order_and_sees_changes_as_they_come(running):
    answered = threading.Event()

    def requests():
        yield retrieval_pb2.SearchStreamRequest(
            tag="before", search=search_request(k=100, target=types_pb2.MODALITY_REPORT)
        )
        answered.wait(20)
        yield retrieval_pb2.SearchStreamRequest(
            tag="after", search=search_request(k=100, target=types_pb2.MODALITY_REPORT)
        )

    replies = running.retrieval.SearchStream(requests(), timeout=30)
    before = next(replies)
    running.upsert(new_study())
    answered.set()
    after = next(replies)
    assert (before.tag, len(before.search.hits), after.tag, len(after.search.hits)) == ("before", 24, "after", 25)


def test_a_study_with_many_images_is_one_hit(running):
    running.upsert(new_study("MANY", images=[{"content": picture(5)} for _ in range(32)]))
    hits = running.search(query={"image": picture(5)}, target=types_pb2.MODALITY_IMAGE, k=25).hits
    assert [hit.study_id for hit in hits].count("MANY") == 1
    assert len(hits) == 25
