"""An ONNX model in half precision, layer by layer: matrix products in it, all that needs range or digits in fp32.

Typed networks are how TensorRT 11 and TensorRT-RTX take precision, and ONNX Runtime always did: what a layer computes
in is what its inputs are. So a converted file says it for every runtime alike.

onnxruntime's and onnxconverter-common's float16 converters go through fp16 between two layers that are both kept in
fp32: the sum of squares of a norm overflows there, between operators that were all excluded. They know no bf16 either.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnx.version_converter
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from radrank.core.errors import InvalidQuery

FP32, FP16, BF16 = "fp32", "fp16", "bf16"
PRECISIONS: Final[Mapping[str, int]] = {FP32: TensorProto.FLOAT, FP16: TensorProto.FLOAT16, BF16: TensorProto.BFLOAT16}

PRODUCTS = frozenset({"Conv", "Gemm", "MatMul"})
"""Computed in half precision: what takes the time. Their sums are kept in fp32 by the hardware."""

CARRIERS: Mapping[str, int | None] = {
    **dict.fromkeys(("Add", "Clip", "Concat", "Mul", "Sub"), None),
    **dict.fromkeys(("Expand", "Flatten", "Gather", "Gelu", "LeakyRelu", "Relu", "Reshape", "Slice", "Split"), 1),
    **dict.fromkeys(("Squeeze", "Transpose", "Unsqueeze"), 1),
}
"""Stay in half precision where a product left it, and never begin it: how many of their inputs are of the output's
type, None for all. Every other operator runs in fp32: LayerNormalization, Softmax, reductions, Div, Exp, Pow, Sqrt, …
"""

_BF16_OPSET = 22  # the first whose Conv takes it


def convert(path: Path, precision: str) -> ModelProto:
    """The model of this file in fp32, fp16 or bf16; its inputs and outputs keep their types.

    Raises InvalidQuery for another precision.
    """
    if precision not in PRECISIONS:
        raise InvalidQuery("precision", f"must be one of: {', '.join(PRECISIONS)}")
    model = onnx.load(path)
    if precision == FP32:
        return model
    if precision == BF16 and opset(model) < _BF16_OPSET:
        model = onnx.version_converter.convert_version(model, _BF16_OPSET)
    return _Conversion(model, precision).result()


def opset(model: ModelProto) -> int:
    """Version of ONNX's own operators."""
    return max(int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


class _Conversion:
    """One pass over the nodes in their order. A tensor has its own name in fp32 and `name:fp16` in half precision."""

    def __init__(self, model: ModelProto, precision: str) -> None:
        self._model = model
        self._suffix = f":{precision}"
        self._type = PRECISIONS[precision]
        self._numpy = helper.tensor_dtype_to_np_dtype(self._type)
        self._constants = {each.name: each for each in model.graph.initializer if each.data_type == TensorProto.FLOAT}
        self._floats = _floats(model)
        self._half: set[str] = set()  # tensors that a node computes in half precision
        self._there: set[str] = set()  # names that a cast or a converted constant has brought
        self._nodes: list[NodeProto] = []

    def result(self) -> ModelProto:
        graph = self._model.graph
        for node in graph.node:
            data = self._data_inputs(node)
            if self._runs_half(node, data):
                for place, name in data.items():
                    node.input[place] = self._in_half(name)
                self._half.update(node.output)
                node.output[:] = [name + self._suffix for name in node.output]
            else:
                self._in_fp32(_all_inputs(node))
            self._nodes.append(node)
        self._in_fp32(output.name for output in graph.output)
        del graph.node[:], graph.value_info[:]
        graph.node.extend(self._nodes)
        used = {name for node in graph.node for name in _all_inputs(node)} | {output.name for output in graph.output}
        kept = [each for each in graph.initializer if each.name in used]
        del graph.initializer[:]
        graph.initializer.extend(kept)
        return self._model

    def _data_inputs(self, node: NodeProto) -> dict[int, str]:
        """Inputs that share the output's type, by place."""
        count = CARRIERS.get(node.op_type)
        return {place: name for place, name in enumerate(node.input[:count]) if name}

    def _runs_half(self, node: NodeProto, data: Mapping[int, str]) -> bool:
        if node.domain not in ("", "ai.onnx"):
            return False
        if node.op_type in PRODUCTS:
            return all(name in self._floats and self._fits(name) for name in data.values())
        if node.op_type not in CARRIERS:
            return False
        computed = [name for name in data.values() if name not in self._constants]
        return bool(computed) and self._half.issuperset(computed) and all(map(self._fits, data.values()))

    def _fits(self, name: str) -> bool:
        """Whether a constant survives: −3.4e38 of a mask would become −∞, an epsilon of 1e-12 zero."""
        if name not in self._constants:
            return True
        value = numpy_helper.to_array(self._constants[name])
        with np.errstate(over="ignore"):
            rounded = value.astype(self._numpy).astype(np.float32)
        return bool(np.isfinite(rounded).all()) and (value.size != 1 or bool((rounded != 0).all() or not value.any()))

    def _in_half(self, name: str) -> str:
        half = name + self._suffix
        if name not in self._half and half not in self._there:
            self._there.add(half)
            if name in self._constants:
                value = numpy_helper.to_array(self._constants[name]).astype(self._numpy)
                self._model.graph.initializer.append(numpy_helper.from_array(value, half))
            else:
                self._cast(name, half, self._type)
        return half

    def _in_fp32(self, names: Iterable[str]) -> None:
        for name in names:
            if name in self._half and name not in self._there:
                self._there.add(name)
                self._cast(name + self._suffix, name, TensorProto.FLOAT)

    def _cast(self, given: str, wanted: str, to: int) -> None:
        self._nodes.append(helper.make_node("Cast", [given], [wanted], name=f"cast {given}", to=to))


def _floats(model: ModelProto) -> set[str]:
    """Names of all float32 tensors."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    infos = [*graph.value_info, *graph.input, *graph.output]
    found = {info.name for info in infos if info.type.tensor_type.elem_type == TensorProto.FLOAT}
    return found | {each.name for each in graph.initializer if each.data_type == TensorProto.FLOAT}


def _all_inputs(node: NodeProto) -> list[str]:
    """Names that a node reads, those that its subgraphs read from outside among them."""
    graphs: list[Any] = [a.g for a in node.attribute if a.HasField("g")] + [g for a in node.attribute for g in a.graphs]
    return [*node.input, *(name for graph in graphs for inner in graph.node for name in _all_inputs(inner))]
