"""A data set on which the archive knows what the embedding does not: clusters of one label lie far apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.made_up import SETTINGS, feature_set
from radrank.core.studies import Modality, Split
from radrank.core.vectors import unit
from radrank.training.episodes import Episode, episodes, make_world
from radrank.training.features import FeatureSet
from radrank.training.heads import Epoch
from radrank.training.listwise import RerankerSettings, evaluate, train_reranker
from radrank.training.reranker import GraphReranker

QUICK = RerankerSettings(candidates=20, width=16, layers=2, epochs=8, batch_size=8, sample=0, learning_rate=1e-2)
DIRECTIONS = [(Modality.IMAGE, Modality.REPORT), (Modality.REPORT, Modality.IMAGE)]


def clustered(studies: int = 160) -> tuple[FeatureSet, dict[Modality, np.ndarray]]:
    """Eight clusters, every other one normal. A study's items lie about its cluster's centre, and nothing in a
    cosine tells that two clusters share their label; the labels of the archive around them do."""
    rng = np.random.default_rng(0)
    cluster = rng.integers(0, 8, studies)
    labels = np.zeros((studies, 4), dtype=np.bool_)
    labels[np.arange(studies), np.where(cluster % 2, 0, 3)] = True
    centres = rng.normal(size=(8, 8))
    plain = feature_set(studies)
    made = replace(plain, labels=labels, normal=np.where(cluster % 2, 1, -1).astype(np.int8))
    vectors = {
        m: unit(centres[cluster[made.study[m]]] + 0.5 * rng.normal(size=(len(made.study[m]), 8))) for m in Modality
    }
    return made, vectors


@pytest.fixture(scope="module")
def judged() -> tuple[list[Episode], list[Episode]]:
    features, vectors = clustered()
    train, validation, test = (features.of_split(split) for split in (Split.TRAIN, Split.VALIDATION, Split.TEST))
    worlds = [
        make_world(features, vectors, gallery=gallery, archive=test, settings=SETTINGS)
        for gallery in (train, validation)
    ]
    training, validating = (list(episodes(world, candidates=20, directions=DIRECTIONS)) for world in worlds)
    return training, validating


def train(
    judged: tuple[list[Episode], list[Episode]], settings: RerankerSettings = QUICK, kind: str = "sage"
) -> tuple[GraphReranker, int, dict[str, float], list[Epoch]]:
    log: list[Epoch] = []
    found = train_reranker(kind, settings, dimensions=8, train=judged[0], validation=judged[1], on_epoch=log.append)
    return (*found, log)


@pytest.fixture(scope="module")
def learnt(judged):
    return train(judged)


def test_it_learns_what_archive_neighbours_tell(judged, learnt):
    model, best, metrics, log = learnt
    before = evaluate(GraphReranker(model.shape), judged[1])
    assert log[0].epoch == 0
    assert np.isnan(log[0].loss)
    assert log[0].score == before["score"]
    assert best > 0
    assert metrics["score"] > before["score"] + 0.02
    assert evaluate(model, judged[1]) == metrics
    assert float(model.gate.detach()) != 0.0


def test_the_untrained_reranker_ranks_as_the_encoder_does(judged):
    """Epoch 0's metrics are those of candidates in the order they came."""
    from radrank.core.relevance import ndcg

    images = [e for e in judged[1] if e.graph.query_modality is Modality.IMAGE]
    found = evaluate(GraphReranker(train_shape()), judged[1])
    expected = ndcg(np.stack([e.gains for e in images]), np.stack([e.ideal for e in images]), 10).mean()
    assert found["image→report nDCG@10"] == pytest.approx(expected)


def test_a_seed_gives_the_same_reranker_to_the_last_bit_and_another_seed_another(judged):
    short = replace(QUICK, epochs=1, sample=24)
    first, again, other = (train(judged, replace(short, seed=seed))[0].state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_where_nothing_beats_the_base_the_untrained_reranker_comes_back(judged):
    """Validation queries whose candidates come in the best order already."""
    perfect = [replace(e, gains=-np.sort(-e.gains), ideal=e.gains) for e in judged[1]]
    model, best, metrics, log = train((judged[0], perfect), replace(QUICK, epochs=2, sample=24))
    assert (best, metrics["score"], float(model.gate.detach())) == (0, 1.0, 0.0)
    assert [epoch.best for epoch in log] == [True, False, False]


def test_a_query_without_status_counts_as_little_as_its_share(judged):
    """Normal, abnormal and unknown queries may all be there, and each scope weighs alike."""
    from radrank.training.listwise import _class_weights

    some = [replace(e, normal=n) for e, n in zip(judged[0][:6], (1, 1, 1, -1, -1, 0), strict=True)]
    weights = _class_weights(some)
    assert weights[1] * 3 == pytest.approx(weights[-1] * 2) == pytest.approx(weights[0] * 1)
    assert sum(weights[e.normal] for e in some) == pytest.approx(6)


def train_shape():
    from radrank.training.reranker import RerankerShape

    return RerankerShape(kind="sage", dimensions=8, width=16)
