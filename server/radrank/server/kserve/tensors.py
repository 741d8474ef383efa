"""Tensors of the KServe v2 protocol: what is declared of them, and their contents to numpy and back.

Raw contents are row-major and little-endian; a BYTES element has its length before it, as four bytes.
Every fault is InvalidQuery with the tensor's name; its contents are not repeated.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
_TYPED: Mapping[str, str] = {  # FP16 has no typed contents
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    BYTES: "bytes_contents",
}
_LENGTH = struct.Struct("<I")

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


def elements(name: str, array: NDArray[Any], shape: Shape) -> NDArray[Any]:
    """Elements [n] in their shape."""
    if array.size != math.prod(shape):
        raise InvalidQuery(name, f"holds {array.size:,} elements, and its shape {list(shape)} {math.prod(shape):,}")
    return array.reshape(shape)


def check_size(name: str, datatype: str, shape: Shape, size: int) -> None:
    """Raw contents have as many bytes as their shape says; BYTES tell theirs themselves."""
    expected = math.prod(shape) * DTYPES[datatype].itemsize
    if datatype != BYTES and size != expected:
        raise InvalidQuery(name, f"holds {size:,} bytes, and {datatype} {list(shape)} are {expected:,}")


def from_raw(name: str, datatype: str, shape: Shape, raw: bytes | bytearray) -> NDArray[Any]:
    """Raw contents as an array of this shape; of bytes objects for BYTES."""
    if datatype == BYTES:
        return elements(name, _objects(list(_strings(name, raw))), shape)
    check_size(name, datatype, shape, len(raw))
    return np.frombuffer(raw, dtype=DTYPES[datatype]).reshape(shape)


def from_typed(name: str, datatype: str, shape: Shape, contents: Any) -> NDArray[Any]:
    """The typed contents (InferTensorContents) of a datatype as an array of this shape."""
    if datatype not in _TYPED:
        raise InvalidQuery(name, f"is {datatype}, which has no typed contents; send raw_input_contents")
    field = _TYPED[datatype]
    if any(filled.name != field for filled, _ in contents.ListFields()):
        raise InvalidQuery(name, f"is {datatype}, whose contents go into {field}")
    values = getattr(contents, field)
    if datatype == BYTES:
        return elements(name, _objects(list(values)), shape)
    try:
        return elements(name, np.fromiter(values, dtype=DTYPES[datatype], count=len(values)), shape)
    except OverflowError:
        raise InvalidQuery(name, f"holds numbers that are not {datatype}") from None


def to_raw(array: NDArray[Any]) -> bytes:
    """An array as raw contents."""
    if array.dtype == object:
        return b"".join(part for value in array.ravel() for part in (_LENGTH.pack(len(value)), value))
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes()


def strings(values: Sequence[bytes]) -> NDArray[Any]:
    """A BYTES tensor [n]."""
    return _objects(list(values))


def _strings(name: str, raw: bytes | bytearray) -> Iterator[bytes]:
    start = 0
    while start < len(raw):
        if start + _LENGTH.size > len(raw):
            raise InvalidQuery(name, "ends within the length of an element")
        (length,) = _LENGTH.unpack_from(raw, start)
        start += _LENGTH.size
        if start + length > len(raw):
            raise InvalidQuery(name, "ends within an element: each has its length before it, as 4 bytes")
        yield bytes(raw[start : start + length])
        start += length


def _objects(values: list[bytes]) -> NDArray[Any]:
    array = np.empty(len(values), dtype=object)
    array[:] = values  # not np.array(values): that would make what has equal lengths one array of letters
    return array


def _told(shape: Sequence[int]) -> str:
    return str(list(shape)) if len(shape) <= 8 else f"of {len(shape)} axes"
