"""The search as a model: an image, a text, an embedding or a study in, ids and scores out."""

from __future__ import annotations

from collections.abc import Mapping

from radrank.core.errors import InvalidQuery
from radrank.engines.kserve.tensors import BYTES, Shape, Tensor

CONTENTS = ("text", "image", "embedding", "study")

OUTPUTS = (
    Tensor(name="ids", datatype=BYTES, shape=(-1,)),
    Tensor(name="scores", datatype="FP32", shape=(-1,)),
    Tensor(name="cosines", datatype="FP32", shape=(-1,)),
)


def inputs(dimensions: int) -> tuple[Tensor, ...]:
    """All of them optional. dimensions: of the bundle's vectors."""
    return (
        _input("text", BYTES),
        _input("image", BYTES),
        _input("embedding", "FP32", dimensions),
        _input("study", BYTES),
        _input("modality", BYTES),
        _input("target", BYTES),
        _input("k", "INT32"),
        _input("candidates", "INT32"),
        _input("reranker", BYTES),
        _input("exclude_studies", BYTES, -1),
    )


def parameters(*, bundle_sha256: str, rerankers: Mapping[str, object], default_reranker: str) -> Mapping[str, str]:
    """What there is to know of a search over a bundle, in words. rerankers: by name."""
    names = ", ".join(sorted(rerankers))
    return {"bundle_sha256": bundle_sha256, "rerankers": names, "default_reranker": default_reranker}


def check(shapes: Mapping[str, Shape]) -> None:
    """Raises InvalidQuery unless exactly one of the contents is there, and a modality only where it says something."""
    given = [name for name in CONTENTS if name in shapes]
    if len(given) != 1:
        found = " and ".join(given) or "none of them"
        raise InvalidQuery("inputs", f"must hold one of {', '.join(CONTENTS)}, and hold {found}")
    if "modality" in shapes and given[0] not in ("embedding", "study"):
        raise InvalidQuery("modality", "is that of an embedding or a study")


def _input(name: str, datatype: str, size: int = 1) -> Tensor:
    return Tensor(name=name, datatype=datatype, shape=(size,), optional=True)
