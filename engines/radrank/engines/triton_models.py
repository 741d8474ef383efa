"""What a Triton says of a model, and whether that is the bundle's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

from radrank.core.errors import Mismatch
from radrank.engines.engine import Model, TensorSpec
from radrank.engines.kserve.tensors import BYTES, DTYPES
from radrank.engines.triton_link import Link, Refused, protocol

NONE = "none"
"""Stands for a parameter that a configuration lacks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """A version of a model on Triton.

    sha256: of the ONNX file that it was made from; precision: both are parameters of its configuration
    most: rows of one request, 0 where no axis counts requests
    """

    version: str
    sha256: str
    precision: str
    most: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def described(link: Link, model: Model, version: str = "") -> Served:
    """The model in this version, "" for the highest. Raises Mismatch where there is none, and what calls raise."""
    messages, _ = protocol()
    try:
        told = link.call("ModelMetadata", messages.ModelMetadataRequest(name=model.name, version=version))
        version = version or max(told.versions, key=int, default="")
        config = link.call("ModelConfig", messages.ModelConfigRequest(name=model.name, version=version)).config
    except Refused as refused:
        raise mismatch(link, model, f"version {version}" if version else "to be there", str(refused)) from None
    parameters = {name: str(value.string_value) for name, value in config.parameters.items()}
    return Served(
        version=version,
        sha256=parameters.get("sha256", NONE),
        precision=parameters.get("precision", NONE),
        most=config.max_batch_size,
        inputs=_specs(link, model, told.inputs),
        outputs=_specs(link, model, told.outputs),
    )


def check(link: Link, model: Model, *, expected: Served, found: Served) -> None:
    """Raises Mismatch, with what differs first and the command that cures it."""
    for name in (field.name for field in fields(Served)):
        wanted, there = getattr(expected, name), getattr(found, name)
        if wanted != there:
            raise mismatch(link, model, f"{name} {_told(wanted)}", _told(there))


def mismatch(link: Link, model: Model, expected: str, found: str) -> Mismatch:
    """Between the bundle's model and Triton's."""
    what = f"{model.name} on the Triton at {link.address}; write its repository anew and restart it: {export(model)}"
    return Mismatch(what, expected, found)


def export(model: Model) -> str:
    """The command that writes a repository with this model."""
    return f"radrank export triton --bundle {model.path.parent} --snapshot SNAPSHOT --to REPOSITORY"


def _specs(link: Link, model: Model, tensors: Iterable[Any]) -> tuple[TensorSpec, ...]:
    found = []
    for tensor in tensors:
        dtype = DTYPES.get(tensor.datatype)
        if dtype is None or tensor.datatype == BYTES:
            raise mismatch(link, model, "tensors of numbers", f"{tensor.name} of {tensor.datatype}")
        found.append(TensorSpec(name=tensor.name, dtype=dtype, shape=tuple(tensor.shape)))
    return tuple(found)


def _told(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(f"{spec.name} {spec.dtype} {list(spec.shape)}" for spec in value)
    return str(value)
