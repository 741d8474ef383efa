"""Projector heads: one MLP a modality into one space, trained by the multi-task loss over frozen features."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from radrank.core.relevance import gains, ndcg, reciprocal_rank
from radrank.core.studies import Modality
from radrank.core.vectors import Matrix, exact_neighbours
from radrank.training.features import FeatureSet
from radrank.training.losses import abnormal_loss, clip_loss, supervised_contrastive_loss


@dataclass(frozen=True, kw_only=True, slots=True)
class LossWeights:
    """Weights of the three terms; 0 switches one off."""

    clip: float = 1.0
    contrastive: float = 1.0
    abnormal: float = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadSettings:
    """dimensions: of the joint space; hidden: width of the MLPs; temperature: of both contrastive terms, at the start;
    patience: epochs without a better validation score before training stops."""

    dimensions: int = 256
    hidden: int = 512
    dropout: float = 0.5
    losses: LossWeights = field(default_factory=LossWeights)
    temperature: float = 0.07
    epochs: int = 40
    patience: int = 10
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    seed: int = 0


class ProjectorHead(nn.Module):
    """Frozen features [n, width] → unit vectors [n, dimensions]."""

    def __init__(self, width: int, settings: HeadSettings) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.skip = nn.Linear(width, settings.dimensions, bias=False)
        self.mlp = nn.Sequential(
            nn.Linear(width, settings.hidden),
            nn.GELU(),
            nn.Dropout(settings.dropout),
            nn.Linear(settings.hidden, settings.dimensions),
        )

    def forward(self, features: Tensor) -> Tensor:
        normed = self.norm(features)
        return F.normalize(self.skip(normed) + self.mlp(normed), dim=-1)


class Heads(nn.Module):
    """Both projectors, the classifier of each modality, and the learnt inverse temperature."""

    def __init__(self, widths: Mapping[Modality, int], settings: HeadSettings) -> None:
        super().__init__()
        self.widths = dict(widths)
        self.settings = settings
        self.projectors = nn.ModuleDict({m.value: ProjectorHead(widths[m], settings) for m in Modality})
        self.classifiers = nn.ModuleDict({m.value: nn.Linear(settings.dimensions, 1) for m in Modality})
        self.log_scale = nn.Parameter(torch.tensor(1.0 / settings.temperature).log())

    def project(self, features: Tensor, modality: Modality) -> Tensor:
        return cast(Tensor, self.projectors[modality.value](features))

    def abnormal_logits(self, vectors: Tensor, modality: Modality) -> Tensor:
        """Logits [n] of an abnormal study, from unit vectors [n, dimensions]."""
        return cast(Tensor, self.classifiers[modality.value](vectors)).squeeze(-1)

    def classifier_arrays(self) -> dict[str, NDArray[np.float32]]:
        """`<modality>_weight` [dimensions] and `<modality>_bias` [] of the abnormal logit."""
        arrays: dict[str, NDArray[np.float32]] = {}
        for m in Modality:
            layer = cast(nn.Linear, self.classifiers[m.value])
            arrays[f"{m}_weight"], arrays[f"{m}_bias"] = (
                layer.weight.detach().numpy()[0],
                layer.bias.detach().numpy()[0],
            )
        return arrays

    @property
    def scale(self) -> Tensor:
        return self.log_scale.exp().clamp(max=100.0)

    @torch.inference_mode()
    def vectors(self, features: FeatureSet) -> dict[Modality, Matrix]:
        """Unit vectors of every item."""
        self.eval()
        return {m: self.project(torch.from_numpy(features.features[m]), m).numpy() for m in Modality}


@dataclass(frozen=True, kw_only=True, slots=True)
class Epoch:
    """One line of the training log."""

    epoch: int
    loss: float
    score: float
    best: bool


def train_heads(
    features: FeatureSet,
    settings: HeadSettings,
    *,
    train: NDArray[np.int32],
    validation: NDArray[np.int32] | None,
    on_epoch: Callable[[Epoch], None] | None = None,
    epochs: int | None = None,
) -> tuple[Heads, int]:
    """Trains heads on the studies `train`. Returns them at their best epoch, and the number of epochs that took.

    validation: studies whose retrieval score decides when to stop; None trains for exactly `epochs`.
    """
    torch.manual_seed(settings.seed)
    rng = np.random.default_rng(settings.seed)
    heads = Heads({m: features.features[m].shape[1] for m in Modality}, settings)
    images_of, report_of = _items(features)
    pool = np.array([s for s in train if s in images_of and s in report_of], dtype=np.int64)
    total = epochs or settings.epochs
    optimizer = torch.optim.AdamW(heads.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    steps = max(1, len(pool) // settings.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, total_steps=total * steps + 1)
    tensors = {m: torch.from_numpy(features.features[m]) for m in Modality}
    best_score, best_epoch, best_state = -1.0, 0, {}
    for epoch in range(1, total + 1):
        heads.train()
        shuffled = rng.permutation(pool)
        losses = []
        for step in range(steps):
            chosen = shuffled[step * settings.batch_size : (step + 1) * settings.batch_size]
            rows = {
                Modality.IMAGE: np.array([rng.choice(images_of[s]) for s in chosen]),
                Modality.REPORT: np.array([report_of[s] for s in chosen]),
            }
            loss = _multi_task(heads, tensors, features, chosen, rows)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
        if validation is None:
            continue
        score = retrieval_score(heads.vectors(features), features, validation)["score"]
        better = score > best_score
        if better:
            best_score, best_epoch = score, epoch
            best_state = {name: value.clone() for name, value in heads.state_dict().items()}
        if on_epoch:
            on_epoch(Epoch(epoch=epoch, loss=float(np.mean(losses)), score=score, best=better))
        if epoch - best_epoch >= settings.patience:
            break
    if best_state:
        heads.load_state_dict(best_state)
    return heads.eval(), best_epoch or total


def retrieval_score(
    vectors: Mapping[Modality, Matrix], features: FeatureSet, studies: NDArray[np.int32]
) -> dict[str, float]:
    """Plain embedding retrieval among these studies, image→report and text→image.

    `score`, the mean of nDCG@10 over both directions and over normal and abnormal queries alike, is what early
    stopping watches: all queries alone would reward moving normal reports up.
    """
    found: dict[str, float] = {}
    for source, target in ((Modality.IMAGE, Modality.REPORT), (Modality.REPORT, Modality.IMAGE)):
        queries, gallery = (gallery_rows(features, studies, m) for m in (source, target))
        own, theirs = features.study[source][queries], features.study[target][gallery]
        order, _ = exact_neighbours(vectors[source][queries], vectors[target][gallery], len(gallery))
        graded = gains(features.labels[own], features.labels[theirs], own, theirs)
        found |= direction_metrics(
            f"{source}→{target}", np.take_along_axis(graded, order, axis=1), graded, features.normal[own]
        )
    found["score"] = float(np.mean([value for name, value in found.items() if name.endswith("macro nDCG@10")]))
    return found


def direction_metrics(
    name: str, ranked: NDArray[np.float32], ideal: NDArray[np.float32], normal: NDArray[np.int8]
) -> dict[str, float]:
    """What a log line tells of one direction. ranked, ideal: gains [q, n]; normal: int8 [q], of the queries."""
    quality = ndcg(ranked, ideal, 10)
    scopes = [quality[normal == side].mean() for side in (1, -1) if (normal == side).any()]
    return {
        f"{name} nDCG@10": float(quality.mean()),
        f"{name} macro nDCG@10": float(np.mean(scopes)) if scopes else float(quality.mean()),
        f"{name} pair R@10": float((ranked[:, :10] == 3.0).any(axis=1).mean()),
        f"{name} strong MRR": float(reciprocal_rank(ranked >= 2.0).mean()),
    }


def gallery_rows(features: FeatureSet, studies: NDArray[np.int32], modality: Modality) -> NDArray[np.int64]:
    """The items that stand for these studies: one image a study, its report."""
    inside = np.isin(features.study[modality], studies)
    return np.flatnonzero(inside & features.primary if modality is Modality.IMAGE else inside)


def _items(features: FeatureSet) -> tuple[dict[int, list[int]], dict[int, int]]:
    images: dict[int, list[int]] = {}
    for row, study in enumerate(features.study[Modality.IMAGE]):
        images.setdefault(int(study), []).append(row)
    return images, {int(study): row for row, study in enumerate(features.study[Modality.REPORT])}


def _multi_task(
    heads: Heads,
    tensors: Mapping[Modality, Tensor],
    features: FeatureSet,
    studies: NDArray[np.int64],
    rows: Mapping[Modality, NDArray[np.int64]],
) -> Tensor:
    weights = heads.settings.losses
    vectors = {m: heads.project(tensors[m][rows[m]], m) for m in Modality}
    texts = torch.from_numpy(features.same_text[rows[Modality.REPORT]])
    loss = weights.clip * clip_loss(
        vectors[Modality.IMAGE], vectors[Modality.REPORT], texts[:, None] == texts, heads.scale
    )
    if weights.contrastive:
        # One class is one set of findings; the images and reports of a class are positives of each other.
        labels = features.labels[studies]
        known = labels.any(axis=1)
        classes = np.unique(labels, axis=0, return_inverse=True)[1].reshape(-1)
        classes = np.where(known, classes, -1 - np.arange(len(classes)))
        both = torch.from_numpy(np.concatenate([classes, classes]))
        stacked = torch.cat([vectors[m] for m in Modality])
        loss = loss + weights.contrastive * supervised_contrastive_loss(stacked, both[:, None] == both, heads.scale)
    if weights.abnormal:
        normal = torch.from_numpy(features.normal[studies])
        for m in Modality:
            loss = loss + weights.abnormal / 2 * abnormal_loss(heads.abnormal_logits(vectors[m], m), normal)
    return loss
