"""Half precision where it is safe: matrix products in it, norms, softmax and sums in fp32, answers that stay."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from helpers.feeds import MODELS
from radrank.core.errors import InvalidQuery, MissingExtra
from radrank.engines.encoder import Tokens
from radrank.engines.engine import Feed, Model
from radrank.engines.manifest import read_manifest
from radrank.engines.models import MESSAGES_OF
from radrank.engines.parity import read_golden
from radrank.export.precision import BF16, FP16, FP32, PRECISIONS, PRODUCTS, convert
from radrank.export.quantization import quantize

SAFE = ("LayerNormalization", "Softmax", "ReduceMean", "ReduceSum", "ReduceL2", "Div", "Sqrt", "Exp", "Pow", "Log")
FLOAT = TensorProto.FLOAT


def answers(model: onnx.ModelProto, feed: Feed) -> np.ndarray:
    """Of the standard's evaluator, which rounds as the file says. On a CPU, ONNX Runtime computes all of it in fp32."""
    return np.asarray(ReferenceEvaluator(model).run(None, dict(feed))[0])


def served(model: onnx.ModelProto, feed: Feed) -> np.ndarray:
    """Of ONNX Runtime."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, dict(feed))[0])


def golden_feed(bundle: Path, name: str) -> Feed:
    manifest, _ = read_manifest(bundle)
    tokens = Tokens(bundle / manifest.text.tokenizer, manifest.text)
    golden = read_golden(bundle / manifest.golden, lambda text: tokens.padded(tokens([text])))
    inputs = [given.name for given in onnx.load(bundle / f"{name}.onnx").graph.input]
    return {given: golden[name].feeds[0][given] for given in inputs}


def types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of every tensor, by strict inference over what the file says."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    infos = [*graph.value_info, *graph.input, *graph.output]
    return {info.name: info.type.tensor_type.elem_type for info in infos} | {
        each.name: each.data_type for each in graph.initializer
    }


def made(path: Path, nodes: list[onnx.NodeProto], **constants: np.ndarray) -> Path:
    """A model from x float32 [n, 4] to y float32."""
    graph = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info("x", FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value, dtype=np.float32), name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


@pytest.mark.parametrize("name", MODELS)
def test_answers_in_fp16_are_those_in_fp32(demo_bundle, name):
    whole, half = (convert(demo_bundle / f"{name}.onnx", precision) for precision in (FP32, FP16))
    feed = golden_feed(demo_bundle, name)
    expected = served(whole, feed)
    for found in (answers(half, feed), served(half, feed)):
        assert found.dtype == np.float32
        assert (found != expected).any(), "nothing was converted"
        if name.startswith("reranker"):
            real = feed["mask"] > 0
            np.testing.assert_allclose(found[real], expected[real], atol=2e-3)
        elif name.startswith(MESSAGES_OF):
            assert np.abs(found - expected).max() <= 2e-3 * np.abs(expected).max()
        else:
            assert (expected * found).sum(axis=1).min() >= 0.999  # unit vectors


@pytest.mark.parametrize("precision", [FP16, BF16])
@pytest.mark.parametrize("name", MODELS)
def test_norms_softmax_and_sums_run_in_fp32_and_products_do_not(demo_bundle, name, precision):
    model = convert(demo_bundle / f"{name}.onnx", precision)
    onnx.checker.check_model(model)
    kinds = types(model)
    ran = Counter((node.op_type, kinds[node.output[0]]) for node in model.graph.node)
    used = {node.op_type for node in model.graph.node}
    assert {kind for op, kind in ran if op in SAFE} <= {FLOAT, TensorProto.INT64}
    assert all(ran[op, FLOAT] for op in {"LayerNormalization", "Softmax"} & used)
    assert {kind for op, kind in ran if op in PRODUCTS} == {PRECISIONS[precision]}


@pytest.mark.parametrize("precision", [FP16, BF16])
def test_inputs_and_outputs_keep_their_types_and_names(demo_bundle, precision):
    for name in MODELS:
        before, after = (convert(demo_bundle / f"{name}.onnx", each).graph for each in (FP32, precision))
        for given, found in ((before.input, after.input), (before.output, after.output)):
            assert [(each.name, each.type.tensor_type.elem_type) for each in given] == [
                (each.name, each.type.tensor_type.elem_type) for each in found
            ]


def test_fp32_is_the_file_as_it_is_and_others_are_refused(tmp_path):
    path = made(tmp_path / "m.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"])], w=np.eye(4))
    assert convert(path, FP32) == onnx.load(path)
    with pytest.raises(InvalidQuery, match="fp32, fp16, bf16"):
        convert(path, "int8")


def test_int8_without_onnxruntime_names_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    path = made(tmp_path / "m.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"])], w=np.eye(4))
    with pytest.raises(MissingExtra, match=r"radrank\[cpu\]"):
        quantize(Model(name="text_encoder", path=path, sha256="", precision="fp32"), ())


@pytest.mark.parametrize("op", ["Softmax", "LayerNormalization"])
def test_what_follows_a_product_at_once_runs_in_fp32_too(tmp_path, op):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"]),
        helper.make_node(op, ["p", "scale"] if op == "LayerNormalization" else ["p"], ["q"]),
        helper.make_node("MatMul", ["q", "w"], ["y"]),
    ]
    model = convert(made(tmp_path / "m.onnx", nodes, w=np.eye(4), scale=np.ones(4)), FP16)
    kinds = types(model)
    assert [(node.op_type, kinds[node.output[0]]) for node in model.graph.node if node.op_type != "Cast"] == [
        ("MatMul", TensorProto.FLOAT16),
        (op, FLOAT),
        ("MatMul", TensorProto.FLOAT16),
    ]


def test_a_norm_whose_sum_of_squares_passes_fp16_does_not_overflow(tmp_path):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"]),
        helper.make_node("Pow", ["p", "two"], ["squares"]),
        helper.make_node("ReduceSum", ["squares"], ["sum"]),
        helper.make_node("Sqrt", ["sum"], ["y"]),
    ]
    model = convert(made(tmp_path / "m.onnx", nodes, w=np.eye(4), two=2.0), FP16)
    assert answers(model, {"x": np.full((1, 4), 300, dtype=np.float32)}).item() == 600


def test_constants_that_half_precision_cannot_hold_keep_their_layer_in_fp32(tmp_path):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"]),
        helper.make_node("Mul", ["p", "one"], ["scaled"]),
        helper.make_node("Add", ["scaled", "mask"], ["masked"]),
        helper.make_node("Clip", ["p", "epsilon"], ["clipped"]),
        helper.make_node("Div", ["masked", "clipped"], ["y"]),
    ]
    constants = {"one": 1.0, "mask": np.full(4, np.finfo(np.float32).min), "epsilon": 1e-12}
    model = convert(made(tmp_path / "m.onnx", nodes, w=np.eye(4), **constants), FP16)
    kinds = types(model)
    of = {node.op_type: kinds[node.output[0]] for node in model.graph.node}
    assert of["MatMul"] == of["Mul"] == TensorProto.FLOAT16
    assert of["Add"] == of["Clip"] == FLOAT
    assert np.isfinite(answers(model, {"x": np.ones((1, 4), dtype=np.float32)})).all()


def test_a_weight_that_both_kinds_of_layer_read_is_there_in_both_types(tmp_path):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"]),
        helper.make_node("Div", ["p", "w"], ["y"]),
    ]
    model = convert(made(tmp_path / "m.onnx", nodes, w=np.full((4, 4), 2.0)), FP16)
    assert {each.name: each.data_type for each in model.graph.initializer} == {
        "w": FLOAT,
        "w:fp16": TensorProto.FLOAT16,
    }
    np.testing.assert_array_equal(answers(model, {"x": np.ones((4, 4), dtype=np.float32)}), 4.0)


def test_what_a_branch_reads_from_outside_is_there_in_fp32(tmp_path):
    def branch(op: str) -> onnx.GraphProto:
        outputs = [helper.make_tensor_value_info("b", FLOAT, None)]
        return helper.make_graph([helper.make_node(op, ["p"], ["b"])], op, [], outputs)

    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"]),
        helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0),
        helper.make_node("Greater", ["m", "zero"], ["positive"]),
        helper.make_node("If", ["positive"], ["y"], then_branch=branch("Exp"), else_branch=branch("Abs")),
    ]
    model = convert(made(tmp_path / "m.onnx", nodes, w=np.eye(4), zero=0.0), FP16)
    np.testing.assert_allclose(answers(model, {"x": np.ones((1, 4), dtype=np.float32)}), np.e, rtol=1e-6)


def test_bf16_computes_in_bf16(tmp_path):
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"]),
        helper.make_node("Add", ["p", "bias"], ["biased"]),
        helper.make_node("LayerNormalization", ["biased", "scale"], ["y"]),
    ]
    constants = {"w": rng.normal(size=(4, 4)), "bias": rng.normal(size=4), "scale": np.ones(4)}
    path = made(tmp_path / "m.onnx", nodes, **constants)
    x = rng.normal(size=(5, 4)).astype(np.float32)
    expected = answers(convert(path, FP32), {"x": x})
    found = answers(convert(path, BF16), {"x": x})
    assert found.dtype == np.float32
    assert 1e-4 < np.abs(found - expected).max() < 3e-2
