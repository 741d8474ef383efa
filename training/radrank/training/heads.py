"""Projector heads: one MLP a modality into one space, trained by the multi-task loss over frozen inputs.

Beside the projection a vector holds what the labeller of its modality believes of the findings: see core.layout.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from radrank.core.layout import BELIEF_NORM, VectorLayout
from radrank.core.relevance import gains, jaccard, ndcg, reciprocal_rank
from radrank.core.studies import Modality
from radrank.core.vectors import Matrix, exact_neighbours, fused_by_study
from radrank.training.features import FeatureSet
from radrank.training.inputs import Inputs
from radrank.training.losses import abnormal_loss, clip_loss, findings_loss, supervised_contrastive_loss


@dataclass(frozen=True, kw_only=True, slots=True)
class LossWeights:
    """Weights of the terms; 0 switches one off.

    clip: pairs (Radford et al. 2021); contrastive: equal sets of findings (Khosla et al. 2020); jaccard: the same,
    each positive weighted by the overlap of the sets; abnormal: normal/abnormal cross-entropy; findings: the same of
    every finding group
    """

    clip: float = 1.0
    contrastive: float = 0.5
    jaccard: float = 1.0
    abnormal: float = 0.0
    findings: float = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadSettings:
    """projection: dimensions of the projected part; hidden: width of the MLPs; temperature: of the contrastive terms,
    at the start; beliefs: share of the labellers' beliefs in a similarity; view_dropout: how often a study of several
    views shows but one of them; epochs: fixed, since stopping on a score of a small validation set picks noise."""

    projection: int = 256
    hidden: int = 512
    dropout: float = 0.5
    losses: LossWeights = field(default_factory=LossWeights)
    temperature: float = 0.07
    beliefs: float = 0.1
    view_dropout: float = 0.3
    epochs: int = 15
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    seed: int = 0


class ProjectorHead(nn.Module):
    """Features [n, width] → unit vectors [n, dimensions]."""

    def __init__(self, width: int, settings: HeadSettings) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.skip = nn.Linear(width, settings.projection, bias=False)
        self.mlp = nn.Sequential(
            nn.Linear(width, settings.hidden),
            nn.GELU(),
            nn.Dropout(settings.dropout),
            nn.Linear(settings.hidden, settings.projection),
        )

    def forward(self, features: Tensor) -> Tensor:
        normed = self.norm(features)
        return F.normalize(self.skip(normed) + self.mlp(normed), dim=-1)


class Heads(nn.Module):
    """Both projectors, the classifiers that train them, and the learnt inverse temperature."""

    def __init__(self, widths: Mapping[Modality, int], groups: Sequence[str], settings: HeadSettings) -> None:
        super().__init__()
        self.widths = dict(widths)
        self.layout = VectorLayout(projection=settings.projection, share=settings.beliefs, groups=tuple(groups))
        self.settings = settings
        self.projectors = nn.ModuleDict({m.value: ProjectorHead(widths[m], settings) for m in Modality})
        self.classifiers = nn.ModuleDict({m.value: nn.Linear(settings.projection, 1 + len(groups)) for m in Modality})
        self.log_scale = nn.Parameter(torch.tensor(1.0 / settings.temperature).log())

    def project(self, features: Tensor, modality: Modality) -> Tensor:
        """The projected part alone, unit vectors [n, projection]."""
        return cast(Tensor, self.projectors[modality.value](features))

    def logits(self, projected: Tensor, modality: Modality) -> Tensor:
        """Logits [n, 1 + groups] of normal and each finding, from projected unit vectors."""
        # Unit vectors are short for a linear layer.
        return cast(Tensor, self.classifiers[modality.value](projected)) * 8.0

    def join(self, projected: Tensor, beliefs: Tensor, modality: Modality) -> Tensor:
        """Unit vectors [n, d] of unit projections and beliefs [n, 1 + groups], laid out as core.layout says.

        Across modalities the beliefs' part of a dot product is share · (p · q) / 2.
        """
        norms = beliefs.norm(dim=-1, keepdim=True)
        part = beliefs * (BELIEF_NORM / norms.clamp(min=BELIEF_NORM)) / BELIEF_NORM
        length = (norms / BELIEF_NORM).clamp(max=1.0)
        rest = ((1.0 - length) * (1.0 + length)).sqrt()  # 0 where full: a root would blow up what rounding left
        nothing = torch.zeros_like(rest)
        ends = [rest if m is modality else nothing for m in Modality]
        share = self.settings.beliefs
        return torch.cat([(1.0 - share) ** 0.5 * projected, share**0.5 * torch.cat([part, *ends], dim=-1)], dim=-1)

    def forward(self, features: Tensor, beliefs: Tensor, modality: Modality) -> Tensor:
        return self.join(self.project(features, modality), beliefs, modality)

    def classifier_arrays(self) -> dict[str, NDArray[np.float32]]:
        """`<modality>_weight` [d] and `<modality>_bias` []: the logit of an abnormal study, from a vector.

        The belief in "normal" stands in the vector itself: the logit is linear in it, right at 0, ½ and 1.
        """
        steep = 5.0  # nearest to the belief itself between 0.1 and 0.9
        weight = np.zeros(self.layout.dimensions, dtype=np.float32)
        weight[self.layout.projection] = -steep * self.layout.belief_scale
        return {
            f"{m}_{name}": value
            for m in Modality
            for name, value in (("weight", weight), ("bias", np.array(steep / 2, dtype=np.float32)))
        }

    @property
    def scale(self) -> Tensor:
        return self.log_scale.exp().clamp(max=100.0)

    @torch.inference_mode()
    def vectors(self, inputs: Mapping[Modality, Inputs]) -> dict[Modality, Matrix]:
        """Unit vectors of every item."""
        self.eval()
        return {
            m: self(torch.from_numpy(found.features), torch.from_numpy(found.beliefs), m).numpy()
            for m, found in inputs.items()
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Epoch:
    """One line of the training log."""

    epoch: int
    loss: float
    score: float
    best: bool


def train_heads(
    features: FeatureSet,
    inputs: Mapping[Modality, Inputs],
    settings: HeadSettings,
    *,
    train: NDArray[np.int32],
    validation: NDArray[np.int32] | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> Heads:
    """Trains heads on the studies `train`, for as many epochs as the settings say.

    validation: studies whose retrieval score goes into the log; it decides nothing.
    """
    torch.manual_seed(settings.seed)
    rng = np.random.default_rng(settings.seed)
    heads = Heads({m: inputs[m].features.shape[1] for m in Modality}, features.groups, settings)
    batches = Batches(features, train)
    steps = max(1, len(batches.pool) // settings.batch_size)
    optimizer = torch.optim.AdamW(heads.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=settings.epochs * steps + 1
    )
    tensors = {m: torch.from_numpy(inputs[m].features) for m in Modality}
    for epoch in range(1, settings.epochs + 1):
        heads.train()
        shuffled = rng.permutation(batches.pool)
        losses = []
        for step in range(steps):
            chosen = shuffled[step * settings.batch_size : (step + 1) * settings.batch_size]
            loss = _multi_task(heads, tensors, features, batches, chosen, rng)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
        if on_epoch:
            score = float("nan")
            if validation is not None:
                score = retrieval_score(heads.vectors(inputs), features, validation)["score"]
            last = epoch == settings.epochs
            on_epoch(Epoch(epoch=epoch, loss=float(np.mean(losses)), score=score, best=last))
    return heads.eval()


def study_vectors(
    vectors: Mapping[Modality, Matrix], features: FeatureSet, studies: NDArray[np.integer], modality: Modality
) -> tuple[NDArray[np.int32], Matrix]:
    """The studies that have an item of this modality, and one vector of each: all views fused, or the report."""
    owners = features.study[modality]
    if modality is Modality.IMAGE:
        held = np.intersect1d(studies, owners).astype(np.int32)
        return held, fused_by_study(vectors[modality], owners, held)
    rows = np.flatnonzero(np.isin(owners, studies))
    return owners[rows], vectors[modality][rows]


def retrieval_score(
    vectors: Mapping[Modality, Matrix], features: FeatureSet, studies: NDArray[np.int32]
) -> dict[str, float]:
    """Plain embedding retrieval among these studies, image→report and text→image.

    `score`, the mean of nDCG@10 over both directions and over normal and abnormal queries alike, is what a log shows:
    all queries alone would reward moving normal reports up.
    """
    found: dict[str, float] = {}
    for source, target in ((Modality.IMAGE, Modality.REPORT), (Modality.REPORT, Modality.IMAGE)):
        own, queries = study_vectors(vectors, features, studies, source)
        theirs, gallery = study_vectors(vectors, features, studies, target)
        order, _ = exact_neighbours(queries, gallery, len(gallery))
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


class Batches:
    """Studies with image and report, and the rows of their items."""

    def __init__(self, features: FeatureSet, studies: NDArray[np.int32]) -> None:
        self.first: dict[int, int] = {}
        self.others: dict[int, list[int]] = {}
        for row, (study, primary) in enumerate(zip(features.study[Modality.IMAGE], features.primary, strict=True)):
            if primary:
                self.first[int(study)] = row
            else:
                self.others.setdefault(int(study), []).append(row)
        self.report = {int(study): row for row, study in enumerate(features.study[Modality.REPORT])}
        self.pool = np.array([s for s in studies if s in self.first and s in self.report], dtype=np.int64)

    def views(
        self, studies: NDArray[np.int64], drop: float, rng: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Rows int64 [n, 2] of up to two images a study, and which of them count, bool [n, 2]."""
        rows = np.array([[self.first[s], rng.choice(self.others.get(s, [self.first[s]]))] for s in studies])
        kept = np.ones(rows.shape, dtype=np.bool_)
        kept[:, 1] = rows[:, 1] != rows[:, 0]
        single = kept[:, 1] & (rng.random(len(rows)) < drop)
        kept[np.flatnonzero(single), rng.integers(0, 2, int(single.sum()))] = False
        return rows, kept


def _multi_task(
    heads: Heads,
    tensors: Mapping[Modality, Tensor],
    features: FeatureSet,
    batches: Batches,
    studies: NDArray[np.int64],
    rng: np.random.Generator,
) -> Tensor:
    weights = heads.settings.losses
    rows, kept = batches.views(studies, heads.settings.view_dropout, rng)
    views = heads.project(tensors[Modality.IMAGE][rows.ravel()], Modality.IMAGE).reshape(*rows.shape, -1)
    texts = np.array([batches.report[s] for s in studies])
    vectors = {
        Modality.IMAGE: F.normalize((views * torch.from_numpy(kept).unsqueeze(-1)).sum(dim=1), dim=-1),
        Modality.REPORT: heads.project(tensors[Modality.REPORT][texts], Modality.REPORT),
    }
    same = torch.from_numpy(features.same_text[texts])
    loss = weights.clip * clip_loss(
        vectors[Modality.IMAGE], vectors[Modality.REPORT], same[:, None] == same, heads.scale
    )
    labels = features.labels[studies]
    overlap = torch.from_numpy(np.tile(jaccard(labels, labels), (2, 2)))
    stacked = torch.cat([vectors[m] for m in Modality])
    if weights.contrastive:
        equal = (overlap == 1.0).float()
        loss = loss + weights.contrastive * supervised_contrastive_loss(stacked, equal, heads.scale)
    if weights.jaccard:
        loss = loss + weights.jaccard * supervised_contrastive_loss(stacked, overlap, heads.scale)
    normal, truth = torch.from_numpy(features.normal[studies]), torch.from_numpy(labels)
    for m in Modality:
        logits = heads.logits(vectors[m], m)
        if weights.abnormal:
            loss = loss + weights.abnormal / 2 * abnormal_loss(-logits[:, 0], normal)
        if weights.findings:
            loss = loss + weights.findings / 2 * findings_loss(logits, truth)
    return loss
