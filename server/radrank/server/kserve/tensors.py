"""Contents of the KServe v2 protocol's tensors: raw and typed, to numpy and back.

Raw contents are row-major and little-endian; a BYTES element has its length before it, as four bytes.
Every fault is InvalidQuery with the tensor's name; its contents are not repeated.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radrank.core.errors import InvalidQuery
from radrank.engines.kserve.tensors import BYTES, DTYPES, Shape

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
_SENT = {"int_contents": np.dtype(np.int32), "uint_contents": np.dtype(np.uint32)}
"""Fields that carry narrower integers too: which of them fit is asked here, since numpy 1 wraps the others."""
_LENGTH = struct.Struct("<I")


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
    sent = np.fromiter(values, dtype=_SENT.get(field, DTYPES[datatype]), count=len(values))
    found = sent.astype(DTYPES[datatype], copy=False)
    if field in _SENT and (found != sent).any():
        raise InvalidQuery(name, f"holds numbers that are not {datatype}")
    return elements(name, found, shape)


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
