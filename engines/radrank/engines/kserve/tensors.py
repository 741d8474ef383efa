"""Tensors as the KServe v2 protocol, and Triton's configuration, declare them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from radrank.core.errors import InvalidQuery
from radrank.engines.engine import TensorSpec

BYTES = "BYTES"
DTYPES: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    BYTES: np.dtype(object),
}
_DATATYPES = {dtype: name for name, dtype in DTYPES.items()}

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tensor:
    """An input or output as a model declares it. shape: −1 on axes that vary."""

    name: str
    datatype: str
    shape: Shape
    optional: bool = False

    def __str__(self) -> str:
        return f"{self.name} {self.datatype} {list(self.shape)}"

    def check(self, datatype: str, shape: Sequence[int]) -> Shape:
        """The shape, if a tensor of this datatype and shape may be sent."""
        if datatype != self.datatype:
            sent = datatype if datatype in DTYPES else "of an unknown datatype"
            raise InvalidQuery(self.name, f"is {sent}, and must be {self.datatype}")
        fits = len(shape) == len(self.shape) and all(
            size >= 1 and wanted in (size, -1) for size, wanted in zip(shape, self.shape, strict=True)
        )
        if not fits:
            raise InvalidQuery(self.name, f"has the shape {_told(shape)}, and must have {list(self.shape)}")
        return tuple(shape)


def declared(spec: TensorSpec) -> Tensor:
    """An engine's input or output as a client is told of it."""
    return Tensor(name=spec.name, datatype=_DATATYPES[spec.dtype.newbyteorder("<")], shape=spec.shape)


def _told(shape: Sequence[int]) -> str:
    return str(list(shape)) if len(shape) <= 8 else f"of {len(shape)} axes"
