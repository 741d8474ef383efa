from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.made_up import DIMENSIONS, HEADS, LAYOUT, feature_set, tiny_inputs
from radrank.core.studies import Modality, Split
from radrank.core.vectors import fused_by_study, unit
from radrank.training.features import FeatureSet
from radrank.training.heads import (
    Batches,
    Epoch,
    Heads,
    LossWeights,
    retrieval_score,
    study_vectors,
    train_heads,
)
from radrank.training.inputs import Inputs

FEATURES = feature_set()
INPUTS = tiny_inputs().of(FEATURES)
TRAIN, VALIDATION = FEATURES.of_split(Split.TRAIN), FEATURES.of_split(Split.VALIDATION)
IMAGE, REPORT = Modality.IMAGE, Modality.REPORT
GROUPS = FEATURES.labels.shape[1] - 1
OFF = LossWeights(clip=0.0, contrastive=0.0, jaccard=0.0, abnormal=0.0, findings=0.0)


def untrained(**changes: object) -> Heads:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Heads(tiny_inputs().widths, FEATURES.groups, replace(HEADS, **changes)).eval()  # type: ignore[arg-type]


def trained(
    features: FeatureSet = FEATURES, *, inputs: dict[Modality, Inputs] = INPUTS, epochs: int = 2, **changes: object
) -> Heads:
    settings = replace(HEADS, epochs=epochs, **changes)  # type: ignore[arg-type]
    return train_heads(features, inputs, settings, train=TRAIN)


def equal(left: torch.nn.Module, right: torch.nn.Module) -> bool:
    other = right.state_dict()
    return all(torch.equal(value, other[name]) for name, value in left.state_dict().items())


def shuffled(values: np.ndarray) -> np.ndarray:
    changed = values.copy()
    changed[TRAIN] = np.roll(values[TRAIN], 1, axis=0)
    return changed


def beliefs_of(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float32)


def directions(count: int, *, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(unit(np.random.default_rng(seed).normal(size=(count, HEADS.projection))))


def test_training_finds_what_the_untrained_heads_do_not():
    before, after = (
        retrieval_score(heads.vectors(INPUTS), FEATURES, VALIDATION)["score"]
        for heads in (untrained(), trained(epochs=20))
    )
    assert after > before + 0.1


def test_vectors_are_unit_vectors_of_every_item():
    vectors = trained().vectors(INPUTS)
    for m in Modality:
        assert vectors[m].shape == (len(FEATURES.study[m]), DIMENSIONS)
        np.testing.assert_allclose(np.linalg.norm(vectors[m], axis=1), 1.0, atol=1e-5)


def test_a_vector_is_a_projection_beside_beliefs():
    heads = trained()
    vectors = heads.vectors(INPUTS)[IMAGE]
    projected = heads.project(torch.from_numpy(INPUTS[IMAGE].features), IMAGE).detach().numpy()
    share, width = HEADS.beliefs, HEADS.projection
    assert heads.layout == LAYOUT
    assert heads.layout.dimensions == DIMENSIONS == width + 1 + GROUPS + 2
    np.testing.assert_allclose(vectors[:, :width], (1 - share) ** 0.5 * projected, atol=1e-6)
    np.testing.assert_allclose(
        vectors[:, width : width + 1 + GROUPS], (share / 2) ** 0.5 * INPUTS[IMAGE].beliefs, atol=1e-6
    )
    np.testing.assert_allclose(heads.layout.beliefs(vectors), INPUTS[IMAGE].beliefs, atol=1e-5)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.9])
@pytest.mark.parametrize("m", list(Modality))
def test_joined_vectors_have_unit_length_whatever_is_believed(m, share):
    beliefs = beliefs_of([0, 0, 0, 0], [1, 0, 0, 0], [0.3, 0.2, 0.1, 0.9], [1, 1, 0, 0], [1, 1, 1, 1])
    found = untrained(beliefs=share).join(directions(5), beliefs, m)
    np.testing.assert_allclose(found.norm(dim=1), 1.0, atol=1e-6)


def test_across_modalities_beliefs_add_half_their_product_by_their_share():
    p = beliefs_of([0.9, 0.1, 0.0, 0.2], [0.0, 1.0, 1.0, 0.0])
    q = beliefs_of([0.7, 0.0, 0.3, 0.1], [0.1, 0.8, 0.9, 0.0], [0.0, 0.0, 0.0, 0.0])
    one, other = directions(2, seed=1), directions(3, seed=2)
    heads, share = untrained(beliefs=0.3), 0.3
    found = heads.join(one, p, IMAGE) @ heads.join(other, q, REPORT).T
    for row in range(2):
        for column in range(3):
            expected = (1 - share) * float(one[row] @ other[column]) + share * float(p[row] @ q[column]) / 2
            assert float(found[row, column]) == pytest.approx(expected, abs=1e-6)


def test_within_a_modality_what_is_not_believed_counts_too():
    """So that an item is nearest to itself: two that believe nothing are as alike as two that believe the same."""
    nothing, sure = beliefs_of([0, 0, 0, 0]), beliefs_of([1, 1, 0, 0])
    heads, one = untrained(beliefs=0.3), directions(1)
    assert float(heads.join(one, nothing, IMAGE) @ heads.join(one, nothing, IMAGE).T) == pytest.approx(1.0)
    assert float(heads.join(one, nothing, IMAGE) @ heads.join(one, sure, IMAGE).T) == pytest.approx(0.7)
    assert float(heads.join(one, nothing, IMAGE) @ heads.join(one, nothing, REPORT).T) == pytest.approx(0.7)


def test_beliefs_beyond_two_certain_findings_are_scaled_down():
    """Four certain findings point where two tenths of each would, and are as long as two certain ones."""
    heads, one = untrained(), directions(1)
    place = slice(HEADS.projection, HEADS.projection + 4)
    many, two = (heads.join(one, beliefs_of(row), IMAGE)[0, place] for row in ([1.0] * 4, [1.0, 1.0, 0.0, 0.0]))
    assert float(many.norm()) == pytest.approx(float(two.norm())) == pytest.approx(HEADS.beliefs**0.5)
    assert many.tolist() == pytest.approx([float(many[0])] * 4)


def test_full_beliefs_leave_exactly_nothing():
    """A root of what rounding left would differ from runtime to runtime."""
    sure = 0.72 + 0.28 * torch.rand(200, 4, generator=torch.Generator().manual_seed(0))  # norms beyond √2
    assert not untrained().join(directions(200), sure, IMAGE)[:, -2:].any()


@pytest.mark.parametrize("share", [0.05, 0.1, 0.6])
@pytest.mark.parametrize("m", list(Modality))
def test_the_classifier_reads_one_minus_the_belief_in_normal_from_a_vector(m, share):
    normal = torch.linspace(0, 1, 21)
    beliefs = torch.cat([normal.unsqueeze(1), torch.full((21, GROUPS), 0.2)], dim=1)
    heads = untrained(beliefs=share)
    arrays = heads.classifier_arrays()
    vectors = heads.join(directions(21), beliefs, m).numpy()
    assert arrays[f"{m}_weight"].shape == (heads.layout.dimensions,)
    assert arrays[f"{m}_bias"].shape == ()
    abnormal = 1 / (1 + np.exp(-(vectors @ arrays[f"{m}_weight"] + arrays[f"{m}_bias"])))
    np.testing.assert_allclose(abnormal, 1 - normal, atol=0.08)
    assert abnormal[10] == pytest.approx(0.5, abs=1e-5)
    assert (np.diff(abnormal) < 0).all()


def test_a_seed_gives_the_same_heads_to_the_last_bit_and_another_seed_others():
    assert equal(trained(seed=3), trained(seed=3))
    assert not equal(trained(seed=3), trained(seed=4))


def test_every_epoch_is_logged_and_the_last_one_stays():
    log: list[Epoch] = []
    settings = replace(HEADS, epochs=4)
    heads = train_heads(FEATURES, INPUTS, settings, train=TRAIN, validation=VALIDATION, on_epoch=log.append)
    assert [(epoch.epoch, epoch.best) for epoch in log] == [(1, False), (2, False), (3, False), (4, True)]
    assert log[-1].score == retrieval_score(heads.vectors(INPUTS), FEATURES, VALIDATION)["score"]
    assert log[-1].loss < log[0].loss
    assert not heads.training


def test_validation_decides_nothing():
    log: list[Epoch] = []
    settings = replace(HEADS, epochs=2)
    watched = train_heads(FEATURES, INPUTS, settings, train=TRAIN, validation=VALIDATION, on_epoch=log.append)
    assert equal(watched, trained())
    unwatched: list[Epoch] = []
    train_heads(FEATURES, INPUTS, settings, train=TRAIN, on_epoch=unwatched.append)
    assert [epoch.loss for epoch in unwatched] == [epoch.loss for epoch in log]
    assert all(np.isnan(epoch.score) for epoch in unwatched)


@pytest.mark.parametrize("losses", [replace(OFF, abnormal=0.5), replace(OFF, findings=0.5)], ids=["abnormal", "all"])
def test_a_term_of_the_classifiers_moves_them(losses):
    start, end = untrained(), trained(losses=losses)
    assert not equal(start.classifiers, end.classifiers)


def test_without_their_terms_the_classifiers_learn_nothing():
    """Weight decay alone scales them."""
    start, end = (h.classifiers.state_dict() for h in (trained(epochs=1), trained(losses=replace(OFF, clip=1.0))))
    assert start.keys() == end.keys()
    losses = LossWeights(abnormal=0.0, findings=0.0)
    moved = trained(losses=losses, weight_decay=0.0).classifiers.state_dict()
    torch.manual_seed(HEADS.seed)
    fresh = Heads(tiny_inputs().widths, FEATURES.groups, HEADS).classifiers.state_dict()
    assert all(torch.equal(moved[name], fresh[name]) for name in fresh)


@pytest.mark.parametrize("term", ["contrastive", "jaccard", "findings"])
@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_labels_are_read_by_each_term_that_is_on(term, weight):
    losses = replace(OFF, clip=1.0, **{term: weight})
    other = replace(FEATURES, labels=shuffled(FEATURES.labels))
    assert equal(trained(losses=losses), trained(other, losses=losses)) is (weight == 0.0)


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_normal_is_read_by_the_abnormal_term(weight):
    losses = replace(OFF, clip=1.0, abnormal=weight)
    other = replace(FEATURES, normal=shuffled(FEATURES.normal))
    assert equal(trained(losses=losses), trained(other, losses=losses)) is (weight == 0.0)


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_without_the_clip_term_repeated_texts_change_nothing(weight):
    losses = LossWeights(clip=weight)
    other = replace(FEATURES, same_text=np.zeros_like(FEATURES.same_text))
    assert equal(trained(losses=losses), trained(other, losses=losses)) is (weight == 0.0)


def test_contrast_by_overlap_and_over_equal_sets_are_one_where_each_study_has_one_finding():
    one, other = (trained(losses=replace(OFF, **{term: 1.0})) for term in ("contrastive", "jaccard"))
    assert equal(one, other)
    two = FEATURES.labels.copy()
    two[:, -1] |= two[:, 1]  # wherever there is an edema there is an opacity, so that sets overlap in part
    overlapping = replace(FEATURES, labels=two)
    one, other = (trained(overlapping, losses=replace(OFF, **{term: 1.0})) for term in ("contrastive", "jaccard"))
    assert not equal(one, other)


def test_studies_outside_train_are_not_learnt_from():
    held = {m: ~np.isin(FEATURES.study[m], TRAIN)[:, None] for m in Modality}
    spoilt = {
        m: Inputs(features=np.where(held[m], np.float32(9.0), INPUTS[m].features), beliefs=INPUTS[m].beliefs)
        for m in Modality
    }
    others = np.setdiff1d(np.arange(90), TRAIN)
    labels = FEATURES.labels.copy()
    labels[others] = ~labels[others]
    assert equal(trained(), trained(replace(FEATURES, labels=labels), inputs=spoilt))


def test_a_study_of_unknown_labels_is_nobodys_positive():
    """Two studies without labels are not of one class."""
    unknown = replace(FEATURES, labels=np.zeros_like(FEATURES.labels))
    pairs = replace(OFF, clip=1.0)
    both = replace(pairs, contrastive=1.0, jaccard=1.0, findings=1.0)
    assert equal(trained(unknown, losses=pairs).projectors, trained(unknown, losses=both).projectors)


def test_a_study_of_several_views_is_one_vector_of_all():
    vectors = unit(np.random.default_rng(0).normal(size=(5, 4)))
    study = np.array([7, 7, 2, 4, 7], dtype=np.int32)
    found = fused_by_study(vectors, study, np.array([7, 2]))
    np.testing.assert_allclose(found[0], unit((vectors[0] + vectors[1] + vectors[4])[None])[0], atol=1e-6)
    np.testing.assert_allclose(found[1], vectors[2], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-6)


def test_study_vectors_are_of_the_studies_that_have_an_item():
    vectors = {m: unit(np.random.default_rng(0).normal(size=(len(FEATURES.study[m]), 4))) for m in Modality}
    blind = replace(
        FEATURES, study={**FEATURES.study, IMAGE: np.where(FEATURES.study[IMAGE] == 4, 5, FEATURES.study[IMAGE])}
    )
    wanted = np.array([6, 4, 3], dtype=np.int32)  # 3 and 6 have two images
    studies, found = study_vectors(vectors, blind, wanted, IMAGE)
    assert studies.tolist() == [3, 6]
    np.testing.assert_allclose(found, fused_by_study(vectors[IMAGE], blind.study[IMAGE], studies), atol=1e-6)
    studies, found = study_vectors(vectors, blind, wanted, REPORT)
    assert studies.tolist() == [3, 4, 6]
    assert np.array_equal(found, vectors[REPORT][[3, 4, 6]])


def test_training_reads_up_to_two_views_of_a_study():
    rows, kept = Batches(FEATURES, TRAIN).views(np.array([0, 1, 3]), 0.0, np.random.default_rng(0))
    assert FEATURES.study[IMAGE][rows].tolist() == [[0, 0], [1, 1], [3, 3]]
    assert FEATURES.primary[rows[:, 0]].all()
    assert kept.tolist() == [[True, True], [True, False], [True, True]]
    assert rows[0, 0] != rows[0, 1]


@pytest.mark.parametrize("drop", [0.0, 0.3, 1.0])
def test_view_dropout_leaves_one_of_two_views_either_one(drop):
    batches, studies = Batches(FEATURES, TRAIN), np.tile([0, 3, 6], 400)
    _, kept = batches.views(studies, drop, np.random.default_rng(0))
    assert kept.any(axis=1).all()
    assert (kept.sum(axis=1) == 1).mean() == pytest.approx(drop, abs=0.05)
    assert kept[:, 0].mean() == pytest.approx(kept[:, 1].mean(), abs=0.08)


def test_a_study_of_one_view_always_shows_it():
    rows, kept = Batches(FEATURES, TRAIN).views(np.array([1, 2, 4] * 20), 1.0, np.random.default_rng(0))
    assert kept.tolist() == [[True, False]] * 60
    assert np.array_equal(rows[:, 0], rows[:, 1])


def test_a_study_of_three_views_shows_each_of_the_others():
    three = replace(FEATURES, study={**FEATURES.study, IMAGE: np.repeat(np.arange(40), 3).astype(np.int32)})
    three = replace(three, primary=np.tile([False, True, False], 40))
    rows, _ = Batches(three, TRAIN).views(np.zeros(50, dtype=np.int64), 0.0, np.random.default_rng(0))
    assert set(rows[:, 0].tolist()) == {1}
    assert set(rows[:, 1].tolist()) == {0, 2}


def test_only_studies_of_both_modalities_are_paired():
    silent = replace(
        FEATURES, study={**FEATURES.study, REPORT: np.where(FEATURES.study[REPORT] == 4, 89, FEATURES.study[REPORT])}
    )
    assert Batches(silent, TRAIN).pool.tolist() == [s for s in TRAIN if s != 4]


def test_a_perfect_embedding_scores_one():
    kind = FEATURES.labels.argmax(axis=1)
    known = np.flatnonzero(FEATURES.labels.any(axis=1))[:20].astype(np.int32)
    # One axis a class, and a little of one's own axis so that the pair comes first.
    axes = unit(np.concatenate([np.eye(4)[kind], 0.1 * np.eye(90)], axis=1))
    found = retrieval_score({m: axes[FEATURES.study[m]] for m in Modality}, FEATURES, known)
    assert found["score"] == pytest.approx(1.0)
    assert found["image→report pair R@10"] == found["report→image strong MRR"] == 1.0
