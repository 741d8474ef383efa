from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.made_up import HEADS, feature_set
from radrank.core.studies import Modality, Split
from radrank.training.features import FeatureSet
from radrank.training.heads import Epoch, Heads, LossWeights, gallery_rows, retrieval_score, train_heads

FEATURES = feature_set()
TRAIN, VALIDATION = FEATURES.of_split(Split.TRAIN), FEATURES.of_split(Split.VALIDATION)


def trained(features: FeatureSet = FEATURES, *, epochs: int = 2, **changes: object) -> Heads:
    """Heads after exactly so many epochs."""
    settings = replace(HEADS, **changes)  # type: ignore[arg-type]
    return train_heads(features, settings, train=TRAIN, validation=None, epochs=epochs)[0]


def equal(left: Heads, right: Heads) -> bool:
    other = right.state_dict()
    return all(torch.equal(value, other[name]) for name, value in left.state_dict().items())


def shuffled(values: np.ndarray) -> np.ndarray:
    changed = values.copy()
    changed[TRAIN] = np.roll(values[TRAIN], 1, axis=0)
    return changed


def test_training_finds_what_the_untrained_heads_do_not():
    torch.manual_seed(0)
    untrained = Heads({m: FEATURES.features[m].shape[1] for m in Modality}, HEADS)
    heads, _ = train_heads(FEATURES, replace(HEADS, epochs=20), train=TRAIN, validation=VALIDATION)
    before, after = (retrieval_score(h.vectors(FEATURES), FEATURES, VALIDATION)["score"] for h in (untrained, heads))
    assert after > before + 0.1


def test_vectors_are_unit_vectors_of_every_item():
    vectors = trained().vectors(FEATURES)
    for m in Modality:
        assert vectors[m].shape == (len(FEATURES.study[m]), HEADS.dimensions)
        np.testing.assert_allclose(np.linalg.norm(vectors[m], axis=1), 1.0, atol=1e-5)


def test_a_seed_gives_the_same_heads_to_the_last_bit_and_another_seed_others():
    assert equal(trained(seed=3), trained(seed=3))
    assert not equal(trained(seed=3), trained(seed=4))


def test_the_best_epochs_heads_are_returned():
    log: list[Epoch] = []
    settings = replace(HEADS, epochs=12, learning_rate=5e-2)  # so fast that later epochs are worse
    heads, best = train_heads(FEATURES, settings, train=TRAIN, validation=VALIDATION, on_epoch=log.append)
    scores = [epoch.score for epoch in log]
    assert best == 1 + int(np.argmax(scores)) < len(log)
    assert retrieval_score(heads.vectors(FEATURES), FEATURES, VALIDATION)["score"] == pytest.approx(max(scores))
    assert [epoch.epoch for epoch in log if epoch.best][-1] == best


def test_patience_ends_a_training_that_no_longer_improves():
    log: list[Epoch] = []
    settings = replace(HEADS, epochs=12, learning_rate=0.0, patience=2)
    _, best = train_heads(FEATURES, settings, train=TRAIN, validation=VALIDATION, on_epoch=log.append)
    assert (best, len(log)) == (1, 3)


def test_without_the_abnormal_term_the_classifiers_stay_as_they_were():
    torch.manual_seed(0)
    start = Heads({m: FEATURES.features[m].shape[1] for m in Modality}, HEADS).classifier_arrays()
    for weight, moved in ((0.0, False), (0.5, True)):
        end = trained(losses=LossWeights(abnormal=weight)).classifier_arrays()
        assert any(not np.array_equal(start[name], end[name]) for name in start) is moved


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_without_the_contrastive_term_labels_change_nothing(weight):
    losses = LossWeights(contrastive=weight, abnormal=0.0)
    other = replace(FEATURES, labels=shuffled(FEATURES.labels))
    assert equal(trained(losses=losses), trained(other, losses=losses)) is (weight == 0.0)


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_without_the_clip_term_repeated_texts_change_nothing(weight):
    losses = LossWeights(clip=weight)
    other = replace(FEATURES, same_text=np.zeros_like(FEATURES.same_text))
    assert equal(trained(losses=losses), trained(other, losses=losses)) is (weight == 0.0)


def test_studies_outside_train_are_not_learnt_from():
    held = np.isin(FEATURES.study[Modality.REPORT], np.setdiff1d(np.arange(90), TRAIN))
    reports = np.where(held[:, None], np.float32(9.0), FEATURES.features[Modality.REPORT])
    other = replace(FEATURES, features={**FEATURES.features, Modality.REPORT: reports})
    assert equal(trained(), trained(other))


def test_a_study_of_unknown_labels_is_nobodys_positive():
    """Two studies without labels are not of one class."""
    unknown = replace(FEATURES, labels=np.zeros_like(FEATURES.labels))
    alone = replace(FEATURES, labels=np.eye(90, dtype=np.bool_))
    losses = LossWeights(abnormal=0.0)
    assert equal(trained(unknown, losses=losses), trained(alone, losses=losses))


def test_one_image_stands_for_a_study_in_a_gallery():
    studies = np.array([0, 1, 3], dtype=np.int32)
    rows = gallery_rows(FEATURES, studies, Modality.IMAGE)
    assert FEATURES.study[Modality.IMAGE][rows].tolist() == [0, 1, 3]
    assert FEATURES.primary[rows].all()
    assert gallery_rows(FEATURES, studies, Modality.REPORT).tolist() == [0, 1, 3]


def test_a_perfect_embedding_scores_one():
    kind = FEATURES.labels.argmax(axis=1)
    known = np.flatnonzero(FEATURES.labels.any(axis=1))[:20].astype(np.int32)
    # One axis a class, and a little of one's own axis so that the pair comes first.
    axes = np.concatenate([np.eye(4)[kind], 0.1 * np.eye(90)], axis=1).astype(np.float32)
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    found = retrieval_score({m: axes[FEATURES.study[m]] for m in Modality}, FEATURES, known)
    assert found["score"] == pytest.approx(1.0)
    assert found["image→report pair R@10"] == found["report→image strong MRR"] == 1.0
