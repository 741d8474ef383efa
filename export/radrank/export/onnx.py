"""torch modules to ONNX files, each checked against torch before anything is written around it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import Dim

from radrank.core.errors import Mismatch
from radrank.core.graph import CANDIDATE, MESSAGES, TOLD_RELATIONS, GraphBatch
from radrank.core.studies import Modality
from radrank.engines.engine import Model
from radrank.engines.onnxruntime import CpuEngine
from radrank.training.backbones import Backbone
from radrank.training.heads import Heads
from radrank.training.inputs import HeadInputs
from radrank.training.reranker import GraphReranker

TOLERANCE = 1e-4
_MOST_BATCH = 1024


class ImageEncoder(nn.Module):
    """Frozen tower, tuned tail and projector in one: pixels uint8 [B, S, S] → unit vectors [B, d]."""

    def __init__(self, backbone: Backbone, inputs: HeadInputs, heads: Heads) -> None:
        super().__init__()
        self.tower, self.inputs, self.heads = backbone.image_tower, inputs.image, heads

    def forward(self, pixels: Tensor) -> Tensor:
        maps = self.tower.stem(pixels)
        features, beliefs = self.inputs(self.tower.tail(maps), maps)
        vectors: Tensor = self.heads(features, beliefs, Modality.IMAGE)
        return vectors


class TextEncoder(nn.Module):
    """ids int64 [B, T], padded → unit vectors [B, d]."""

    def __init__(self, backbone: Backbone, inputs: HeadInputs, heads: Heads) -> None:
        super().__init__()
        self.tower, self.inputs, self.heads = backbone.text_tower, inputs.report, heads

    def forward(self, ids: Tensor) -> Tensor:
        features, beliefs = self.inputs(self.tower(ids), ids)
        vectors: Tensor = self.heads(features, beliefs, Modality.REPORT)
        return vectors


class _Positional(nn.Module):
    """A re-ranker, or what makes its messages, that takes its arrays one by one, as ONNX inputs come."""

    def __init__(self, model: GraphReranker, names: Sequence[str], *, messages: bool = False) -> None:
        super().__init__()
        self.model = model
        self.names = names
        self.messages = messages

    def forward(self, *arrays: Tensor) -> Tensor:
        given = dict(zip(self.names, arrays, strict=True))
        answer: Tensor = self.model.messages(given) if self.messages else self.model(given)
        return answer


def export_image_encoder(model: ImageEncoder, size: int, path: Path) -> None:
    batch = Dim("batch", min=1, max=_MOST_BATCH)
    _export(
        model,
        (torch.zeros(2, size, size, dtype=torch.uint8),),
        path,
        inputs=["pixels"],
        output="vectors",
        shapes={"pixels": {0: batch}},
    )
    rng = np.random.default_rng(0)
    for count in (1, 3, 5):
        _check(model, path, {"pixels": rng.integers(0, 256, (count, size, size), dtype=np.uint8)})


def export_text_encoder(model: TextEncoder, backbone: Backbone, path: Path) -> None:
    batch, tokens = Dim("batch", min=1, max=_MOST_BATCH), Dim("tokens", min=2, max=backbone.max_tokens)
    _export(
        model,
        (torch.ones(2, 16, dtype=torch.int64),),
        path,
        inputs=["ids"],
        output="vectors",
        shapes={"ids": {0: batch, 1: tokens}},
    )
    rng = np.random.default_rng(0)
    for count, length in zip((1, 3, 5), (*backbone.text_buckets[:2], backbone.max_tokens), strict=True):
        ids = rng.integers(1, 1000, (count, length), dtype=np.int64)
        ids[0, length // 2 :] = backbone.pad_id
        _check(model, path, {"ids": ids})


def export_reranker(model: GraphReranker, examples: Sequence[GraphBatch], path: Path, messages: Path) -> int:
    """examples: several of different sizes; the first shapes the export, all check it.

    messages: where the file goes that makes them, for a re-ranker that reads them. Returns their width, 0 without them.
    """
    if not model.shape.variant.apart:
        _export_graph(_Positional(model, model.input_names), examples, path, "scores")
        return 0
    heard = [batch.hearing(TOLD_RELATIONS) for batch in examples]
    maker = _Positional(model, model.message_names, messages=True)
    _export_graph(maker, heard, messages, MESSAGES)
    made = [_answer(maker, batch.feed(maker.names)) for batch in heard]
    told = [batch.told(each) for batch, each in zip(examples, made, strict=True)]
    _export_graph(_Positional(model, model.input_names), told, path, "scores")
    return int(made[0].shape[2])


def _export_graph(model: _Positional, examples: Sequence[GraphBatch], path: Path, output: str) -> None:
    dims = {
        "batch": Dim("batch", min=1, max=_MOST_BATCH),
        "items": Dim("items", min=2, max=1 << 20),
        "candidates": Dim("candidates", min=2, max=4096),
    }
    feeds = [batch.feed(model.names) for batch in examples]
    shapes = tuple(_dynamic(name, dims) for name in model.names)
    first = tuple(map(torch.from_numpy, feeds[0].values()))
    _export(model, first, path, inputs=list(model.names), output=output, shapes={"arrays": shapes})
    for feed in feeds:
        _check(model, path, feed)


def _dynamic(name: str, dims: Mapping[str, Dim]) -> dict[int, Dim]:
    """Which axes of a GraphBatch array vary."""
    if name in list(Modality):
        return {0: dims["items"]}
    axes = {0: dims["batch"]}
    if name in ("base", "mask", MESSAGES) or name.split("_")[0] == CANDIDATE:
        axes[1] = dims["candidates"]
    if name.endswith(".dense"):
        axes[2] = dims["candidates"]
    return axes


def _export(
    model: nn.Module,
    arguments: tuple[Tensor, ...],
    path: Path,
    *,
    inputs: list[str],
    output: str,
    shapes: dict[str, Any],
) -> None:
    model.eval()
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.onnx._internal.exporter._registration")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)  # torchvision's operators are missing, and not wanted
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
            # Axes of several inputs share a size, so they share a name.
            warnings.filterwarnings("ignore", r"# The axis name: .* will not be used", UserWarning)
            torch.onnx.export(
                model,
                arguments,
                path,
                dynamo=True,
                input_names=inputs,
                output_names=[output],
                dynamic_shapes=shapes,
                external_data=False,
                verbose=False,
            )
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _check(model: nn.Module, path: Path, feed: Mapping[str, NDArray[np.generic]]) -> None:
    """Raises Mismatch where ONNX Runtime and torch differ by more than TOLERANCE."""
    expected = _answer(model, feed)
    engine = CpuEngine(Model(name=path.stem, path=path, sha256="", precision="fp32"), threads=1)
    found = next(iter(engine.run(feed).values()))
    engine.close()
    worst = float(np.abs(found - expected).max()) if found.shape == expected.shape else float("inf")
    if not worst <= TOLERANCE:  # NaN, on either side, is no answer
        raise Mismatch(f"{path.name} against torch", f"differences up to {TOLERANCE}", f"{worst:.3g}")


def _answer(model: nn.Module, feed: Mapping[str, NDArray[np.generic]]) -> NDArray[np.float32]:
    """Of the torch module."""
    with torch.inference_mode():
        answer: NDArray[np.float32] = model(*(torch.from_numpy(array) for array in feed.values())).numpy()
    return answer
