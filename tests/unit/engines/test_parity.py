"""The gate: what ranks as fp32 does may serve; the rest is refused with the figures, and what was there stays."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from scipy.stats import kendalltau

from helpers.bundles import with_longer_vectors, with_shuffled_weights
from helpers.feeds import feed_of, golden_of, model_of
from helpers.made_up import tiny_bundle
from radrank.core.errors import InvalidQuery, Mismatch, MissingExtra, NotFound, Unavailable
from radrank.engines import runtimes, selection
from radrank.engines.bundle import open_bundle
from radrank.engines.conversions import converted, keep
from radrank.engines.engine import Engine, Feed, Model
from radrank.engines.onnxruntime import CpuEngine
from radrank.engines.parity import Agreement, agreement, kendall
from radrank.engines.runtimes import EngineSettings, Opener
from radrank.engines.selection import Selection
from radrank.export.conversion import write_conversions
from radrank.export.precision import convert


class Planted(CpuEngine):
    """The right model, with answers that something has happened to."""

    def __init__(self, model: Model, spoil: Callable[[np.ndarray], np.ndarray]) -> None:
        super().__init__(model, threads=1)
        self._spoil = spoil
        self.closed = False
        # Not fp32: the gate judges by rank alone.
        self.manifest = type(self.manifest)(sha256=model.sha256, precision="fp16", runtime="planted 1.0")

    def run(self, feed: Feed) -> dict[str, np.ndarray[Any, Any]]:
        return {name: self._spoil(array) for name, array in super().run(feed).items()}

    def close(self) -> None:
        self.closed = True
        super().close()


@pytest.fixture
def offer(monkeypatch) -> Callable[[Opener], None]:
    """Offers a runtime, by how it opens a model, that is tried before the CPU."""

    def offered(opener: Opener) -> None:
        monkeypatch.setattr(runtimes, "PREFERENCE", (("planted", "fp32"), ("onnxruntime-cpu", "fp32")))
        monkeypatch.setattr(selection, "RUNTIMES", {**runtimes.RUNTIMES, "planted": opener})

    return offered


@pytest.fixture
def plant(offer):
    """Offers the right model with spoilt answers; returns the engines that were opened, by model."""

    tiny_bundle()  # made before, as any bundle is

    def planted(spoil: Callable[[np.ndarray], np.ndarray]) -> dict[str, Planted]:
        opened: dict[str, Planted] = {}

        def opener(model: Model, _settings: EngineSettings) -> Engine:
            opened[model.name] = Planted(model, spoil)
            return opened[model.name]

        offer(opener)
        return opened

    return planted


def overflown(array: np.ndarray) -> np.ndarray:
    """What half precision makes of numbers past 65,504, of which a softmax or a norm makes NaN."""
    with np.errstate(over="ignore", invalid="ignore"):
        large = (array * 1e6).astype(np.float16)
        return (large - large).astype(np.float32) + large.astype(np.float32)


def test_an_engine_that_ranks_alike_takes_the_place_of_the_cpus(plant, caplog):
    opened = plant(lambda array: array.astype(np.float16).astype(np.float32))
    bundle = open_bundle(tiny_bundle())
    assert {engine.manifest.runtime.split()[0] for engine in bundle.engines.values()} == {"onnxruntime-cpu"}
    with caplog.at_level(logging.INFO):
        bundle.warm_up()
    assert set(opened) == set(bundle.engines)
    assert {engine.manifest.runtime for engine in bundle.engines.values()} == {"planted 1.0"}
    assert "image_encoder runs on planted 1.0, fp16" in caplog.text
    assert {m.runtime for m in bundle.encoder.manifests.values()} == {"planted 1.0"}  # what provenance tells
    assert {reranker.manifest.runtime for reranker in bundle.rerankers.values()} == {"planted 1.0"}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda array: np.random.default_rng(0).standard_normal(array.shape).astype(np.float32),
        lambda array: array * np.float32(np.nan),
        lambda array: array[:, :-1],
        overflown,
    ],
    ids=["wrong weights", "nan", "shape", "fp16 overflow"],
)
def test_a_bad_engine_is_refused_and_the_one_before_stays(plant, caplog, spoil):
    opened = plant(spoil)
    bundle = open_bundle(tiny_bundle())
    bundle.warm_up()
    assert {engine.manifest.runtime.split()[0] for engine in bundle.engines.values()} == {"onnxruntime-cpu"}
    assert all(engine.closed for engine in opened.values())
    refusals = [record.message for record in caplog.records if "is refused on planted" in record.message]
    assert len(refusals) == len(bundle.engines)


class Reference(CpuEngine):
    """A file in numpy, each tensor in its own type, as a GPU has it: ONNX Runtime's CPU computes fp16 in fp32."""

    def __init__(self, model: Model) -> None:
        super().__init__(model, threads=1)
        self._evaluator = ReferenceEvaluator(str(model.path))
        self.manifest = replace(self.manifest, runtime="reference")

    def run(self, feed: Feed) -> dict[str, np.ndarray[Any, Any]]:
        return dict(zip(self._names, self._evaluator.run(None, dict(feed)), strict=True))


def chosen(model: Model, plans: Path, content: onnx.ModelProto) -> Engine:
    """What "auto" takes once this file lies there as the model's conversion to fp16; before, fp32 serves."""
    selection = Selection({model.name: model}, EngineSettings(plans=plans))
    slot = selection.slots[model.name]
    feed = feed_of(model.name, 4)
    before = slot.run(feed)["vectors"]
    keep(plans, model, "fp16", "for this test", content.SerializeToString())
    selection.choose({model.name: golden_of(model.name)})
    assert np.array_equal(slot.run(feed)["vectors"], before) == (slot.manifest.precision == "fp32")
    return slot


@pytest.mark.parametrize("overflows", [False, True])
def test_a_model_that_fp16_can_not_hold_is_refused_and_the_one_before_stays(offer, tmp_path, caplog, overflows):
    offer(lambda model, settings: Reference(converted(settings.plans_for(model), model, "fp16")))
    longer = with_longer_vectors(
        tiny_bundle(), tmp_path / "bundle", "image_encoder.onnx", 2.0**17 if overflows else 1.0
    )
    model = model_of("image_encoder", bundle=longer)
    with np.errstate(over="ignore", invalid="ignore"):
        engine = chosen(model, tmp_path / "plans", convert(model.path, "fp16"))
    if overflows:
        assert (engine.manifest.precision, engine.manifest.sha256) == ("fp32", model.sha256)
        assert "image_encoder is refused on planted" in caplog.text
        assert "expected finite answers, found NaN or infinity" in caplog.text
    else:
        assert (engine.manifest.precision, engine.manifest.runtime) == ("fp16", "reference")


@pytest.mark.parametrize("wrong", [False, True])
def test_a_file_with_wrong_weights_is_refused_with_the_figures_and_the_one_before_stays(
    monkeypatch, tmp_path, caplog, wrong
):
    monkeypatch.setattr(runtimes, "PREFERENCE", (("onnxruntime-cpu", "fp16"), ("onnxruntime-cpu", "fp32")))
    model = model_of("image_encoder")
    content = convert(model.path, "fp16")
    engine = chosen(model, tmp_path, with_shuffled_weights(content) if wrong else content)
    assert engine.manifest.precision == ("fp32" if wrong else "fp16")
    told = r"image_encoder is refused on .*found top-10 overlap 0\.[0-8]\d\d, Kendall τ -?0\.[0-8]"
    assert (re.search(told, caplog.text) is not None) == wrong


def test_a_refusal_tells_both_figures(plant, caplog):
    plant(lambda array: -array)
    open_bundle(tiny_bundle()).warm_up()
    assert "expected both at least 0.98, found top-10 overlap 0." in caplog.text
    assert "Kendall τ -1.000" in caplog.text


def test_an_engine_is_warmed_up_with_one_golden_query_of_each_shape(plant, monkeypatch):
    warmed = []

    def noted(_: Planted, feeds: list[Feed]) -> None:
        warmed.append([tuple(array.shape for array in feed.values()) for feed in feeds])

    monkeypatch.setattr(Planted, "warm_up", noted)
    plant(lambda array: array)
    bundle = open_bundle(tiny_bundle())
    bundle.warm_up()
    assert len(warmed) == len(bundle.engines)
    assert all(len(shapes) == len(set(shapes)) > 0 for shapes in warmed)


def test_an_engine_built_since_is_taken_up_by_another_warm_up(plant, monkeypatch):
    opened = plant(lambda array: array)
    right = selection.RUNTIMES["planted"]

    def not_yet(_model: Model, _settings: EngineSettings) -> Engine:
        raise NotFound("plan")

    monkeypatch.setitem(selection.RUNTIMES, "planted", not_yet)
    bundle = open_bundle(tiny_bundle())
    bundle.warm_up()
    assert not opened
    monkeypatch.setitem(selection.RUNTIMES, "planted", right)
    bundle.warm_up()
    assert {engine.manifest.runtime for engine in bundle.engines.values()} == {"planted 1.0"}
    opened.clear()
    bundle.warm_up()  # nothing is better than the best
    assert not opened


def test_a_runtime_that_is_named_stays_as_it_is_and_is_asked_again(offer, monkeypatch):
    opened = []

    def opener(model: Model, _settings: EngineSettings) -> Engine:
        opened.append(Planted(model, lambda array: array))
        return opened[-1]

    offer(opener)
    monkeypatch.setattr(runtimes, "RUNTIMES", selection.RUNTIMES)
    model = model_of("image_encoder")
    named = Selection({model.name: model}, EngineSettings(runtime="planted"))
    golden = {model.name: golden_of(model.name)}
    for _ in range(2):
        named.choose(golden)
    (engine,) = opened
    engine._spoil = np.negative
    with pytest.raises(Mismatch, match="Kendall"):
        named.choose(golden)
    assert not engine.closed


def test_a_precision_that_does_not_pass_leaves_fp32_where_auto_chooses(tmp_path, caplog):
    """A converted file, of this very model by its manifest, with other weights in it."""
    bundle = open_bundle(tiny_bundle())
    model, other = bundle.models["image_encoder"], bundle.models["text_encoder"]
    keep(tmp_path, model, "int8", "for this test", other.path.read_bytes())
    chosen = open_bundle(tiny_bundle(), EngineSettings(precision="int8", plans=tmp_path))
    chosen.warm_up()
    assert chosen.engines["image_encoder"].manifest.precision == "fp32"
    assert "image_encoder is refused on onnxruntime-cpu" in caplog.text


def half(precision: str, plans: Path) -> EngineSettings:
    """Settings for the tiny bundle on the CPU, really converted."""
    files = dict(write_conversions(tiny_bundle(), plans, precision, step=lambda _: nullcontext()))
    assert not any(files.values())
    assert all(dict(write_conversions(tiny_bundle(), plans, precision, step=lambda _: nullcontext())).values())
    return EngineSettings(runtime="onnxruntime-cpu", precision=precision, plans=plans)


def test_half_precision_passes(tmp_path):
    bundle = open_bundle(tiny_bundle(), half("fp16", tmp_path))
    bundle.warm_up()
    assert bundle.engines["text_encoder"].manifest.precision == "fp16"
    assert bundle.engines["image_encoder"].manifest.sha256 != bundle.models["image_encoder"].sha256


def test_a_runtime_that_is_not_installed_is_passed_over_and_named_it_tells_its_extra(plant, monkeypatch):
    def missing(_model: Model, _settings: EngineSettings) -> Engine:
        raise MissingExtra("tensorrt", "tensorrt")

    plant(lambda array: array)
    monkeypatch.setattr(selection, "RUNTIMES", {**runtimes.RUNTIMES, "planted": missing})
    bundle = open_bundle(tiny_bundle())
    bundle.warm_up()
    assert bundle.engines["image_encoder"].manifest.runtime.startswith("onnxruntime-cpu")
    monkeypatch.setattr(runtimes, "RUNTIMES", {**runtimes.RUNTIMES, "planted": missing})
    with pytest.raises(MissingExtra, match=r'pip install "radrank\[tensorrt\]"'):
        open_bundle(tiny_bundle(), EngineSettings(runtime="planted"))


def test_an_unknown_runtime_is_told_which_there_are():
    with pytest.raises(InvalidQuery, match=r"auto, .*onnxruntime-cpu"):
        open_bundle(tiny_bundle(), EngineSettings(runtime="abacus"))


def test_a_precision_without_kernels_is_told(tmp_path):
    with pytest.raises(Unavailable, match=r"onnxruntime-cpu can't open .* in bf16"):
        open_bundle(tiny_bundle(), half("bf16", tmp_path))


def test_kendalls_tau_is_scipys():
    rng = np.random.default_rng(0)
    for _ in range(50):
        left = rng.integers(0, 12, 30).astype(np.float32)
        right = (left + rng.integers(-3, 4, 30)).astype(np.float32)
        assert kendall(left, right) == pytest.approx(kendalltau(left, right).statistic)


def test_agreement_is_the_mean_over_queries():
    best = np.arange(20, dtype=np.float32)
    assert agreement([best, best], [best, best]) == Agreement(overlap=1.0, tau=1.0)
    assert agreement([best, -best], [best, best]) == Agreement(overlap=0.5, tau=0.0)
