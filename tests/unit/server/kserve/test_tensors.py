from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tritonclient.grpc import service_pb2
from tritonclient.utils import serialize_byte_tensor

from radrank.core.errors import InvalidQuery
from radrank.engines.kserve.tensors import BYTES, DTYPES, Tensor
from radrank.server.kserve.tensors import from_raw, from_typed, strings, to_raw

NUMBERS = sorted(set(DTYPES) - {BYTES})
IDS = Tensor(name="ids", datatype="INT64", shape=(-1, 4))


@given(st.sampled_from(NUMBERS).flatmap(lambda name: st.tuples(st.just(name), _arrays_of(name))))
def test_numbers_survive_raw_contents(sent):
    datatype, array = sent
    found = from_raw("x", datatype, array.shape, to_raw(array))
    assert found.dtype == array.dtype
    assert found.tobytes() == array.tobytes()


@given(st.lists(st.binary(max_size=40), min_size=1))
def test_bytes_survive_raw_contents_as_tritonclient_writes_them(values):
    array = strings(values)
    assert to_raw(array) == serialize_byte_tensor(array).item()
    assert list(from_raw("x", BYTES, (len(values),), to_raw(array))) == values


@given(st.binary(max_size=40), st.integers(0, 3))
def test_bytes_that_nobody_wrote_are_read_whole_or_refused(raw, count):
    with suppress(InvalidQuery):
        assert to_raw(from_raw("x", BYTES, (count,), raw)) == raw


@pytest.mark.parametrize(
    ("datatype", "field", "values"),
    [
        ("BOOL", "bool_contents", [True, False]),
        ("INT8", "int_contents", [-128, 127]),
        ("INT16", "int_contents", [-(2**15), 2**15 - 1]),
        ("INT32", "int_contents", [-(2**31), 2**31 - 1]),
        ("INT64", "int64_contents", [-(2**63), 2**63 - 1]),
        ("UINT8", "uint_contents", [0, 255]),
        ("UINT16", "uint_contents", [0, 2**16 - 1]),
        ("UINT32", "uint_contents", [0, 2**32 - 1]),
        ("UINT64", "uint64_contents", [0, 2**64 - 1]),
        ("FP32", "fp32_contents", [0.5, -2.0]),
        ("FP64", "fp64_contents", [0.1, -2.0]),
        ("BYTES", "bytes_contents", [b"ab", b"cd"]),
    ],
)
def test_typed_contents_of_every_datatype(datatype, field, values):
    contents = service_pb2.InferTensorContents(**{field: values})
    found = from_typed("x", datatype, (2, 1), contents)
    assert (found.dtype, found.shape, found.ravel().tolist()) == (DTYPES[datatype], (2, 1), values)
    other = "fp64_contents" if field != "fp64_contents" else "int_contents"
    with pytest.raises(InvalidQuery, match=f"x: is {datatype}, whose contents go into {field}"):
        from_typed("x", datatype, (2, 1), service_pb2.InferTensorContents(**{other: [1, 2]}))
    with pytest.raises(InvalidQuery, match="x: holds 2 elements, and its shape"):
        from_typed("x", datatype, (3,), contents)


@pytest.mark.parametrize(
    ("datatype", "field", "value"), [("INT8", "int_contents", 128), ("UINT8", "uint_contents", 256)]
)
def test_a_number_that_does_not_fit_is_refused(datatype, field, value):
    with pytest.raises(InvalidQuery, match=f"x: holds numbers that are not {datatype}"):
        from_typed("x", datatype, (1,), service_pb2.InferTensorContents(**{field: [value]}))


def test_half_precision_has_raw_contents_only():
    with pytest.raises(InvalidQuery, match=r"x: is FP16.*raw_input_contents"):
        from_typed("x", "FP16", (1,), service_pb2.InferTensorContents())


@pytest.mark.parametrize(
    ("datatype", "shape", "message"),
    [
        ("INT32", [2, 4], "ids: is INT32, and must be INT64"),
        ("secret words", [2, 4], "ids: is of an unknown datatype"),
        ("INT64", [2], r"ids: has the shape \[2\], and must have \[-1, 4\]"),
        ("INT64", [2, 5], r"ids: has the shape \[2, 5\]"),
        ("INT64", [0, 4], r"ids: has the shape \[0, 4\]"),
        ("INT64", [-1, 4], r"ids: has the shape \[-1, 4\]"),
        ("INT64", [1] * 500, "ids: has the shape of 500 axes"),
    ],
)
def test_what_was_declared_is_what_may_be_sent(datatype, shape, message):
    assert IDS.check("INT64", [7, 4]) == (7, 4)
    with pytest.raises(InvalidQuery, match=message):
        IDS.check(datatype, shape)


def _arrays_of(datatype):
    dtype = DTYPES[datatype]
    return arrays.arrays(dtype, arrays.array_shapes(max_dims=3, max_side=4))
