"""The image tower's last stages, tuned on the training images to tell findings and what their reports say.

Only the tail is tuned, on maps that the frozen stem made once. It memorises what it trained on: re-rankers train on
folds (episodes.py), each with a tower of its own that has not seen the fold.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from radrank.core.vectors import unit

_LINEAR_EPOCHS = 20  # of the outputs alone, over features that stay as they are


@dataclass(frozen=True, kw_only=True, slots=True)
class TowerSettings:
    """epochs: 0 leaves the tail as it is and fits the two linear outputs alone; text: weight of the report's term;
    shift: cells by which maps are rolled, at most."""

    epochs: int = 6
    batch_size: int = 32
    learning_rate: float = 3e-4
    output_learning_rate: float = 3e-3
    weight_decay: float = 0.05
    dropout: float = 0.3
    text: float = 1.0
    shift: int = 1
    seed: int = 0

    @property
    def passes(self) -> int:
        """Over the training images: the epochs, or those of the linear outputs alone."""
        return self.epochs or _LINEAR_EPOCHS


class ImageLabeller(nn.Module):
    """Maps [B, …] → logits [B, 1 + groups] of normal and of each finding group, and the report's features [B, text].

    tail: a copy of a backbone's; width: of its features
    """

    def __init__(self, tail: nn.Module, *, width: int, groups: int, text_width: int, dropout: float) -> None:
        super().__init__()
        self.tail = tail
        self.dropout = nn.Dropout(dropout)
        self.findings = nn.Linear(width, 1 + groups)
        self.text = nn.Linear(width, text_width)

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        return self.outputs(self.tail(maps))

    def outputs(self, features: Tensor) -> tuple[Tensor, Tensor]:
        kept = self.dropout(features)
        return self.findings(kept), self.text(kept)


def fit_image_labeller(
    tail: nn.Module,
    settings: TowerSettings,
    *,
    maps: NDArray[np.float16],
    rows: NDArray[np.int64],
    labels: NDArray[np.bool_],
    texts: NDArray[np.float32],
    on_epoch: Callable[[], None] = lambda: None,
) -> ImageLabeller:
    """Tunes a copy of the tail on the images `rows` of `maps` [images, …].

    labels: bool [rows, 1 + groups]; texts: float32 [rows, text], features of each image's report, zeros where it has
    none. Images of unlabelled studies are left out. on_epoch: told after every epoch.
    """
    torch.manual_seed(settings.seed)
    rng = np.random.default_rng(settings.seed)
    known = labels.any(axis=1)
    rows, labels, texts = rows[known], labels[known], texts[known]
    tuned = settings.epochs > 0
    network = copy.deepcopy(tail).requires_grad_(tuned)
    with torch.no_grad():
        width = network(_batch(maps, rows[:1])).shape[1]
    labeller = ImageLabeller(
        network, width=width, groups=labels.shape[1] - 1, text_width=texts.shape[1], dropout=settings.dropout
    )
    frequency = torch.from_numpy(labels.mean(axis=0).astype(np.float32)).clamp(0.01, 0.99)
    with torch.no_grad():
        labeller.findings.weight.zero_()
        labeller.findings.bias.copy_(torch.logit(frequency))
    truth, wanted = torch.from_numpy(labels.astype(np.float32)), torch.from_numpy(_centred(texts))
    told = torch.from_numpy(texts.any(axis=1))
    epochs = settings.passes
    outputs = [*labeller.findings.parameters(), *labeller.text.parameters()]
    rates = [settings.output_learning_rate, settings.learning_rate]
    groups = [{"params": part, "lr": rate} for part, rate in zip((outputs, network.parameters()), rates, strict=True)]
    optimizer = torch.optim.AdamW(groups, weight_decay=settings.weight_decay)
    batches = max(1, len(rows) // settings.batch_size)
    total = max(6, epochs * batches + 1)  # a fifth of five steps less one is none, which OneCycleLR divides by
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=total, pct_start=0.2)
    features = None if tuned else _features(network, maps, rows)
    scale = labels.shape[1] / 4  # the mean over many rare findings would hardly pull
    for _ in range(epochs):
        labeller.train()
        order = rng.permutation(len(rows))
        for step in range(batches):
            # In the order of the file, which is read from disk.
            chosen = np.sort(order[step * settings.batch_size : (step + 1) * settings.batch_size])
            if features is None:
                logits, said = labeller(_shifted(_batch(maps, rows[chosen]), settings.shift, rng))
            else:
                logits, said = labeller.outputs(features[chosen])
            loss = scale * F.binary_cross_entropy_with_logits(logits, truth[chosen])
            if settings.text and bool(told[chosen].any()):
                alike = F.cosine_similarity(said[told[chosen]], wanted[chosen][told[chosen]])
                loss = loss + settings.text * (1.0 - alike).mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(labeller.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        on_epoch()
    return labeller.eval().requires_grad_(False)


def _features(tail: nn.Module, maps: NDArray[np.float16], rows: NDArray[np.int64]) -> Tensor:
    with torch.inference_mode():
        parts = [tail(_batch(maps, rows[i : i + 32])) for i in range(0, len(rows), 32)]
    return torch.cat(parts).clone()  # out of inference mode, so that gradients may flow past it


def _batch(maps: NDArray[np.float16], rows: NDArray[np.int64]) -> Tensor:
    return torch.from_numpy(np.asarray(maps[rows], dtype=np.float32))


def _shifted(maps: Tensor, most: int, rng: np.random.Generator) -> Tensor:
    """Images [B, C, h, w] rolled by a few cells, as a patient who stands a little to the side; tokens stay."""
    if maps.dim() != 4 or not most:
        return maps
    across, down = rng.integers(-most, most + 1, 2)
    return maps.roll((int(across), int(down)), dims=(2, 3))


def _centred(texts: NDArray[np.float32]) -> NDArray[np.float32]:
    """Directions about their mean: what reports share says nothing of the image."""
    told = texts.any(axis=1)
    centred = unit(texts)
    if told.any():
        centred[told] -= centred[told].mean(axis=0)
    return centred
