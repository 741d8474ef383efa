from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from helpers.made_up import HEADS, SETTINGS, feature_set
from radrank.core.studies import Modality, Split
from radrank.training.episodes import DIRECTIONS, World, cross_fitted, episodes, make_world
from radrank.training.heads import train_heads

FEATURES = feature_set()
TRAIN, VALIDATION = FEATURES.of_split(Split.TRAIN), FEATURES.of_split(Split.VALIDATION)


@pytest.fixture(scope="module")
def heads():
    return train_heads(FEATURES, HEADS, train=TRAIN, validation=None, epochs=2)[0]


@pytest.fixture(scope="module")
def folds(heads):
    return list(cross_fitted(FEATURES, heads, HEADS, train=TRAIN, folds=3, epochs=2))


@pytest.fixture(scope="module")
def world(heads) -> World:
    return make_world(FEATURES, heads.vectors(FEATURES), gallery=VALIDATION, archive=TRAIN, settings=SETTINGS)


def test_folds_cut_the_training_studies_into_parts(folds):
    parts = [fold for fold, _ in folds]
    assert sorted(np.concatenate(parts).tolist()) == TRAIN.tolist()
    assert [len(part) for part in parts] == [10, 10, 10]


def test_a_folds_heads_were_trained_on_the_other_folds(heads, folds):
    fold, vectors = folds[0]
    rest = np.setdiff1d(TRAIN, fold).astype(np.int32)
    same, _ = train_heads(FEATURES, HEADS, train=rest, validation=None, epochs=2)
    for m in Modality:
        np.testing.assert_allclose(
            vectors[m] @ vectors[m].T, same.vectors(FEATURES)[m] @ same.vectors(FEATURES)[m].T, atol=1e-5
        )


def test_turning_a_folds_space_changes_no_cosine_and_brings_it_to_the_references(heads, folds):
    fold, vectors = folds[0]
    rest = np.setdiff1d(TRAIN, fold).astype(np.int32)
    unturned = train_heads(FEATURES, HEADS, train=rest, validation=None, epochs=2)[0].vectors(FEATURES)
    reference = heads.vectors(FEATURES)
    image, report = vectors[Modality.IMAGE], vectors[Modality.REPORT]
    np.testing.assert_allclose(image @ report.T, unturned[Modality.IMAGE] @ unturned[Modality.REPORT].T, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(image, axis=1), 1.0, atol=1e-5)
    gap = {
        name: sum(np.abs(v[m] - reference[m]).sum() for m in Modality)
        for name, v in (("turned", vectors), ("unturned", unturned))
    }
    assert gap["turned"] < gap["unturned"]


def test_cross_fitting_repeats_itself(heads, folds):
    again = cross_fitted(FEATURES, heads, HEADS, train=TRAIN, folds=3, epochs=2)
    for (fold, vectors), (other, others) in zip(folds, again, strict=True):
        assert np.array_equal(fold, other)
        assert all(np.array_equal(vectors[m], others[m]) for m in Modality)


def test_a_querys_study_is_never_in_its_archive(folds):
    for fold, vectors in folds:
        rest = np.setdiff1d(TRAIN, fold).astype(np.int32)
        world = make_world(FEATURES, vectors, gallery=fold, archive=rest, settings=SETTINGS)
        for m in Modality:
            assert set(world.archive[m].study.tolist()) == set(rest.tolist())
            assert set(world.gallery[m].study.tolist()) == set(fold.tolist())


def test_even_where_gallery_and_archive_overlap_the_querys_study_leaves_the_archive(heads):
    """A wrong call of make_world is no leak: the builder excludes the query's own study."""
    world = make_world(FEATURES, heads.vectors(FEATURES), gallery=TRAIN, archive=TRAIN, settings=SETTINGS)
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


def test_all_images_of_the_archive_are_nodes_and_one_image_a_study_is_gallery(world):
    images = FEATURES.study[Modality.IMAGE]
    assert len(world.archive[Modality.IMAGE]) == np.isin(images, TRAIN).sum() > len(TRAIN)
    assert len(world.gallery[Modality.IMAGE]) == len(VALIDATION)
    assert replace(FEATURES).primary.sum() == 90
