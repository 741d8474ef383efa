"""PROTOCOL's leak rules, along the whole way from features to a re-ranker's scores.

With every pair link of the test studies permuted no input array and no score changes by one bit; with their labels
permuted none of its inputs do. The same permutations of archive studies do change them: the tests can see.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.doubles import joined
from helpers.made_up import GROUPS, KINDS, LAYOUT, SETTINGS, feature_set, tiny_reranker
from radrank.core.graph import ARCHIVE_RELATIONS, DIRECTIONS
from radrank.core.studies import Modality, Split
from radrank.training.episodes import Episodes, episodes, make_world
from radrank.training.features import FeatureSet
from radrank.training.reranker import VARIANTS

PLAIN = feature_set()
TRAIN, TEST = PLAIN.of_split(Split.TRAIN), PLAIN.of_split(Split.TEST)
SAME = PLAIN.same_text.copy()
SAME[TEST[[4, 9]]] = SAME[TEST[2]]  # three test studies say the same
FEATURES = replace(PLAIN, same_text=SAME)
_RNG = np.random.default_rng(0)
VECTORS = {
    m: joined(
        _RNG.normal(size=(len(PLAIN.study[m]), LAYOUT.projection)) + _RNG.normal(size=LAYOUT.projection),
        _RNG.random((len(PLAIN.study[m]), 1 + len(GROUPS))),
        m,
        LAYOUT,
    )
    for m in Modality
}
Inputs = dict[str, np.ndarray]


def asked(features: FeatureSet, vectors: dict[Modality, np.ndarray] = VECTORS, *, shuffled: bool = False) -> Episodes:
    """Test queries over the test gallery, with the training studies for archive."""
    settings = replace(SETTINGS, shuffled=shuffled)
    world = make_world(features, vectors, gallery=TEST, archive=TRAIN, layout=LAYOUT, settings=settings)
    return episodes(world, candidates=12)


def inputs(found: Episodes) -> Inputs:
    """All that any re-ranker could read of these queries."""
    return dict(found.batch.feed(dict.fromkeys(n for name in VARIANTS for n in tiny_reranker(name).array_names)))


@torch.inference_mode()
def scores(arrays: Inputs, name: str) -> np.ndarray:
    return tiny_reranker(name, layers=2)({key: torch.from_numpy(array) for key, array in arrays.items()}).numpy()


def with_pairs_permuted(studies: np.ndarray) -> FeatureSet:
    """Each report of these studies belongs to the next one's images."""
    reports = FEATURES.study[Modality.REPORT].copy()
    reports[studies] = np.roll(studies, 1)
    return replace(FEATURES, study={**FEATURES.study, Modality.REPORT: reports})


def with_labels_permuted(studies: np.ndarray) -> FeatureSet:
    labels, normal = FEATURES.labels.copy(), FEATURES.normal.copy()
    labels[studies], normal[studies] = np.roll(labels[studies], 1, axis=0), np.roll(normal[studies], 1)
    return replace(FEATURES, labels=labels, normal=normal)


def unequal(left: Inputs, right: Inputs) -> set[str]:
    """Names of the arrays that differ, in bits or in shape."""
    assert left.keys() == right.keys()
    return {name for name in left if left[name].tobytes() != right[name].tobytes()}


@pytest.fixture(scope="module")
def plain() -> Inputs:
    return inputs(asked(FEATURES))


@pytest.mark.parametrize("shuffled", [False, True])
def test_pair_links_of_test_studies_reach_no_input(shuffled):
    before, after = (asked(each, shuffled=shuffled) for each in (FEATURES, with_pairs_permuted(TEST)))
    assert not np.array_equal(before.gains == 3.0, after.gains == 3.0)  # of a study's other item alone
    assert unequal(inputs(before), inputs(after)) == set()


@pytest.mark.parametrize("name", [name for name, variant in VARIANTS.items() if not variant.shuffled])
def test_pair_links_of_test_studies_reach_no_score(plain, name):
    assert scores(plain, name).tobytes() == scores(inputs(asked(with_pairs_permuted(TEST))), name).tobytes()


@pytest.mark.parametrize("shuffled", [False, True])
def test_labels_of_test_studies_reach_no_input(shuffled):
    before, after = (asked(each, shuffled=shuffled) for each in (FEATURES, with_labels_permuted(TEST)))
    assert not np.array_equal(before.gains, after.gains)
    assert unequal(inputs(before), inputs(after)) == set()


def test_pair_links_and_labels_of_the_archive_are_read(plain):
    told = {m.value for m in Modality}
    assert told <= unequal(plain, inputs(asked(with_pairs_permuted(TRAIN))))
    assert unequal(plain, inputs(asked(with_labels_permuted(TRAIN)))) == told


@pytest.mark.parametrize("kind", list(KINDS))
def test_labels_of_the_archive_reach_scores(plain, kind):
    assert not np.array_equal(scores(plain, kind), scores(inputs(asked(with_labels_permuted(TRAIN))), kind))


def test_archive_nodes_are_of_training_studies_alone(plain):
    """Facts are told of the archive's items and of nobody else, and every edge from an archive leads to one of them."""
    for m in Modality:
        assert len(plain[m.value]) == len(TRAIN)
    for relation in ARCHIVE_RELATIONS:
        assert plain[f"{relation.name}.idx"].max() < len(TRAIN)


@pytest.mark.parametrize(("m", "place"), [(Modality.IMAGE, 3), (Modality.REPORT, 5)])
def test_another_query_is_in_no_graph_across_modalities(plain, m, place):
    """One test study's item is moved: of the queries of its modality that rank the other, its own graph alone
    changes."""
    rows = np.flatnonzero(PLAIN.study[m] == TEST[place])
    vectors = {**VECTORS, m: VECTORS[m].copy()}
    vectors[m][rows] = np.roll(vectors[m][rows], 1, axis=1)
    changed = inputs(asked(FEATURES, vectors))
    queries = np.flatnonzero(plain["direction"] == DIRECTIONS.index((m, m.other)))
    touched = np.zeros(len(queries), dtype=bool)
    for name in plain:
        if name not in list(Modality):
            touched |= [plain[name][row].tobytes() != changed[name][row].tobytes() for row in queries]
    assert touched.sum() == 1
    assert np.array_equal(touched, (plain["query"] != changed["query"])[queries].any(axis=1))
