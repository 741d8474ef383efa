"""ModelConfig: what a model is asked with and answers, as Triton's message has it. Needs the extra `triton`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from radrank.core.errors import MissingExtra
from radrank.engines.kserve.tensors import BYTES, Tensor


class Described(Protocol):
    """One model. batch: the most requests in one feed, 0 where its tensors have no axis that counts requests."""

    @property
    def name(self) -> str: ...
    @property
    def inputs(self) -> tuple[Tensor, ...]: ...
    @property
    def outputs(self) -> tuple[Tensor, ...]: ...
    @property
    def batch(self) -> int: ...
    @property
    def parameters(self) -> Mapping[str, str]:
        """What there is to know of it, in words."""
        ...


def model_config(model: Described, *, version: str) -> Any:
    """ModelConfig: shapes without the axis that counts requests, where there is one. Raises MissingExtra."""
    messages = model_config_pb2()

    def said(tensor: Tensor) -> dict[str, Any]:
        number = messages.DataType.Value(type_name(tensor))
        return {"name": tensor.name, "data_type": number, "dims": dims(tensor, model.batch)}

    return messages.ModelConfig(
        name=model.name,
        max_batch_size=model.batch,
        input=[{**said(tensor), "optional": tensor.optional} for tensor in model.inputs],
        output=[said(tensor) for tensor in model.outputs],
        version_policy={"specific": {"versions": [int(version)]}},
        parameters={name: {"string_value": value} for name, value in model.parameters.items()},
    )


def dims(tensor: Tensor, batch: int) -> tuple[int, ...]:
    """The shape, without the axis that counts requests where `batch` says that there is one."""
    return tensor.shape[1:] if batch else tensor.shape


def type_name(tensor: Tensor) -> str:
    """Its datatype as a configuration names it."""
    return f"TYPE_{'STRING' if tensor.datatype == BYTES else tensor.datatype}"


def model_config_pb2() -> Any:
    """Triton's messages of a model's configuration, from tritonclient. Raises MissingExtra."""
    try:
        from tritonclient.grpc import model_config_pb2 as messages
    except ImportError as error:
        raise MissingExtra("tritonclient", "triton") from error
    return messages
