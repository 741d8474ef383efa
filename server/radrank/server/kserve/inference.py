"""One inference: the request's tensors to arrays, through the model, and the arrays to the response's tensors."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from numpy.typing import NDArray
from tritonclient.grpc import service_pb2

from radrank.core.errors import InvalidQuery
from radrank.engines.kserve.tensors import BYTES, Shape, Tensor
from radrank.server.calls import Caller
from radrank.server.kserve.memory import Memory
from radrank.server.kserve.models import VERSION, Served
from radrank.server.kserve.statistics import INFER, INPUT, OUTPUT, QUEUE, Statistics
from radrank.server.kserve.tensors import check_size, from_raw, from_typed, to_raw

_REGION, _OFFSET, _SIZE = "shared_memory_region", "shared_memory_offset", "shared_memory_byte_size"
_LARGEST_BYTES = 64 * 2**20
"""Of a BYTES tensor in shared memory: the shapes of all others bound them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a tensor lies in shared memory."""

    region: str
    offset: int
    byte_size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """An output that the caller wants, and where; place: None for in the response."""

    tensor: Tensor
    place: Place | None


def infer(
    request: Any,
    model: Served,
    *,
    memory: Memory | None,
    statistics: Statistics,
    caller: Caller,
) -> Any:
    """ModelInferRequest to ModelInferResponse. Counts it, however it ends.

    memory: None where the caller is on another host. Raises what the model raises, InvalidQuery and NotFound.
    """
    laps = [caller.arrived_ns, time.perf_counter_ns()]
    try:
        feed = _feed(request, model, memory)
        asked = _asked(request, model)
        laps.append(time.perf_counter_ns())
        outputs = model.run(feed, caller)
        laps.append(time.perf_counter_ns())
        response = _response(request, model, asked, outputs, memory)
        laps.append(time.perf_counter_ns())
    except Exception:
        statistics.failed(model.name, time.perf_counter_ns() - caller.arrived_ns)
        raise
    spans = (end - start for start, end in pairwise(laps))
    batch = len(next(iter(feed.values()))) if model.batch else 1
    stages = dict(zip((QUEUE, INPUT, INFER, OUTPUT), spans, strict=True))
    statistics.succeeded(model.name, batch=batch, stages=stages)
    return response


def _feed(request: Any, model: Served, memory: Memory | None) -> dict[str, NDArray[Any]]:
    """Arrays by input. Nothing is read before all shapes are known to be right: they bound what is read."""
    declared = {tensor.name: tensor for tensor in model.inputs}
    given = {sent.name: sent for sent in request.inputs}
    if not given.keys() <= declared.keys():
        names = ", ".join(declared)
        raise InvalidQuery("inputs", f"hold one that {model.name} does not take; it takes {names}")
    if len(given) < len(request.inputs):
        raise InvalidQuery("inputs", "hold one twice")
    for tensor in model.inputs:
        if tensor.name not in given and not tensor.optional:
            raise InvalidQuery(tensor.name, f"is missing; {model.name} needs {tensor}")
    shapes = {name: declared[name].check(sent.datatype, sent.shape) for name, sent in given.items()}
    model.check(shapes)
    return _contents(request, shapes, memory)


def _contents(request: Any, shapes: Mapping[str, Shape], memory: Memory | None) -> dict[str, NDArray[Any]]:
    raw = iter(request.raw_input_contents)
    feed: dict[str, NDArray[Any]] = {}
    for sent in request.inputs:
        name, shape = sent.name, shapes[sent.name]
        place = _place(name, sent.parameters)
        if place is not None:
            if sent.datatype == BYTES and place.byte_size > _LARGEST_BYTES:
                raise InvalidQuery(name, f"must have at most {_LARGEST_BYTES // 2**20} MiB in shared memory")
            check_size(name, sent.datatype, shape, place.byte_size)
            found = _here(memory).read(place.region, place.offset, place.byte_size)
            feed[name] = from_raw(name, sent.datatype, shape, found)
        elif not request.raw_input_contents:
            feed[name] = from_typed(name, sent.datatype, shape, sent.contents)
        elif sent.HasField("contents"):
            raise InvalidQuery(name, "has typed contents beside raw_input_contents; send one of them")
        else:
            content = next(raw, None)
            if content is None:
                raise InvalidQuery(name, "has no contents: raw_input_contents are fewer than the inputs")
            feed[name] = from_raw(name, sent.datatype, shape, content)
    if next(raw, None) is not None:
        raise InvalidQuery("raw_input_contents", "are more than the inputs that are not in shared memory")
    return feed


def _asked(request: Any, model: Served) -> list[Asked]:
    """The outputs that are wanted, in their order; all of them where none is named."""
    declared = {tensor.name: tensor for tensor in model.outputs}
    if not request.outputs:
        return [Asked(tensor=tensor, place=None) for tensor in model.outputs]
    for wanted in request.outputs:
        if wanted.name not in declared:
            names = ", ".join(declared)
            raise InvalidQuery("outputs", f"hold one that {model.name} does not have; it has {names}")
        if "classification" in wanted.parameters:
            raise InvalidQuery(wanted.name, "can't be asked for as classes: this server has no labels for it")
    if len({wanted.name for wanted in request.outputs}) < len(request.outputs):
        raise InvalidQuery("outputs", "hold one twice")
    return [
        Asked(tensor=declared[wanted.name], place=_place(wanted.name, wanted.parameters)) for wanted in request.outputs
    ]


def _response(
    request: Any, model: Served, asked: list[Asked], outputs: Mapping[str, NDArray[Any]], memory: Memory | None
) -> Any:
    """Contents are raw, as Triton's are, however the request's were sent."""
    response = service_pb2.ModelInferResponse(model_name=model.name, model_version=VERSION, id=request.id)
    for wanted in asked:
        name, place = wanted.tensor.name, wanted.place
        array = outputs[name]
        output = response.outputs.add(name=name, datatype=wanted.tensor.datatype, shape=array.shape)
        content = to_raw(array)
        # Raw contents are found by an output's place: one in shared memory leaves its own empty.
        response.raw_output_contents.append(content if place is None else b"")
        if place is None:
            continue
        if len(content) > place.byte_size:
            room = f"the {place.byte_size:,} bytes that it was given there"
            raise InvalidQuery(name, f"is {len(content):,} bytes, more than {room}")
        _here(memory).write(place.region, place.offset, content)
        output.parameters[_REGION].string_param = place.region
        output.parameters[_SIZE].int64_param = len(content)
        if place.offset:
            output.parameters[_OFFSET].int64_param = place.offset
    return response


def _place(name: str, parameters: Any) -> Place | None:
    if _REGION not in parameters:
        return None
    offset = parameters[_OFFSET].int64_param if _OFFSET in parameters else 0
    size = parameters[_SIZE].int64_param if _SIZE in parameters else 0
    if offset < 0 or size < 1:
        raise InvalidQuery(name, f"needs {_SIZE} of 1 or more, and no negative {_OFFSET}")
    return Place(region=parameters[_REGION].string_param, offset=offset, byte_size=size)


def _here(memory: Memory | None) -> Memory:
    if memory is None:
        raise InvalidQuery(_REGION, "is for callers on the server's own host, over loopback or a unix socket")
    return memory
