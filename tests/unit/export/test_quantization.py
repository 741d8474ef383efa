"""int8: weights and ranges as they should be, calibrated on training studies alone, and judged by the gate."""

from __future__ import annotations

import re
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from PIL import Image

from helpers.bundles import with_data_set
from helpers.made_up import tiny_bundle
from radrank.client import cli
from radrank.core.errors import InvalidQuery, NotFound
from radrank.engines.bundle import EngineSettings, open_bundle
from radrank.engines.engine import Model
from radrank.engines.parity import LEAST
from radrank.export import conversion, quantization
from radrank.export.conversion import write_conversions
from radrank.export.quantization import quantize

SIDE = 8
WEIGHTS = np.random.default_rng(0).normal(size=(SIDE * SIDE, 6)).astype(np.float32)


def radiographs(brightest: int, count: int = 16) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.integers(0, brightest + 1, (SIDE, SIDE), dtype=np.uint8) for _ in range(count)]


def tower(path: Path, name: str) -> Model:
    """A product of the pixels, or of the words, with WEIGHTS."""
    given = "pixels" if name == "image_encoder" else "ids"
    axes, kind = (
        (["n", SIDE, SIDE], TensorProto.UINT8) if given == "pixels" else (["n", SIDE * SIDE], TensorProto.INT64)
    )
    nodes = [
        helper.make_node("Cast", [given], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["floats"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["vectors"]),
    ]
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info(given, kind, axes)],
        [helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["n", WEIGHTS.shape[1]])],
        [numpy_helper.from_array(WEIGHTS, "weights")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return Model(name=name, path=path, sha256="a" * 64, precision="fp32")


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}


def int8_weights(model: onnx.ModelProto) -> np.ndarray:
    """The one int8 matrix, in numbers again: every column by its own scale."""
    (name,) = (name for name, value in constants(model).items() if value.dtype == np.int8 and value.ndim == 2)
    scale = constants(model)[name.replace("_quantized", "_scale")]
    assert scale.shape == WEIGHTS.shape[1:]
    assert (np.abs(constants(model)[name] * scale - WEIGHTS) <= 0.51 * scale).all()
    return constants(model)[name]


@pytest.mark.parametrize("brightest", [50, 200])
def test_an_image_tower_has_int8_weights_and_the_ranges_of_what_it_was_calibrated_on(tmp_path, brightest):
    pixels = radiographs(brightest)
    model = onnx.load_from_string(quantize(tower(tmp_path / "m.onnx", "image_encoder"), pixels))
    assert np.abs(int8_weights(model)).max() == 127
    scales = [
        constants(model)[node.input[1]]
        for node in model.graph.node
        if node.op_type == "QuantizeLinear" and node.input[0] == "flat"
    ]
    assert scales == [pytest.approx(brightest / 255, rel=0.02)]
    # The standard's evaluator: sums of int8 products saturate on processors without VNNI.
    found = ReferenceEvaluator(model).run(None, {"pixels": pixels[0][None]})[0]
    expected = pixels[0].reshape(1, -1).astype(np.float32) @ WEIGHTS
    assert 0 < np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


def test_a_text_tower_has_int8_weights_and_scales_words_as_they_come(tmp_path):
    model = onnx.load_from_string(quantize(tower(tmp_path / "m.onnx", "text_encoder"), []))
    assert np.abs(int8_weights(model)).max() == 127
    used = Counter(node.op_type for node in model.graph.node)
    assert (used["DynamicQuantizeLinear"], used["MatMulInteger"], used["MatMul"]) == (1, 1, 0)


def test_a_reranker_is_left_alone(tmp_path):
    with pytest.raises(InvalidQuery, match="too small to gain"):
        quantize(tower(tmp_path / "m.onnx", "reranker_sage"), [])


def table(folder: Path, *splits: str, step: int = 10) -> Path:
    """A CSV data set of a study for each split, whose image is of one gray: 10, 20, … or black without a step."""
    rows = ["study_id,image,report,split"]
    for number, split in enumerate(splits, start=1):
        Image.new("L", (16, 16), step * number).save(folder / f"{number}.png")
        rows.append(f"S{number},{number}.png,a report,{split}")
    (folder / "studies.csv").write_text("\n".join(rows) + "\n")
    return folder / "studies.csv"


@pytest.fixture
def calibrated(monkeypatch):
    """The grays that images had which calibrated a model."""
    grays: list[list[int]] = []

    def noted(_model, pixels):
        grays.append([int(np.median(image)) for image in pixels])
        return b"weights"

    monkeypatch.setattr(quantization, "quantize", noted)
    return grays


def test_calibration_takes_the_first_training_studies_of_the_bundles_own_data_set(tmp_path, monkeypatch, calibrated):
    data = table(tmp_path, "test", "train", "validation", "train", "train")
    bundle = with_data_set(tiny_bundle(), tmp_path / "bundle", "csv", data)
    monkeypatch.setattr(conversion, "CALIBRATED", 2)
    made = dict(write_conversions(bundle, tmp_path / "plans", "int8", step=lambda _: nullcontext()))
    assert [path.name.split(".")[0] for path in made] == ["image_encoder", "text_encoder"]
    assert calibrated == [[20, 40]] * 2


def test_without_a_study_to_train_on_nothing_is_calibrated(tmp_path, calibrated):
    data = table(tmp_path, "test", "validation")
    with pytest.raises(NotFound, match="--dataset"):
        list(write_conversions(tiny_bundle(), tmp_path, "int8", step=lambda _: nullcontext(), dataset="csv", root=data))
    assert not calibrated


@pytest.mark.parametrize("step", [10, 0])
def test_the_gate_judges_int8_by_its_figures_and_refuses_what_black_images_calibrated(tmp_path, caplog, step):
    caplog.set_level("INFO")
    plans, data = tmp_path / "plans", table(tmp_path, *["train"] * 20, step=step)
    bundle = with_data_set(tiny_bundle(), tmp_path / "bundle", "csv", data)
    assert len(list(write_conversions(bundle, plans, "int8", step=lambda _: nullcontext()))) == 2
    served = open_bundle(bundle, EngineSettings(precision="int8", plans=plans))
    served.warm_up()
    for name in ("image_encoder", "text_encoder"):
        said = next(line for line in caplog.messages if line.startswith(name))
        figures = re.search(r"overlap ([\d.]+), Kendall τ ([\d.]+)", said)
        assert figures
        passes = min(map(float, figures.groups())) >= LEAST
        assert ("is refused on onnxruntime-cpu" in said) is not passes
        assert served.engines[name].manifest.precision == ("int8" if passes else "fp32")
    assert step or served.engines["image_encoder"].manifest.precision == "fp32"


@pytest.mark.parametrize(("flags", "said"), [("sse2 avx2", True), ("avx2 avx512_vnni", False), (None, False)])
def test_the_command_says_where_int8_does_not_pay(tmp_path, monkeypatch, capsys, calibrated, flags, said):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("model name: made up\n" + ("" if flags is None else f"flags\t\t: {flags}\n"))
    monkeypatch.setattr(conversion, "CPUINFO", cpuinfo)
    data, to = table(tmp_path, "train"), tmp_path / "plans"
    words = ["--bundle", tiny_bundle(), "--precision", "int8", "--to", to, "--dataset", "csv", "--root", data]
    with pytest.raises(SystemExit) as left:
        cli.main(["export", "precision", *map(str, words)])
    assert left.value.code in (0, None)
    assert ("VNNI" in capsys.readouterr().err) is said
