"""The careful user's search against ours: the same weights must give the same answers, or their times mean nothing."""

from __future__ import annotations

import json
from contextlib import contextmanager

import pytest
import torch

from helpers.made_up import SETTINGS, tiny_backbone, tiny_bundle
from radrank.bench import careful as module
from radrank.bench._peers_report import peers_markdown, peers_plot
from radrank.bench.careful import Careful
from radrank.bench.contest import CAREFUL, OURS, Contest
from radrank.bench.footprint import make_home
from radrank.bench.peers import EMBEDDING, GRAPH, IMAGE, PHRASE, REPORT, SAME, SIDES, Lengths, Part, Peers
from radrank.bench.sides import in_process, questions
from radrank.bench.throughput import Throughput
from radrank.bench.turns import Ratio
from radrank.core.errors import InvalidQuery
from radrank.core.ranking import SearchQuery, VectorQuery
from radrank.core.studies import Modality
from radrank.training import runs
from radrank.training.runs import Run

CANDIDATES = 60
QUESTIONS = questions("demo", None, 2)


@contextmanager
def silent(label, total):
    yield lambda done: None


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """An archive of made-up studies in the tiny bundle's space."""
    path = tmp_path_factory.mktemp("peers") / "archive"
    make_home(path, tiny_bundle(), 200, threads=1, bar=silent)
    return path


@pytest.fixture(scope="module")
def ranker(home):
    with in_process(tiny_bundle(), home) as (_, ranker):
        yield ranker


@pytest.fixture
def careful(ranker, monkeypatch):
    monkeypatch.setattr(runs, "load_backbone", lambda name, weights: tiny_backbone())
    return Careful(Run(path=tiny_bundle().parent / "run"), ranker.view)


@pytest.fixture
def contest(careful, ranker):
    return Contest(careful, ranker, client=None, candidates=CANDIDATES)


def test_both_score_the_same_candidates_alike_in_both_directions(contest):
    for question in QUESTIONS:
        asked = contest.vectors(question)
        assert [m for _, m in asked] == list(Modality)
        assert max(contest.score_difference(one) for one in asked) <= SAME


def test_another_weight_of_one_relation_is_told(contest, careful):
    """A difference of other weights must show, or equal scores prove nothing."""
    conv = careful.model.layers[0].conv.convs[module.EDGE_TYPES["candidate_image"]]
    with torch.inference_mode():
        conv.lin_rel.weight += 0.5
    assert contest.score_difference(contest.vectors(QUESTIONS[0])[0]) > SAME


def test_both_encode_alike_though_only_one_pads_to_the_full_context(contest, careful):
    seen: list[tuple[int, ...]] = []
    encoder = careful.encoders[Modality.REPORT]
    encoder.register_forward_pre_hook(lambda _, ids: seen.append(tuple(ids[0].shape)))
    apart = contest.vector_difference(QUESTIONS[0])
    assert apart["report"] <= 1e-5
    assert apart["image"] <= 1e-3  # the demo's JPEGs are decoded at an eighth for 16 pixels, by us
    assert seen == [(1, 32)]  # the tiny backbone's context


def test_both_find_the_same_studies(contest, careful, ranker):
    for vector, m in contest.vectors(QUESTIONS[0]):
        found = careful.search(torch.from_numpy(vector), m, m.other, k=10, candidates=CANDIDATES)
        ours = ranker.search(
            SearchQuery(content=VectorQuery(vector=vector, modality=m), candidates=CANDIDATES, reranker="sage")
        ).hits
        assert found == [hit.study_id for hit in ours]


def test_every_side_has_a_call_of_its_own_name(contest):
    calls = [
        contest.text("normal heart"),
        contest.image(QUESTIONS[0].image),
        contest.embedding(contest.vectors(QUESTIONS[0])[0]),
    ]
    for by_careful, by_us, _ in calls:
        assert list(by_careful()) == [CAREFUL]
        assert list(by_us()) == [OURS]
    by_careful, by_us, _ = contest.graph(contest.vectors(QUESTIONS[0])[0])
    assert by_careful()[CAREFUL] > 0
    assert by_us()[OURS] > 0


def test_an_archive_too_small_for_the_neighbours_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "load_backbone", lambda name, weights: tiny_backbone())
    make_home(tmp_path / "archive", tiny_bundle(), SETTINGS.neighbours, threads=1, bar=silent)
    with in_process(tiny_bundle(), tmp_path / "archive") as (_, ranker), pytest.raises(InvalidQuery, match="larger"):
        Careful(Run(path=tiny_bundle().parent / "run"), ranker.view)


def result(*, scores: float = 2e-6, same_hits: bool = True) -> Peers:
    ratio = Ratio(value=8.0, low=7.0, high=9.5)
    parts = [
        Part(
            name=name,
            questions=8,
            medians=dict(zip(SIDES, (80.0, 10.0, 12.0), strict=True)),
            ours=ratio,
            served=ratio,
            fastest=7.5,
        )
        for name in (PHRASE, REPORT, IMAGE, EMBEDDING, GRAPH)
    ]
    return Peers(
        parts=parts,
        throughput=[Throughput(kind="text", ours=40.0, server=38.0, threads=2, clients=16, refused=0)],
        engines={"text_encoder": "openvino 2026, bf16", "reranker_gcn": "not shown"},
        scores=scores,
        vectors={"image": 1e-7, "report": 2e-7},
        same_hits=same_hits,
        lengths={PHRASE: Lengths(tokens=9.0, ours=16.0, theirs=256.0)},
        bundle="tiny",
        studies=200,
        candidates=100,
        rounds=10,
        command="radrank bench peers --out results",
        machine={"cores": "2"},
    )


def test_the_report_tells_times_ratios_and_what_was_asked_for():
    told = peers_markdown(result())
    assert f"| {PHRASE} | 8 | 80.00 | 10.00 | 12.00 | 8.00 [7.00, 9.50] | 7.50 | 8.00 [7.00, 9.50] | 6 × |" in told
    assert "`radrank bench peers --out results`" in told
    assert "9 tokens, padded to 16 by us and to 256 by torch + PyG" in told
    assert "- text_encoder: openvino 2026, bf16." in told
    assert "not shown" not in told
    assert "| text | 40.0 | 38.0 | 0.95 | 0 | 0.9 |" in told
    assert "held" in told
    assert "failed" not in told


def test_sides_that_disagree_are_told_so():
    assert result().agrees
    for apart in (result(scores=2e-4), result(same_hits=False)):
        assert not apart.agrees
        assert "**failed**" in peers_markdown(apart) or "**different**" in peers_markdown(apart)


def test_the_result_is_json_and_a_picture(tmp_path):
    kept = json.loads(json.dumps(result().to_json(), allow_nan=False))
    assert kept["parts"][0]["ours"] == {"value": 8.0, "low": 7.0, "high": 9.5}
    assert kept["targets"] == {PHRASE: 6.0, IMAGE: 1.8, GRAPH: 5.0}
    peers_plot(result(), tmp_path / "peers.png")
    assert (tmp_path / "peers.png").read_bytes().startswith(b"\x89PNG")
