"""The terms of the multi-task loss (arXiv 2601.05399) and two more for sets of findings, and the listwise one."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def clip_loss(images: Tensor, reports: Tensor, same: Tensor, scale: Tensor) -> Tensor:
    """Symmetric contrastive loss (Radford et al. 2021) over unit vectors [n, d] of n pairs.

    same: bool [n, n], where two reports are word for word the same: such pairs are no negatives of each other.
    scale: inverse temperature.
    """
    others = same & ~torch.eye(len(same), dtype=torch.bool, device=same.device)
    logits = (scale * images @ reports.T).masked_fill(others, -torch.inf)
    own = torch.arange(len(images), device=images.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def supervised_contrastive_loss(vectors: Tensor, alike: Tensor, scale: Tensor) -> Tensor:
    """Khosla et al. 2020, eq. 2 (the outer sum), over unit vectors [n, d].

    alike: float32 [n, n], 0…1, how much of a positive each item is to each; the diagonal is ignored. Items without
    any positive are left out.
    """
    itself = torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
    log_shares = (scale * vectors @ vectors.T).masked_fill(itself, -torch.inf).log_softmax(dim=1)
    weights = alike.masked_fill(itself, 0.0)
    sums = weights.sum(dim=1)
    per_item = -(weights * log_shares.masked_fill(itself, 0.0)).sum(dim=1) / sums.clamp(min=1e-6)
    return per_item[sums > 0].mean() if bool((sums > 0).any()) else per_item.sum() * 0.0


def abnormal_loss(logits: Tensor, normal: Tensor) -> Tensor:
    """Binary cross-entropy of abnormal against normal. normal: [n], 1, −1, or 0 for unknown, which is left out."""
    known = normal != 0
    if not bool(known.any()):
        return logits.sum() * 0.0
    return F.binary_cross_entropy_with_logits(logits[known], (normal[known] < 0).float())


def findings_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Multi-label binary cross-entropy. logits [n, 1 + groups]; labels: bool, alike; unlabelled rows are left out."""
    known = labels.any(dim=1)
    if not bool(known.any()):
        return logits.sum() * 0.0
    # The mean over many rare findings would hardly pull.
    return logits.shape[1] / 4 * F.binary_cross_entropy_with_logits(logits[known], labels[known].float())


def approximate_ndcg_loss(scores: Tensor, gains: Tensor, ideal: Tensor, mask: Tensor) -> Tensor:
    """1 − nDCG per query with soft ranks (Qin, Liu & Li 2010): listwise, and blind to anything but order. [B]

    scores [B, K], scaled so that a difference of 1 is a clear one; gains [B, K]; ideal [B], the largest DCG that the
    candidates allow; mask: bool [B, K], True for real candidates. Queries without any relevant candidate give 1.
    """
    ahead = torch.sigmoid(scores.unsqueeze(1) - scores.unsqueeze(2)) * mask.unsqueeze(1)  # [b, i, j]: j before i
    ranks = 0.5 + ahead.sum(dim=2)  # an item is half before itself
    found = (gains * mask / torch.log2(1.0 + ranks)).sum(dim=1)
    return 1.0 - found / ideal.clamp(min=1e-9)
