"""Every loss against its formula, written out in numpy loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from radrank.core.relevance import jaccard
from radrank.core.vectors import unit
from radrank.training.losses import (
    abnormal_loss,
    approximate_ndcg_loss,
    clip_loss,
    findings_loss,
    supervised_contrastive_loss,
)

SCALE = 7.0


def vectors(count: int, seed: int) -> np.ndarray:
    return unit(np.random.default_rng(seed).normal(size=(count, 6))).astype(np.float64)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def clip(images: np.ndarray, reports: np.ndarray, same: np.ndarray) -> float:
    return float(
        clip_loss(torch.from_numpy(images), torch.from_numpy(reports), torch.from_numpy(same), torch.tensor(SCALE))
    )


def contrastive(found: np.ndarray, classes: list[int]) -> torch.Tensor:
    kind = torch.tensor(classes)
    return supervised_contrastive_loss(torch.from_numpy(found), (kind[:, None] == kind).double(), torch.tensor(SCALE))


def test_clip_is_the_cross_entropy_of_pairs_both_ways():
    images, reports = vectors(5, 0), vectors(5, 1)
    logits = SCALE * images @ reports.T
    expected = -(np.diag(log_softmax(logits)).mean() + np.diag(log_softmax(logits.T)).mean()) / 2
    assert clip(images, reports, np.eye(5, dtype=bool)) == pytest.approx(expected)


def test_in_clip_a_repeated_text_is_no_negative():
    images, reports = vectors(4, 0), vectors(4, 1)  # dropout makes two vectors of one text
    same = np.eye(4, dtype=bool)
    same[0, 1] = same[1, 0] = True
    logits = SCALE * images @ reports.T
    rivals = [[0, 2, 3], [1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3]]  # of each row and of each column, itself included
    expected = 0.0
    for one_way in (logits, logits.T):
        for i, others in enumerate(rivals):
            expected -= (one_way[i, i] - np.log(np.exp(one_way[i, others]).sum())) / 4 / 2
    assert clip(images, reports, same) == pytest.approx(expected)
    assert clip(images, reports, same) < clip(images, reports, np.eye(4, dtype=bool))


def test_in_clip_a_repeated_text_pulls_nowhere():
    """All of one text: nothing to tell apart, and no gradient."""
    images = torch.from_numpy(vectors(3, 0)).requires_grad_()
    loss = clip_loss(images, torch.from_numpy(vectors(3, 1)), torch.ones(3, 3, dtype=torch.bool), torch.tensor(SCALE))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert images.grad is not None
    assert not images.grad.any()


def test_in_clip_gradients_beside_a_masked_pair_are_finite():
    images = torch.from_numpy(vectors(4, 0)).requires_grad_()
    same = torch.eye(4, dtype=torch.bool)
    same[0, 1] = same[1, 0] = True
    clip_loss(images, torch.from_numpy(vectors(4, 1)), same, torch.tensor(SCALE)).backward()
    assert images.grad is not None
    assert torch.isfinite(images.grad).all()
    assert images.grad.abs().sum(dim=1).min() > 0.0


def test_contrastive_is_khoslas_outer_sum():
    found, classes = vectors(6, 2), [0, 1, 0, 1, 0, 2]
    logits = SCALE * found @ found.T
    per_item = []
    for i in range(6):
        positives = [p for p in range(6) if p != i and classes[p] == classes[i]]
        others = [a for a in range(6) if a != i]
        if positives:
            whole = np.log(np.exp(logits[i, others]).sum())
            per_item.append(-np.mean([logits[i, p] - whole for p in positives]))
    assert len(per_item) == 5
    assert float(contrastive(found, classes)) == pytest.approx(np.mean(per_item))


def test_contrastive_without_any_positive_is_zero_and_has_a_gradient_of_zero():
    found = torch.from_numpy(vectors(4, 2)).requires_grad_()
    loss = supervised_contrastive_loss(found, torch.eye(4), torch.tensor(SCALE))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert found.grad is not None
    assert not found.grad.any()


def test_contrastive_has_finite_gradients_beside_its_ignored_diagonal():
    found = torch.from_numpy(vectors(4, 2)).requires_grad_()
    kind = torch.tensor([0, 0, 1, 2])
    supervised_contrastive_loss(found, (kind[:, None] == kind).float(), torch.tensor(SCALE)).backward()
    assert found.grad is not None
    assert torch.isfinite(found.grad).all()


def test_contrast_by_overlap_weighs_each_positive_by_its_jaccard():
    """{a, b}, {a}, {b, c}, {a, b} and a study without labels."""
    labels = np.array([[1, 1, 0], [1, 0, 0], [0, 1, 1], [1, 1, 0], [0, 0, 0]], dtype=np.bool_)
    found = vectors(5, 3)
    alike = jaccard(labels, labels)
    assert alike[0].tolist() == pytest.approx([1.0, 1 / 2, 1 / 3, 1.0, 0.0])
    logits = SCALE * found @ found.T
    per_item = []
    for i in range(5):
        others = [a for a in range(5) if a != i]
        whole = np.log(sum(np.exp(logits[i, a]) for a in others))
        weights = {p: alike[i, p] for p in others if alike[i, p] > 0}
        if weights:
            per_item.append(-sum(w * (logits[i, p] - whole) for p, w in weights.items()) / sum(weights.values()))
    assert len(per_item) == 4  # the study without labels is nobody's positive, but everybody's negative
    loss = supervised_contrastive_loss(torch.from_numpy(found), torch.from_numpy(alike), torch.tensor(SCALE))
    assert float(loss) == pytest.approx(np.mean(per_item), rel=1e-6)


def test_contrast_weighs_positives_against_each_other_only():
    """Where all positives are half a positive, the loss is as where they are whole."""
    found, kind = torch.from_numpy(vectors(6, 2)), torch.tensor([0, 1, 0, 1, 0, 2])
    alike = (kind[:, None] == kind).double()
    whole, half = (supervised_contrastive_loss(found, w * alike, torch.tensor(SCALE)) for w in (1.0, 0.5))
    assert float(whole) == pytest.approx(float(half))


def test_abnormal_is_cross_entropy_over_what_is_known():
    logits, normal = np.array([2.0, -1.0, 0.5, 9.0]), np.array([1, -1, -1, 0])
    share = 1 / (1 + np.exp(-logits))
    expected = -np.mean([np.log(1 - share[0]), np.log(share[1]), np.log(share[2])])
    assert float(abnormal_loss(torch.tensor(logits), torch.tensor(normal))) == pytest.approx(expected, abs=1e-6)


def test_abnormal_of_nothing_known_is_zero():
    logits = torch.tensor([2.0, -1.0], requires_grad=True)
    loss = abnormal_loss(logits, torch.zeros(2))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_findings_is_cross_entropy_of_every_label_over_labelled_rows():
    logits = np.array([[2.0, -1.0, 0.5], [0.0, 1.0, -3.0], [9.0, 9.0, 9.0]])
    labels = np.array([[1, 0, 0], [0, 1, 1], [0, 0, 0]], dtype=np.bool_)  # the last is unlabelled
    terms = []
    for row in range(2):
        for column in range(3):
            share = 1 / (1 + np.exp(-logits[row, column]))
            terms.append(-np.log(share if labels[row, column] else 1 - share))
    found = findings_loss(torch.tensor(logits), torch.tensor(labels))
    assert float(found) == pytest.approx(np.mean(terms) * 3 / 4)  # grows with the number of labels


def test_findings_of_nothing_known_is_zero():
    logits = torch.ones(2, 3, requires_grad=True)
    loss = findings_loss(logits, torch.zeros(2, 3, dtype=torch.bool))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert logits.grad is not None
    assert not logits.grad.any()


def ndcg_loss(scores: list[float], gains: list[float], ideal: float, mask: list[bool] | None = None) -> float:
    found = approximate_ndcg_loss(
        torch.tensor([scores]),
        torch.tensor([gains]),
        torch.tensor([ideal]),
        torch.tensor([mask or [True] * len(scores)]),
    )
    assert found.shape == (1,)
    return float(found)


def test_approximate_ndcg_by_its_soft_ranks():
    scores, gains = [0.3, -0.2, 1.1], [1.0, 3.0, 0.0]
    found = 0.0
    for i in range(3):
        ahead = sum(1 / (1 + np.exp(scores[i] - scores[j])) for j in range(3) if j != i)
        found += gains[i] / np.log2(1 + 1 + ahead)
    assert ndcg_loss(scores, gains, 3.6) == pytest.approx(1 - found / 3.6, abs=1e-6)


def test_approximate_ndcg_of_clear_scores_is_one_minus_ndcg():
    gains = [1.0, 3.0, 0.0, 2.0]
    ideal = 3 / np.log2(2) + 2 / np.log2(3) + 1 / np.log2(4)
    assert ndcg_loss([200.0, 400.0, 100.0, 300.0], gains, ideal) == pytest.approx(0.0, abs=1e-6)
    found = 0 / np.log2(2) + 1 / np.log2(3) + 2 / np.log2(4) + 3 / np.log2(5)
    assert ndcg_loss([300.0, 100.0, 400.0, 200.0], gains, ideal) == pytest.approx(1 - found / ideal, abs=1e-6)


def test_padding_has_no_rank_and_no_gain():
    real = ndcg_loss([0.3, -0.2], [1.0, 3.0], 3.6)
    assert ndcg_loss([0.3, -0.2, 50.0], [1.0, 3.0, 9.0], 3.6, [True, True, False]) == pytest.approx(real)


def test_a_query_with_nothing_to_find_loses_one_and_pulls_nowhere():
    scores = torch.tensor([[0.3, -0.2]], requires_grad=True)
    loss = approximate_ndcg_loss(scores, torch.zeros(1, 2), torch.zeros(1), torch.ones(1, 2, dtype=torch.bool))
    loss.sum().backward()
    assert loss.tolist() == [1.0]
    assert scores.grad is not None
    assert not scores.grad.any()
