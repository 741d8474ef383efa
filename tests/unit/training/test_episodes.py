from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pytest

from helpers.made_up import HEADS, LAYOUT, SETTINGS, TOWER, feature_set, tiny_backbone, tiny_inputs
from radrank.core.graph import ARCHIVE_RELATIONS, DIRECTIONS
from radrank.core.studies import Modality, Split
from radrank.training.episodes import Episodes, World, cross_fitted, episodes, make_world
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


def world_of(vectors: Vectors, features: FeatureSet = FEATURES, **studies: np.ndarray) -> World:
    """Validation studies as gallery, the training studies as archive, where not given."""
    given = {"gallery": VALIDATION, "archive": TRAIN} | studies
    return make_world(features, vectors, layout=LAYOUT, settings=SETTINGS, **given)


def asking(world: World, found: Episodes, direction: tuple[Modality, Modality]) -> list[int]:
    """Rows of the episodes of one direction, in the order of the gallery's items."""
    rows = np.flatnonzero(found.direction == DIRECTIONS.index(direction)).tolist()
    assert len(rows) == len(world.gallery[direction[0]])
    return rows


def candidates_of(found: Episodes, row: int) -> int:
    return int(np.asarray(found.batch.arrays["mask"])[row].sum())


def repeating(*groups: list[int]) -> FeatureSet:
    """The features in which the reports of a group of validation studies, by place, are word for word the same."""
    same_text = FEATURES.same_text.copy()
    for group in groups:
        same_text[VALIDATION[group]] = same_text[VALIDATION[group[0]]]
    return replace(FEATURES, same_text=same_text)


@pytest.fixture(scope="module")
def world(reference) -> World:
    return world_of(reference)


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
        world = world_of(vectors, gallery=fold, archive=rest)
        for m in Modality:
            assert set(world.archive[m].study.tolist()) == set(rest.tolist())
            assert set(world.gallery[m].study.tolist()) <= set(fold.tolist())


def test_even_where_gallery_and_archive_overlap_the_querys_study_leaves_the_archive(reference):
    """A wrong call of make_world is no leak: the builder excludes the query's own study."""
    world = world_of(reference, gallery=TRAIN, archive=TRAIN)
    found = episodes(world, candidates=6)
    for source, target in DIRECTIONS:
        own = world.gallery[source].study
        for study, row in zip(own.tolist(), asking(world, found, (source, target)), strict=True):
            for relation in ARCHIVE_RELATIONS:
                rows = found.batch.rows[relation.name][row]
                assert study not in world.archive[Modality(relation.source)].study[rows[rows >= 0]]


def test_every_item_asks_in_every_direction(world):
    found = episodes(world, candidates=10)
    assert len(found) == len(DIRECTIONS) * len(VALIDATION)
    assert np.array_equal(found.direction, found.batch.arrays["direction"])
    for source, target in DIRECTIONS:
        rows = asking(world, found, (source, target))
        asked = LAYOUT.beliefs(world.gallery[source].vectors.base)
        assert np.array_equal(found.batch.arrays["query"][rows], asked)
        assert np.array_equal(found.normal[rows], FEATURES.normal[world.gallery[source].study])
    assert found.gains.shape == found.overlap.shape == found.shown.shape
    assert {candidates_of(found, row) for row in range(len(found))} == {10}


@pytest.mark.parametrize("m", list(Modality))
def test_an_item_is_not_its_own_candidate(world, m):
    found = episodes(world, candidates=100)
    for row in asking(world, found, (m, m)):
        own = found.batch.arrays["query"][row]
        assert candidates_of(found, row) == len(VALIDATION) - 1
        assert not (found.batch.arrays["candidate"][row] == own).all(axis=1).any()
        assert 3.0 not in found.gains[row]
        assert 3.0 not in found.ideal[row]
        assert (np.diff(found.batch.arrays["base"][row, : len(VALIDATION) - 1]) <= 0).all()


def test_across_modalities_a_querys_own_study_is_what_gains_most(world):
    found = episodes(world, candidates=100)
    there = world.gallery[Modality.REPORT]
    for place, row in enumerate(asking(world, found, (Modality.IMAGE, Modality.REPORT))):
        (pair,) = np.flatnonzero(found.gains[row] == 3.0)
        assert found.gains[row].max() == 3.0
        assert np.array_equal(found.batch.arrays["candidate"][row, pair], there.beliefs(np.array(place)))


def test_candidates_are_graded_as_relevance_is(world):
    """By naive loops over the order of an exact search."""
    found = episodes(world, candidates=12)
    asked, ranked = (world.gallery[m] for m in (Modality.REPORT, Modality.IMAGE))
    for place, row in enumerate(asking(world, found, (Modality.REPORT, Modality.IMAGE))):
        order = np.argsort(-(ranked.vectors.base @ asked.vectors.base[place]), kind="stable")
        own = FEATURES.labels[asked.study[place]]
        gained, shared = [], []
        for item in ranked.study[order].tolist():
            theirs = FEATURES.labels[item]
            shared.append((own & theirs).sum() / max((own | theirs).sum(), 1))
            weak_or_strong = {0.0: 0.0, 1.0: 2.0}.get(shared[-1], 1.0)
            gained.append(3.0 if item == asked.study[place] else weak_or_strong)
        np.testing.assert_array_equal(found.gains[row, :12], gained[:12])
        np.testing.assert_allclose(found.overlap[row, :12], shared[:12], atol=1e-6)
        np.testing.assert_array_equal(found.shown[row, :12], FEATURES.normal[ranked.study[order[:12]]] == 1)
        np.testing.assert_array_equal(found.ideal[row], sorted(gained, reverse=True)[:10])
        assert not any(part[row, 12:].any() for part in (found.gains, found.overlap, found.shown))


def test_reports_that_repeat_are_one_item_and_the_pair_of_all_their_studies(reference):
    """1, 4 and 6 say the same, 2 and 3 too: the first of each speaks."""
    world = world_of(reference, repeating([1, 4, 6], [2, 3]))
    reports = world.gallery[Modality.REPORT]
    kept = [place for place in range(len(VALIDATION)) if place not in (3, 4, 6)]
    assert np.array_equal(reports.study, VALIDATION[kept])
    spoken = VALIDATION.copy()
    spoken[[3, 4, 6]] = VALIDATION[[2, 1, 1]]
    assert np.array_equal(world.speaker[VALIDATION], spoken)
    assert np.array_equal(world.speaker[TRAIN], TRAIN)
    plain = world_of(reference).gallery[Modality.REPORT]
    assert np.array_equal(reports.vectors.base, plain.vectors.base[kept])
    found = episodes(world, candidates=100)
    there, back = (
        asking(world, found, ends) for ends in ((Modality.IMAGE, Modality.REPORT), (Modality.REPORT, Modality.IMAGE))
    )
    for place, row in enumerate(there):
        (pair,) = np.flatnonzero(found.gains[row] == 3.0)
        speaker = int(np.flatnonzero(reports.study == spoken[place])[0])
        assert np.array_equal(found.batch.arrays["candidate"][row, pair], reports.beliefs(np.array(speaker)))
    assert (found.gains[back] == 3.0).sum(axis=1).tolist() == [{1: 3, 2: 2}.get(place, 1) for place in kept]


def test_texts_of_the_archive_do_not_collapse(reference):
    """Training studies 0 and 1 have the same report."""
    assert FEATURES.same_text[0] == FEATURES.same_text[1]
    assert len(world_of(reference).archive[Modality.REPORT]) == len(TRAIN)


def test_so_many_queries_of_a_direction_are_drawn(world):
    every, some, again, others = (
        episodes(world, candidates=5, most=most, seed=seed) for most, seed in ((0, 0), (7, 0), (7, 0), (7, 1))
    )
    assert np.bincount(some.direction).tolist() == [7] * len(DIRECTIONS)
    whole, drawn, same, other = (found.batch.arrays["query"] for found in (every, some, again, others))
    assert np.array_equal(drawn, same)
    assert not np.array_equal(drawn, other)
    for row in range(7):  # each with what belongs to it
        (place,) = np.flatnonzero((whole == drawn[row]).all(axis=1) & (every.direction == some.direction[row]))
        assert some.normal[row] == every.normal[place]
        assert np.array_equal(some.gains[row], every.gains[place])
        assert np.array_equal(some.batch.arrays["candidate"][row], every.batch.arrays["candidate"][place])


def test_episodes_repeat_themselves(world):
    one, other = (episodes(world, candidates=5) for _ in range(2))
    assert one.batch.arrays.keys() == other.batch.arrays.keys()
    assert all(np.array_equal(array, other.batch.arrays[name]) for name, array in one.batch.arrays.items())
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
