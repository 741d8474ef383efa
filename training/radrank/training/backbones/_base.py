"""What every backbone is: two frozen towers, a tokenizer, and where the weights came from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

Tower = TypeVar("Tower", bound=nn.Module)
BUCKETS = (16, 32, 64, 128, 256)


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How pixels enter an image tower.

    image_size: side of the square gray image, in pixels
    mean, std: per channel, of pixels scaled to [0, 1]; applied inside the tower
    """

    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """Two frozen towers, whose spaces the projector heads align.

    provenance: where the weights came from, with the sha256 of every weight file
    image_tower: uint8 [B, S, S], gray → float32 [B, image_width], in two stages
    text_tower: int64 [B, T] token ids, padded with pad_id → float32 [B, text_width]
    tokenizer_json: a serialised `tokenizers.Tokenizer` that neither pads nor truncates
    max_tokens: longest text, special tokens included
    text_buckets: lengths to pad a batch to, ascending; the last is max_tokens
    """

    name: str
    provenance: str
    image_tower: StagedTower
    text_tower: nn.Module
    image_width: int
    text_width: int
    preprocessing: Preprocessing
    tokenizer_json: str = field(repr=False)
    pad_id: int
    max_tokens: int
    text_buckets: tuple[int, ...]

    @cached_property
    def map_shape(self) -> tuple[int, ...]:
        """Shape of one image's maps, as the stem makes them."""
        side, device = self.preprocessing.image_size, next(self.image_tower.parameters()).device
        with torch.inference_mode():
            maps: Tensor = self.image_tower.stem(torch.zeros(1, side, side, dtype=torch.uint8, device=device))
        return tuple(maps.shape[1:])


class StagedTower(nn.Module):
    """An image tower in two stages: `stem` (pixels → maps) stays as it is; of `tail` (maps → features), copies are
    tuned. The maps are what a tuning reads, so that the stem runs once an image and not once an epoch."""

    def __init__(self, stem: nn.Module, tail: nn.Module) -> None:
        super().__init__()
        self.stem = stem
        self.tail = tail

    def forward(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.tail(self.stem(pixels))
        return features


class GrayToRgb(nn.Module):
    """uint8 gray pixels [B, S, S] → float32 [B, 3, S, S]: (x / 255 - mean) / std in each channel, channels last."""

    scale: Tensor
    shift: Tensor

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        mean = torch.tensor(preprocessing.mean, dtype=torch.float64).view(1, 3, 1, 1)
        std = torch.tensor(preprocessing.std, dtype=torch.float64).view(1, 3, 1, 1)
        self.register_buffer("scale", (1.0 / (255.0 * std)).float(), persistent=False)
        self.register_buffer("shift", (-mean / std).float(), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        rgb = pixels.unsqueeze(1).to(torch.float32) * self.scale + self.shift
        # oneDNN's convolutions are three times faster on a CPU in this layout; ONNX export drops the call.
        return rgb.contiguous(memory_format=torch.channels_last)


def additive_mask(present: Tensor) -> Tensor:
    """bool [B, T], True where there is a token → float32 [B, 1, 1, T] to add to attention scores.

    transformers makes one of a [B, T] mask too, but that exports with GatherND, Range and IsNaN, which no inference
    engine can fuse into attention; a four-axis mask it takes as it is.
    """
    return (~present)[:, None, None, :].to(torch.float32) * torch.finfo(torch.float32).min


def freeze(tower: Tower) -> Tower:
    """The tower itself: evaluation mode, no gradients, convolution weights in channels_last."""
    tower.eval().requires_grad_(False)
    tower.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks this overload
    return tower


def buckets_up_to(max_tokens: int) -> tuple[int, ...]:
    """BUCKETS cut to max_tokens, which is always the last."""
    return (*(bucket for bucket in BUCKETS if bucket < max_tokens), max_tokens)


def plain_tokenizer(tokenizer: Tokenizer) -> str:
    """The tokenizer serialised without padding or truncation: those are the caller's to choose."""
    tokenizer.no_padding()
    tokenizer.no_truncation()
    serialised: str = tokenizer.to_str()
    return serialised


def provenance_of(source: str, files: Iterable[Path]) -> str:
    """`source` and, for each weight file, its name and sha256."""
    sums = []
    for path in files:
        with path.open("rb") as stream:
            sums.append(f"{path.name} sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}")
    return f"{source} ({', '.join(sums)})"
