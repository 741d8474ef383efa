"""OpenVINO as a runtime: equal answers, precision by processor, "auto" behind the gate."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from helpers.made_up import WORDS, tiny_bundle
from radrank.core.errors import InvalidQuery, MissingExtra, Unavailable
from radrank.engines import onnxruntime, runtimes
from radrank.engines import openvino as module
from radrank.engines.bundle import Bundle, open_bundle
from radrank.engines.encoder import BundleEncoder
from radrank.engines.openvino import OpenVinoEngine, openvino
from radrank.engines.runtimes import EngineSettings

ENCODERS = ("image_encoder", "text_encoder")
FP32 = EngineSettings(runtime="openvino", precision="fp32")
IDS = {"ids": np.ones((1, 16), dtype=np.int64)}


@pytest.fixture(scope="module")
def plain() -> Bundle:
    return open_bundle(tiny_bundle())


@pytest.fixture(scope="module")
def other() -> Bundle:
    return open_bundle(tiny_bundle(), FP32)


def pixels(encoder: BundleEncoder, count: int) -> np.ndarray:
    side = encoder.image_size
    return np.random.default_rng(0).integers(0, 256, (count, side, side), dtype=np.uint8)


def phrases(count: int) -> list[str]:
    """Of 9 to 16 words: one bucket."""
    rng = np.random.default_rng(1)
    return [" ".join(rng.choice(WORDS[2:], rng.integers(9, 17))) for _ in range(count)]


@pytest.mark.parametrize("count", [1, 8, 32])
def test_it_answers_as_onnx_runtime_does_for_any_number_of_rows(plain, other, count):
    images, texts = pixels(plain.encoder, count), phrases(count)
    np.testing.assert_allclose(other.encoder.encode_images(images), plain.encoder.encode_images(images), atol=1e-5)
    np.testing.assert_allclose(other.encoder.encode_texts(texts), plain.encoder.encode_texts(texts), atol=1e-5)


def test_encoders_run_on_it_and_small_graphs_stay_where_they_are_faster(other):
    ran = {name: engine.manifest.runtime.split()[0] for name, engine in other.engines.items()}
    assert {ran[name] for name in ENCODERS} == {"openvino"}
    assert {runtime for name, runtime in ran.items() if name not in ENCODERS} == {"onnxruntime-cpu"}
    assert {other.engines[name].manifest.precision for name in ENCODERS} == {"fp32"}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_query_alone_among_8_and_among_32_has_one_answer(precision):
    """Bit for bit: as a server asks, each query in a call of its own, whatever else runs."""
    try:
        encoder = open_bundle(tiny_bundle(), EngineSettings(runtime="openvino", precision=precision)).encoder
    except Unavailable as error:
        pytest.skip(str(error))
    images, texts = pixels(encoder, 32), phrases(32)

    def ask(row: int) -> tuple[bytes, bytes]:
        return encoder.encode_images(images[row][None]).tobytes(), encoder.encode_texts([texts[row]]).tobytes()

    alone = [ask(row) for row in range(32)]
    assert len(set(alone)) == 32
    for company in (8, 32):
        with ThreadPoolExecutor(company) as pool:
            for _ in range(3):
                assert list(pool.map(ask, range(company))) == alone[:company]


def test_what_does_not_fit_is_answered(other):
    with pytest.raises(InvalidQuery, match="pixels: must be uint8"):
        other.engines["image_encoder"].run({"pixels": np.zeros((1, 8, 8), dtype=np.float32)})


def opened(model, kept: Path | None) -> OpenVinoEngine:
    return OpenVinoEngine(model, precision="fp32", threads=1, kept=kept)


def test_its_own_files_are_kept_and_are_all_that_is_read_later(plain, tmp_path):
    model = plain.models["text_encoder"]
    wanted = opened(model, None).run(IDS)["vectors"]
    first = opened(model, tmp_path / "plans").run(IDS)["vectors"]
    gone = replace(model, path=tmp_path / "gone.onnx")
    later = opened(gone, tmp_path / "plans").run(IDS)["vectors"]
    assert np.array_equal(first, later)
    np.testing.assert_allclose(first, wanted, atol=1e-6)
    (kept,) = (tmp_path / "plans").iterdir()
    assert re.fullmatch(r"text_encoder\.openvino-fp32\.\w{12}", kept.name)


def test_other_weights_have_other_files(plain, tmp_path):
    model = plain.models["text_encoder"]
    for sha256 in (model.sha256, "another"):
        opened(replace(model, sha256=sha256), tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("file", ["model.xml", "model.bin", "manifest.json"])
def test_files_that_are_not_what_was_made_are_made_anew(plain, tmp_path, file, caplog):
    model = plain.models["text_encoder"]
    wanted = opened(model, tmp_path).run(IDS)["vectors"]
    (kept,) = tmp_path.iterdir()
    whole = (kept / file).read_bytes()
    (kept / file).write_bytes(whole[: len(whole) // 2])
    assert np.array_equal(opened(model, tmp_path).run(IDS)["vectors"], wanted)
    assert "is not what was made" in caplog.text
    caplog.clear()
    opened(model, tmp_path)
    assert not caplog.text


def test_where_nothing_can_be_kept_the_onnx_file_is_read(plain, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    (tmp_path / "file").touch()
    assert opened(plain.models["text_encoder"], tmp_path / "file" / "plans").run(IDS)["vectors"].any()
    assert "can't be kept" in caplog.text


def resident(path: Path) -> int:
    """KiB of a mapped file that are in this process."""
    areas = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.MULTILINE)
    return sum(
        int(rss) for area in areas if str(path) in area for rss in re.findall(r"^Rss: +(\d+)", area, re.MULTILINE)
    )


def test_weights_that_are_packed_go_back_and_come_again_where_they_are_needed(plain, tmp_path):
    engine = opened(plain.models["text_encoder"], tmp_path)
    (weights,) = tmp_path.glob("*/model.bin")
    wanted = engine.run(IDS)["vectors"]
    assert resident(weights) > 0
    engine.warm_up([IDS])
    assert resident(weights) == 0
    assert np.array_equal(engine.run(IDS)["vectors"], wanted)
    larger = {"ids": np.arange(96).reshape(3, 32) % 50}  # of another shape than any before
    assert np.array_equal(
        engine.run(larger)["vectors"], opened(plain.models["text_encoder"], tmp_path).run(larger)["vectors"]
    )


def test_what_a_killed_process_had_begun_is_removed_in_time(plain, tmp_path):
    model = plain.models["text_encoder"]
    opened(model, tmp_path)
    (kept,) = tmp_path.iterdir()
    begun = [tmp_path / f"{kept.name}.{name}" for name in ("old", "new")]
    for folder in begun:
        folder.mkdir()
    os.utime(begun[0], (0, 0))
    shutil.rmtree(kept)
    opened(model, tmp_path)
    assert set(tmp_path.iterdir()) == {kept, begun[1]}


def test_files_that_are_gone_when_they_are_mapped_leave_the_onnx_file(plain, tmp_path, monkeypatch):
    monkeypatch.setattr(module.openvino_ir, "kept", lambda *_: tmp_path / "gone")
    assert opened(plain.models["text_encoder"], tmp_path).run(IDS)["vectors"].any()


def test_a_precision_that_the_processor_lacks_is_unavailable(plain):
    with pytest.raises(Unavailable, match="openvino has no int4"):
        OpenVinoEngine(plain.models["image_encoder"], precision="int4", threads=1)


def test_a_closed_engine_says_so(plain):
    engine = OpenVinoEngine(plain.models["text_encoder"], precision="fp32", threads=1)
    engine.close()
    with pytest.raises(Unavailable, match="closed"):
        engine.run({"ids": np.ones((1, 16), dtype=np.int64)})


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtra, match=r"radrank\[openvino\]"):
        openvino()


def test_auto_takes_it_for_encoders_where_it_passes_the_gate_and_opens_no_other(monkeypatch):
    also = []

    class Told(onnxruntime.CpuEngine):
        def __init__(self, model, **settings) -> None:
            also.append(model.name)
            super().__init__(model, **settings)

    monkeypatch.setattr(onnxruntime, "CpuEngine", Told)
    monkeypatch.setattr(runtimes, "PREFERENCE", (("openvino", "fp32"), ("onnxruntime-cpu", "fp32")))
    bundle = open_bundle(tiny_bundle())
    bundle.warm_up()
    assert not set(also) & set(ENCODERS)
    ran = {name: engine.manifest.runtime.split()[0] for name, engine in bundle.engines.items()}
    assert {name for name, runtime in ran.items() if runtime == "openvino"} == set(ENCODERS)


def test_auto_goes_on_without_it(monkeypatch, plain):
    def missing() -> None:
        raise MissingExtra("openvino", "openvino")

    monkeypatch.setattr(module, "openvino", missing)
    monkeypatch.setattr(runtimes, "PREFERENCE", (("openvino", "bf16"), ("onnxruntime-cpu", "fp32")))
    bundle = open_bundle(tiny_bundle())
    bundle.warm_up()
    assert {engine.manifest.runtime.split()[0] for engine in bundle.engines.values()} == {"onnxruntime-cpu"}


def test_nothing_that_reports_usage_is_loaded():
    told = "from radrank.engines.openvino import openvino; openvino(); import sys; print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert "openvino_telemetry." not in done.stdout
    assert "'openvino'" in done.stdout
