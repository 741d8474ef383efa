from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from helpers.doubles import DIMENSIONS, HashingEncoder
from helpers.serving import STUDIES, Running
from radrank.core.studies import View
from radrank.core.vectors import unit
from radrank.datasets import pixels
from radrank.server.fields import VIEW_NUMBERS
from radrank.v1 import retrieval_pb2, types_pb2

IMAGE, REPORT = types_pb2.MODALITY_IMAGE, types_pb2.MODALITY_REPORT
QUERIES = {
    "image": ({"image": STUDIES[7].images[0].content}, IMAGE),
    "text": ({"text": STUDIES[7].report}, REPORT),
    "study": ({"study": {"study_id": "S0007"}}, IMAGE),
    "report of a study": ({"study": {"study_id": "S0007", "modality": REPORT}}, REPORT),
    "embedding": ({"embedding": {"values": np.ones(DIMENSIONS, "<f4").tobytes()}}, IMAGE),
    "embedding of a report": (
        {"embedding": {"values": np.ones(DIMENSIONS, "<f4").tobytes(), "modality": REPORT}},
        REPORT,
    ),
}


def numbers(response: retrieval_pb2.SearchResponse) -> set[int]:
    return {int(hit.study_id[1:]) for hit in response.hits}


@pytest.mark.parametrize("reranker", ["sage", "plain", "off", None])
@pytest.mark.parametrize("target", [IMAGE, REPORT])
@pytest.mark.parametrize(("query", "modality"), QUERIES.values(), ids=QUERIES)
def test_every_direction_works_with_every_reranker_and_without(standing: Running, query, modality, target, reranker):
    named = {} if reranker is None else {"reranker": reranker}
    reply = standing.search(query=query, target=target, **named)
    assert (reply.query_modality, reply.target) == (modality, target)
    assert [hit.rank for hit in reply.hits] == [1, 2, 3, 4, 5]
    assert reply.provenance.reranker == {"off": "", None: "sage"}.get(reranker, reranker)
    assert all(bool(hit.image_id) == bool(hit.view) == (target == IMAGE) for hit in reply.hits)


@pytest.mark.parametrize(("query", "modality"), QUERIES.values(), ids=QUERIES)
def test_an_unspecified_target_is_the_other_modality(standing, query, modality):
    assert standing.search(query=query).target == {IMAGE: REPORT, REPORT: IMAGE}[modality]


@pytest.mark.parametrize("number", [7, 5])
def test_the_image_of_a_study_finds_it_and_names_the_image(standing, number):
    content, view = STUDIES[number].images[0].content, VIEW_NUMBERS[STUDIES[number].images[0].view]
    hit = standing.search(query={"image": content}, target=IMAGE, include_preview=True).hits[0]
    assert (hit.study_id, hit.image_id, hit.view) == (f"S{number:04d}", f"I{number:04d}-0", view)
    assert hit.cosine == pytest.approx(1.0, abs=1e-5)
    assert pixels.load(hit.preview, 32).shape == (32, 32)


def test_a_study_of_several_views_is_one_hit_by_all_of_them(standing):
    content = STUDIES[8].images[1].content
    encoder = HashingEncoder()
    vectors = encoder.encode_images(np.stack([pixels.load(one.read(), 32) for one in STUDIES[8].images]))
    hits = standing.search(query={"image": content}, target=IMAGE, k=24, reranker="off").hits
    hit = next(hit for hit in hits if hit.study_id == "S0008")
    assert len({hit.study_id for hit in hits}) == len(hits) == 24
    assert (hit.image_id, hit.view) == ("I0008-0", types_pb2.VIEW_PA)
    assert hit.cosine == pytest.approx(float(vectors[1] @ unit(vectors.sum(axis=0))), abs=1e-5)
    query = {"embedding": {"values": unit(vectors.sum(axis=0)).tobytes()}}
    best = standing.search(query=query, target=IMAGE, reranker="off").hits[0]
    assert (best.study_id, best.cosine) == ("S0008", pytest.approx(1.0, abs=1e-5))


def test_report_and_labels_come_only_where_asked_for(standing):
    plain = standing.search(k=24).hits
    assert not any(hit.report or hit.labels or hit.preview or hit.HasField("normal") for hit in plain)
    full = {hit.study_id: hit for hit in standing.search(k=24, include_report=True, include_labels=True).hits}
    assert len(full) == 24
    for study in STUDIES:
        hit = full[study.study_id]
        assert (hit.report, tuple(hit.labels), hit.normal) == (study.report, study.labels, study.normal)


def test_a_report_hit_shows_the_primary_image(standing):
    hit = standing.search(query={"text": STUDIES[4].report}, target=REPORT, include_preview=True).hits[0]
    primary = pixels.preview(STUDIES[4].primary_image.read())
    assert (hit.study_id, hit.image_id, hit.preview) == ("S0004", "", primary)


def test_equal_requests_get_equal_hits_and_provenance(standing):
    first, second = standing.search(k=24), standing.search(k=24)
    assert (first.hits, first.provenance) == (second.hits, second.provenance)


def test_provenance_names_every_file(standing):
    made = standing.search().provenance
    assert made.bundle_sha256 == "b" * 64
    assert made.encoder_sha256.startswith("00report")
    assert made.reranker_sha256.startswith("0.2")
    assert len(made.snapshot_sha256) == 64
    assert (made.precision, made.runtime, made.archive_sequence) == ("fp32", "numpy", 1)
    stored = standing.search(query={"study": {"study_id": "S0001"}}, reranker="off").provenance
    assert (stored.encoder_sha256, stored.reranker_sha256, stored.reranker) == ("", "", "")


def test_stage_times_add_up(standing):
    times = standing.search(query={"image": STUDIES[0].images[0].content}).times
    parts = [times.decode_us, times.encode_us, times.candidates_us, times.graph_us, times.rerank_us, times.order_us]
    assert all(parts[:4])
    assert sum(parts) <= times.total_us < 20_000_000


@pytest.mark.parametrize("target", [IMAGE, REPORT])
@pytest.mark.parametrize(
    ("filters", "passes"),
    [
        ({"views": [types_pb2.VIEW_LATERAL]}, lambda s: s.images[0].view is View.LATERAL),
        ({"views": [types_pb2.VIEW_LATERAL, types_pb2.VIEW_PA]}, lambda s: True),
        ({"views": [types_pb2.VIEW_AP]}, lambda s: False),
        ({"labels_any": ["edema", "nodule"]}, lambda s: "edema" in s.labels),
        ({"labels_all": ["edema", "opacity"]}, lambda s: len(s.labels) == 2),
        ({"labels_any": ["opacity"], "labels_all": ["edema"]}, lambda s: len(s.labels) == 2),
        ({"normal": True}, lambda s: s.normal),
        ({"normal": False}, lambda s: not s.normal),
        ({"from": {"year": 2020, "month": 1, "day": 10}}, lambda s: s.date.day >= 10),
        ({"to": {"year": 2020, "month": 1, "day": 10}}, lambda s: s.date.day <= 10),
        (
            {"from": {"year": 2020, "month": 1, "day": 10}, "to": {"year": 2020, "month": 1, "day": 10}},
            lambda s: s.date.day == 10,
        ),
        ({"normal": False, "from": {"year": 2020, "month": 1, "day": 20}}, lambda s: not s.normal and s.date.day >= 20),
    ],
)
def test_filters_let_pass_what_they_say(standing, target, filters, passes):
    wanted = {int(study.study_id[1:]) for study in STUDIES if passes(study)}
    assert numbers(standing.search(k=24, target=target, filters=filters)) == wanted


def test_excluded_studies_are_left_out(standing):
    found = numbers(standing.search(k=24, exclude_studies=["S0003", "S0005", "unknown", ""]))
    assert found == set(range(24)) - {3, 5}


def test_a_study_never_finds_itself(standing):
    for query, target in product(("study", "report of a study"), (IMAGE, REPORT)):
        assert numbers(standing.search(query=QUERIES[query][0], target=target, k=24)) == set(range(24)) - {7}


def test_one_per_patient_keeps_the_best_of_each(standing):
    every = standing.search(k=24).hits
    single = standing.search(k=24, one_per_patient=True).hits
    assert sorted(int(hit.study_id[1:]) // 2 for hit in single) == list(range(12))
    best: dict[int, str] = {}
    for hit in every:
        best.setdefault(int(hit.study_id[1:]) // 2, hit.study_id)
    assert [hit.study_id for hit in single] == list(best.values())


def test_fewer_than_k_are_all_there_are(standing):
    assert len(standing.search(k=1000).hits) == 24
    assert len(standing.search(k=3, candidates=3).hits) == 3


def test_embed_answers_in_order_with_unit_vectors(standing):
    queries = [{"text": "one"}, {"image": STUDIES[0].images[0].content}, {"text": "two"}]
    reply = standing.retrieval.Embed(retrieval_pb2.EmbedRequest(queries=queries), timeout=20)
    vectors = np.stack([np.frombuffer(vector, "<f4") for vector in reply.vectors])
    assert reply.dimensions == vectors.shape[1] == DIMENSIONS
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1)
    encoder = HashingEncoder()
    assert np.array_equal(vectors[[0, 2]], encoder.encode_texts(["one", "two"]))
    assert np.allclose(vectors[1], encoder.encode_images(pixels.load(queries[1]["image"], 32)[None])[0])


def test_what_embed_gives_asks_like_the_text_itself(standing):
    reply = standing.retrieval.Embed(retrieval_pb2.EmbedRequest(queries=[{"text": "finding1 sign2"}]), timeout=20)
    query = {"embedding": {"values": reply.vectors[0], "modality": REPORT}}
    assert standing.search(query=query).hits == standing.search().hits


def test_screen_gives_both_opinions(standing):
    request = retrieval_pb2.ScreenRequest(query={"text": STUDIES[2].report}, k=1)
    reply = standing.retrieval.Screen(request, timeout=20)
    assert 0 < reply.abnormal_probability < 1
    assert (reply.abnormal_vote, reply.voters) == (1.0, 1)
    for query in ({"image": STUDIES[2].images[0].content}, {"study": {"study_id": "S0002"}}):
        assert standing.retrieval.Screen(retrieval_pb2.ScreenRequest(query=query), timeout=20).voters == 10


def test_get_study_shows_the_whole_study(standing):
    request = retrieval_pb2.GetStudyRequest(study_id="S0004", include_previews=True)
    found, study = standing.retrieval.GetStudy(request, timeout=20), STUDIES[4]
    assert (found.study_id, found.patient_id, found.findings) == (study.study_id, study.patient_id, study.findings)
    assert (tuple(found.labels), found.normal, found.HasField("normal")) == (study.labels, False, True)
    assert (found.date.year, found.date.month, found.date.day) == (2020, 1, 5)
    assert [image.image_id for image in found.images] == ["I0004-0", "I0004-1"]
    assert all(image.preview.startswith(b"\xff\xd8") for image in found.images)
    plain = standing.retrieval.GetStudy(retrieval_pb2.GetStudyRequest(study_id="S0004"), timeout=20)
    assert not any(image.preview for image in plain.images)
