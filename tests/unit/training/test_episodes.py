from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pytest

from helpers.made_up import HEADS, SETTINGS, TOWER, feature_set, tiny_backbone, tiny_inputs
from radrank.core.studies import Modality, Split
from radrank.training.episodes import DIRECTIONS, World, cross_fitted, episodes, make_world
from radrank.training.features import FeatureSet
from radrank.training.heads import train_heads
from radrank.training.inputs import fit_inputs

FEATURES = feature_set()
TRAIN, VALIDATION = FEATURES.of_split(Split.TRAIN), FEATURES.of_split(Split.VALIDATION)
QUICK = replace(HEADS, epochs=2)
Vectors = dict[Modality, np.ndarray]
Fold = tuple[np.ndarray, Vectors]


def cut(reference: Vectors, features: FeatureSet = FEATURES, **changes: Any) -> Iterator[Fold]:
    given: dict[str, Any] = {"heads": QUICK, "tower": TOWER, "train": TRAIN, "folds": 3} | changes
    return cross_fitted(features, reference, tiny_backbone().image_tower.tail, **given)


def unturned(fold: np.ndarray) -> Vectors:
    """The vectors of one fold as its own encoder makes them."""
    rest = np.setdiff1d(TRAIN, fold).astype(np.int32)
    inputs = fit_inputs(FEATURES, tiny_backbone().image_tower.tail, TOWER, train=rest).of(FEATURES)
    return train_heads(FEATURES, inputs, QUICK, train=rest).vectors(inputs)


@pytest.fixture(scope="module")
def reference() -> Vectors:
    """Of the encoder that was trained on all training studies."""
    inputs = tiny_inputs().of(FEATURES)
    return train_heads(FEATURES, inputs, QUICK, train=TRAIN).vectors(inputs)


@pytest.fixture(scope="module")
def folds(reference) -> list[Fold]:
    return list(cut(reference))


@pytest.fixture(scope="module")
def world(reference) -> World:
    return make_world(FEATURES, reference, gallery=VALIDATION, archive=TRAIN, settings=SETTINGS)


def test_folds_cut_the_training_studies_into_parts(folds):
    parts = [fold for fold, _ in folds]
    assert sorted(np.concatenate(parts).tolist()) == TRAIN.tolist()
    assert [len(part) for part in parts] == [10, 10, 10]


def test_a_folds_encoder_was_trained_on_the_other_folds(folds):
    for fold, vectors in folds:
        expected = unturned(fold)
        for m in Modality:
            np.testing.assert_allclose(vectors[m] @ vectors[m].T, expected[m] @ expected[m].T, atol=1e-5)


def test_a_folds_encoder_never_sees_the_folds_labels_or_pairs(reference, folds):
    """With the fold's labels and statuses permuted, and each of its reports another study's, no vector changes; with
    those of the rest permuted, they do."""
    for place, (fold, vectors) in enumerate(folds):
        rest = np.setdiff1d(TRAIN, fold)
        for studies, changes in ((fold, False), (rest, True)):
            labels, normal = FEATURES.labels.copy(), FEATURES.normal.copy()
            labels[studies], normal[studies] = np.roll(labels[studies], 1, axis=0), np.roll(normal[studies], 1)
            reports = FEATURES.study[Modality.REPORT].copy()
            reports[studies] = np.roll(studies, 1)
            study = {**FEATURES.study, Modality.REPORT: reports}
            other = replace(FEATURES, labels=labels, normal=normal, study=study)
            _, found = next(islice(cut(reference, other), place, None))
            for m in Modality:
                assert np.array_equal(found[m], vectors[m]) is not changes


def test_turning_a_folds_space_changes_no_cosine_and_brings_it_to_the_references(reference, folds):
    fold, vectors = folds[0]
    plain = unturned(fold)
    image, report = vectors[Modality.IMAGE], vectors[Modality.REPORT]
    np.testing.assert_allclose(image @ report.T, plain[Modality.IMAGE] @ plain[Modality.REPORT].T, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(image, axis=1), 1.0, atol=1e-5)
    gap = {
        name: sum(np.abs(v[m] - reference[m]).sum() for m in Modality)
        for name, v in (("turned", vectors), ("unturned", plain))
    }
    assert gap["turned"] < gap["unturned"]


def test_beliefs_are_not_turned(folds):
    """They mean the same in every space."""
    fold, vectors = folds[0]
    plain = unturned(fold)
    for m in Modality:
        assert np.array_equal(vectors[m][:, HEADS.projection :], plain[m][:, HEADS.projection :])
        assert not np.allclose(vectors[m][:, : HEADS.projection], plain[m][:, : HEADS.projection], atol=1e-3)


def test_cross_fitting_repeats_itself(reference, folds):
    for (fold, vectors), (other, others) in zip(folds, cut(reference), strict=True):
        assert np.array_equal(fold, other)
        assert all(np.array_equal(vectors[m], others[m]) for m in Modality)


def test_every_folds_tuning_is_told_epoch_by_epoch(reference):
    told: list[None] = []
    list(cut(reference, on_epoch=lambda: told.append(None)))
    assert len(told) == 3 * TOWER.epochs


def test_a_querys_study_is_never_in_its_archive(folds):
    for fold, vectors in folds:
        rest = np.setdiff1d(TRAIN, fold).astype(np.int32)
        world = make_world(FEATURES, vectors, gallery=fold, archive=rest, settings=SETTINGS)
        for m in Modality:
            assert set(world.archive[m].study.tolist()) == set(rest.tolist())
            assert set(world.gallery[m].study.tolist()) == set(fold.tolist())


def test_even_where_gallery_and_archive_overlap_the_querys_study_leaves_the_archive(reference):
    """A wrong call of make_world is no leak: the builder excludes the query's own study."""
    world = make_world(FEATURES, reference, gallery=TRAIN, archive=TRAIN, settings=SETTINGS)
    own = np.tile(TRAIN, len(DIRECTIONS))
    for study, episode in zip(own, episodes(world, candidates=6), strict=True):
        for m in Modality:
            assert int(study) not in world.archive[m].study[episode.graph.archive_rows[m]]


def test_every_study_asks_in_every_direction(world):
    found = list(episodes(world, candidates=10))
    assert len(found) == len(DIRECTIONS) * len(VALIDATION)
    assert {(e.graph.query_modality, e.graph.target) for e in found} == set(DIRECTIONS)
    assert all(len(e.graph.candidates) == len(e.gains) == 10 for e in found)
    assert all(len(e.ideal) == len(VALIDATION) for e in found)


@pytest.mark.parametrize("m", list(Modality))
def test_an_item_is_not_its_own_candidate(world, m):
    for row, episode in enumerate(episodes(world, candidates=100, directions=[(m, m)])):
        assert row not in episode.graph.candidates.rows
        assert len(episode.graph.candidates) == len(VALIDATION) - 1
        assert 3.0 not in episode.ideal
        assert (np.diff(episode.graph.candidates.cosines) <= 0).all()


def test_across_modalities_a_querys_own_study_is_what_gains_most(world):
    for row, episode in enumerate(episodes(world, candidates=100, directions=[(Modality.IMAGE, Modality.REPORT)])):
        assert episode.gains.max() == 3.0
        assert episode.graph.candidates.rows[episode.gains.argmax()] == row
        assert sorted(episode.gains) == sorted(episode.ideal)
        assert episode.normal == FEATURES.normal[VALIDATION[row]]


def test_episodes_repeat_themselves(world):
    names = ["image", "report", "image_scalars", "report_scalars", "image_image.idx", "report_query.weight", "base"]
    for one, other in zip(episodes(world, candidates=5), episodes(world, candidates=5), strict=True):
        left, right = (world.builder.batch([e.graph]).feed(names) for e in (one, other))
        assert all(np.array_equal(left[name], right[name]) for name in names)
        assert np.array_equal(one.gains, other.gains)


def test_a_study_is_one_image_node_of_all_its_views_and_one_report_node(world, reference):
    for nodes, studies in ((world.archive, TRAIN), (world.gallery, VALIDATION)):
        for m in Modality:
            assert sorted(nodes[m].study.tolist()) == studies.tolist()
        images, owners = reference[Modality.IMAGE], FEATURES.study[Modality.IMAGE]
        for row in (0, 1, 2):
            study = nodes[Modality.IMAGE].study[row]
            views = images[owners == study].sum(axis=0)
            expected = views / np.linalg.norm(views)
            np.testing.assert_allclose(nodes[Modality.IMAGE].vectors.base[row], expected, atol=1e-6)
    assert (np.bincount(FEATURES.study[Modality.IMAGE])[VALIDATION] == 2).any()  # some have two
