"""Frozen image and text towers that the projector heads stand on.

backbone = load_backbone("compact")
features = embed_images(backbone, pixels)      # float32 [n, backbone.image_width]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from radrank.core.errors import InvalidQuery, MissingExtra
from radrank.training.backbones._base import Backbone, Preprocessing, StagedTower
from radrank.training.backbones._embed import embed_images, embed_texts

__all__ = ["BACKBONES", "Backbone", "Preprocessing", "StagedTower", "embed_images", "embed_texts", "load_backbone"]


def _compact(weights: str | Path | None) -> Backbone:
    from radrank.training.backbones import compact

    return compact.load(weights)


def _biomedclip(weights: str | Path | None) -> Backbone:
    from radrank.training.backbones import biomedclip

    return biomedclip.load(weights)


BACKBONES: Mapping[str, Callable[[str | Path | None], Backbone]] = {"biomedclip": _biomedclip, "compact": _compact}


def load_backbone(name: str, *, weights: str | Path | None = None) -> Backbone:
    """The backbone called `name`, frozen and in evaluation mode, on the CPU.

    weights: a directory or a Hugging Face hub id, for the backbones that take one; None is the backbone's own default.

    Raises InvalidQuery for an unknown name or for weights the backbone can't take, MissingExtra when a package of the
    `train` extra is absent, NotFound when there are no weights to load, Mismatch when they are not this backbone's.
    """
    try:
        factory = BACKBONES[name]
    except KeyError:
        raise InvalidQuery("backbone", f"no backbone is called {name!r}; there are {', '.join(BACKBONES)}") from None
    try:
        return factory(weights)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "radrank"):
            raise
        raise MissingExtra(package, "train") from error
