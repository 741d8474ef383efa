"""From frozen features to what heads read: beside the features, what a labeller of each modality makes of the item.

The modules are fitted on the training studies alone, and exported with the heads.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from radrank.core.studies import Modality
from radrank.training.features import FeatureSet
from radrank.training.lexicon import Lexicon, TextLabeller, fit_text_labeller
from radrank.training.tower import ImageLabeller, TowerSettings, fit_image_labeller

_BATCH = 32
_WORDS = 20.0  # unit vectors of words are short beside features of unit variance


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """What heads read of every item of one modality: float32 features [n, width] and beliefs [n, 1 + groups] in 0…1."""

    features: NDArray[np.float32]
    beliefs: NDArray[np.float32]


class ImageInputs(nn.Module):
    """Frozen features [B, w] and maps [B, …] → features [B, w + 1 + groups + text] and beliefs [B, 1 + groups]."""

    shift: Tensor
    scale: Tensor

    def __init__(self, labeller: ImageLabeller, width: int) -> None:
        super().__init__()
        self.labeller = labeller
        self.width = width + labeller.findings.out_features + labeller.text.out_features
        self.register_buffer("shift", torch.zeros(self.width))
        self.register_buffer("scale", torch.ones(self.width))

    def forward(self, features: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
        logits, said = self.labeller(maps)
        return (torch.cat([features, logits, said], dim=1) - self.shift) * self.scale, logits.sigmoid()


class ReportInputs(nn.Module):
    """Frozen features [B, w] and token ids [B, T] → features [B, w + V] and beliefs [B, 1 + groups]."""

    shift: Tensor
    scale: Tensor

    def __init__(self, labeller: TextLabeller, width: int) -> None:
        super().__init__()
        self.labeller = labeller
        self.width = width + labeller.findings.in_features
        self.register_buffer("shift", torch.zeros(width))
        self.register_buffer("scale", torch.ones(()))

    def forward(self, features: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        words, logits = self.labeller(ids)
        return torch.cat([(features - self.shift) * self.scale, _WORDS * words], dim=1), logits.sigmoid()


class HeadInputs(nn.Module):
    """Both modalities' inputs: the part of an encoder between its frozen tower and its projector."""

    def __init__(self, image: ImageInputs, report: ReportInputs) -> None:
        super().__init__()
        self.image = image
        self.report = report

    @property
    def widths(self) -> dict[Modality, int]:
        return {Modality.IMAGE: self.image.width, Modality.REPORT: self.report.width}

    @torch.inference_mode()
    def of(self, features: FeatureSet) -> dict[Modality, Inputs]:
        """The inputs of every item of a feature set."""
        self.eval()
        images, reports = features.features[Modality.IMAGE], features.features[Modality.REPORT]
        seen = [self.image(_rows(images, part), _rows(features.maps, part)) for part in _parts(len(images))]
        ids = features.tokens.astype(np.int64)
        read = [self.report(_rows(reports, part), _rows(ids, part)) for part in _parts(len(reports))]
        return {Modality.IMAGE: _joined(seen), Modality.REPORT: _joined(read)}


def fit_inputs(
    features: FeatureSet,
    tail: nn.Module,
    settings: TowerSettings,
    *,
    train: NDArray[np.int32],
    on_epoch: Callable[[], None] = lambda: None,
) -> HeadInputs:
    """Fits both labellers on the studies `train`. tail: of the backbone that made the features."""
    owners = features.study[Modality.REPORT]
    reports = np.flatnonzero(np.isin(owners, train) & features.labels[owners].any(axis=1))
    text = fit_text_labeller(features.tokens[reports], features.labels[owners[reports]], pad_id=features.pad_id)
    own = features.study[Modality.IMAGE]
    rows = np.flatnonzero(np.isin(own, train))
    frozen = {m: features.features[m] for m in Modality}
    report_of = np.full(len(features.study_ids), -1, dtype=np.int64)
    report_of[owners] = np.arange(len(owners))
    place = report_of[own[rows]]
    said = np.where((place >= 0)[:, None], frozen[Modality.REPORT][place], np.float32(0.0))
    image = fit_image_labeller(
        tail, settings, maps=features.maps, rows=rows, labels=features.labels[own[rows]], texts=said, on_epoch=on_epoch
    )
    inputs = HeadInputs(
        ImageInputs(image, frozen[Modality.IMAGE].shape[1]), ReportInputs(text, frozen[Modality.REPORT].shape[1])
    )
    _scale(inputs, features, rows, reports)
    return inputs.eval()


def empty_inputs(
    tail: nn.Module, *, image_width: int, text_width: int, groups: int, words: int, settings: TowerSettings
) -> HeadInputs:
    """Inputs of the right shapes, to load weights into."""
    image = ImageLabeller(
        copy.deepcopy(tail), width=image_width, groups=groups, text_width=text_width, dropout=settings.dropout
    )
    lexicon = Lexicon(torch.zeros(words, dtype=torch.int64), torch.zeros(words))
    text = TextLabeller(lexicon, groups)
    return HeadInputs(ImageInputs(image, image_width), ReportInputs(text, text_width)).eval().requires_grad_(False)


@torch.inference_mode()
def _scale(inputs: HeadInputs, features: FeatureSet, images: NDArray[np.int64], reports: NDArray[np.int64]) -> None:
    """Frozen features to unit variance each; the labeller's outputs, and the text tower's, to that as a whole."""
    frozen, text = features.features[Modality.IMAGE], features.features[Modality.REPORT]
    raw = np.concatenate([inputs.image(_rows(frozen, p), _rows(features.maps, p))[0].numpy() for p in _within(images)])
    labeller = inputs.image.labeller
    width, groups = frozen.shape[1], labeller.findings.out_features
    spread = raw.std(axis=0)
    spread[width : width + groups] = 2.0
    spread[width + groups :] = raw[:, width + groups :].std()
    centre = raw.mean(axis=0)
    centre[width:] = 0.0
    inputs.image.shift.copy_(torch.from_numpy(centre))
    inputs.image.scale.copy_(torch.from_numpy((1.0 / np.maximum(spread, 1e-3)).astype(np.float32)))
    inputs.report.shift.copy_(torch.from_numpy(text[reports].mean(axis=0)))
    inputs.report.scale.copy_(torch.tensor(1.0 / max(float(text[reports].std()), 1e-6)))


def _rows(array: NDArray[np.generic], rows: NDArray[np.int64]) -> Tensor:
    taken = np.asarray(array[rows])
    return torch.from_numpy(taken.astype(np.float32) if taken.dtype == np.float16 else taken)


def _parts(count: int) -> list[NDArray[np.int64]]:
    return _within(np.arange(count))


def _within(rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    return [rows[i : i + _BATCH] for i in range(0, len(rows), _BATCH)]


def _joined(parts: list[tuple[Tensor, Tensor]]) -> Inputs:
    features, beliefs = (torch.cat([part[i] for part in parts]).numpy() for i in (0, 1))
    return Inputs(features=features, beliefs=beliefs)
