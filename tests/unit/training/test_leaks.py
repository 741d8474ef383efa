"""PROTOCOL's leak rules, along the whole way from features to a re-ranker's scores.

With every pair link of the test studies permuted no input array and no score changes by one bit; with their labels
permuted none of its inputs do. The same permutations of archive studies do change them: the tests can see.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.made_up import DIMENSIONS, SETTINGS, feature_set, tiny_reranker
from radrank.core.studies import Modality, Split
from radrank.core.vectors import unit
from radrank.training.episodes import Episode, episodes, make_world
from radrank.training.features import FeatureSet
from radrank.training.layers import KINDS

FEATURES = feature_set()
TRAIN, TEST = FEATURES.of_split(Split.TRAIN), FEATURES.of_split(Split.TEST)
_RNG = np.random.default_rng(0)
VECTORS = {
    m: unit(_RNG.normal(size=(len(FEATURES.study[m]), DIMENSIONS)) + _RNG.normal(size=DIMENSIONS)) for m in Modality
}


def asked(features: FeatureSet) -> list[Episode]:
    """Test queries over the test gallery, with the training studies for archive."""
    world = make_world(features, VECTORS, gallery=TEST, archive=TRAIN, settings=SETTINGS)
    return list(episodes(world, candidates=12))


def batches(found: list[Episode]) -> list[dict[str, np.ndarray]]:
    """All that any re-ranker could read of these queries, one direction a batch."""
    names = [n for kind in KINDS for n in tiny_reranker(kind).array_names]
    size = len(TEST)
    return [
        dict(found[0].world.builder.batch([e.graph for e in found[i : i + size]]).feed(dict.fromkeys(names)))
        for i in range(0, len(found), size)
    ]


@torch.inference_mode()
def scores(arrays: dict[str, np.ndarray], kind: str) -> np.ndarray:
    return tiny_reranker(kind)({name: torch.from_numpy(array) for name, array in arrays.items()}).numpy()


def with_pairs_permuted(studies: np.ndarray) -> FeatureSet:
    """Each report of these studies belongs to the next one's images."""
    reports = FEATURES.study[Modality.REPORT].copy()
    reports[studies] = np.roll(studies, 1)
    return replace(FEATURES, study={**FEATURES.study, Modality.REPORT: reports})


def with_labels_permuted(studies: np.ndarray) -> FeatureSet:
    labels, normal = FEATURES.labels.copy(), FEATURES.normal.copy()
    labels[studies], normal[studies] = np.roll(labels[studies], 1, axis=0), np.roll(normal[studies], 1)
    return replace(FEATURES, labels=labels, normal=normal)


def unequal(left: list[dict[str, np.ndarray]], right: list[dict[str, np.ndarray]]) -> set[str]:
    """Names of the arrays that differ, in bits or in shape."""
    pairs = zip(left, right, strict=True)
    return {name for one, other in pairs for name in one if one[name].tobytes() != other[name].tobytes()}


@pytest.fixture(scope="module")
def plain() -> list[dict[str, np.ndarray]]:
    return batches(asked(FEATURES))


def test_pair_links_of_test_studies_reach_no_input(plain):
    changed = asked(with_pairs_permuted(TEST))
    assert any(not np.array_equal(a.gains, b.gains) for a, b in zip(asked(FEATURES), changed, strict=True))
    assert unequal(plain, batches(changed)) == set()


@pytest.mark.parametrize("kind", list(KINDS))
def test_pair_links_of_test_studies_reach_no_score(plain, kind):
    for before, after in zip(plain, batches(asked(with_pairs_permuted(TEST))), strict=True):
        assert scores(before, kind).tobytes() == scores(after, kind).tobytes()


def test_labels_of_test_studies_reach_no_input(plain):
    changed = asked(with_labels_permuted(TEST))
    assert any(not np.array_equal(a.gains, b.gains) for a, b in zip(asked(FEATURES), changed, strict=True))
    assert unequal(plain, batches(changed)) == set()


def test_pair_links_and_labels_of_the_archive_are_read(plain):
    assert "report_paired.idx" in unequal(plain, batches(asked(with_pairs_permuted(TRAIN))))
    assert unequal(plain, batches(asked(with_labels_permuted(TRAIN)))) == {"image_scalars", "report_scalars"}


def test_a_querys_graph_holds_no_other_test_query(plain):
    """Its nodes are itself, its candidates of the target's type, and training studies."""
    for episode in asked(FEATURES):
        for m in Modality:
            assert set(episode.world.archive[m].study[episode.graph.archive_rows[m]].tolist()) <= set(TRAIN.tolist())
    others = {e.graph.query.tobytes() for e in asked(FEATURES)}
    image_to_report = plain[1]  # directions come image→image, image→report, …
    images = {vector.tobytes() for graph in image_to_report["image"] for vector in graph}
    assert not images & others
