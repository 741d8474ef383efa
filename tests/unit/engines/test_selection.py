"""Which runtime "auto" takes on machines of several kinds, and what it says of those that it passes over."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import pytest

from helpers import gpu
from helpers.feeds import golden_of, model_of
from helpers.gpu_sessions import Package
from radrank.core.errors import MissingExtra
from radrank.engines import flavours, onnxruntime_gpu, runtimes
from radrank.engines import openvino as openvino_engine
from radrank.engines.engine import Engine, Model
from radrank.engines.runtimes import EngineSettings
from radrank.engines.selection import Selection


@pytest.fixture
def model() -> Model:
    return model_of("image_encoder", (8,))


@pytest.fixture
def machine(monkeypatch, model) -> Callable[..., gpu.Cuda]:
    """Installs what a machine has. cuda: ONNX Runtime's build for GPUs, None for that for CPUs; tensorrt: both."""

    def made(*, cuda: Package | None = None, tensorrt: bool = False) -> gpu.Cuda:
        def absent(name: str) -> None:
            raise ImportError(name)

        def missing() -> None:
            raise MissingExtra("openvino", "openvino")

        device = gpu.Cuda()
        if tensorrt:
            gpu.install(monkeypatch, device, gpu.TensorRT(device, list(model.buckets)))
        else:
            monkeypatch.setattr(flavours, "import_module", absent)
        if cuda is not None:
            monkeypatch.setattr(onnxruntime_gpu, "onnxruntime", lambda: cuda)
        monkeypatch.setattr(openvino_engine, "openvino", missing)
        tried = (("openvino", "bf16"), ("openvino", "fp32"))
        *others, plain = runtimes.PREFERENCE
        monkeypatch.setattr(runtimes, "PREFERENCE", (*others, *tried, plain))
        return device

    return made


@pytest.fixture
def chosen(tmp_path, caplog, model) -> Callable[..., tuple[Engine, list[tuple[str, str]]]]:
    """The engine that "auto" takes for the image encoder, and what the log of a server says: level and message."""

    def chose() -> tuple[Engine, list[tuple[str, str]]]:
        caplog.set_level(logging.INFO)
        selection = Selection({model.name: model}, EngineSettings(plans=tmp_path))
        selection.choose({model.name: golden_of(model.name)})
        return selection.slots[model.name], [(record.levelname, record.getMessage()) for record in caplog.records]

    return chose


@pytest.mark.parametrize("cuda", [None, Package(device=False)], ids=["without CUDA", "without a GPU"])
def test_what_is_not_installed_or_has_no_device_is_passed_over_without_a_word(machine, chosen, cuda):
    machine(cuda=cuda)
    engine, said = chosen()
    assert engine.manifest.runtime.startswith("onnxruntime-cpu")
    assert [level for level, _ in said] == ["INFO"]
    assert said[0][1].startswith("image_encoder runs on onnxruntime-cpu")


def test_a_gpu_without_converted_models_serves_in_fp32_and_says_what_is_missing(machine, chosen):
    machine(cuda=Package())
    engine, (missing, runs) = chosen()
    assert engine.manifest.runtime == "onnxruntime-cuda 9.9.9"
    assert engine.manifest.precision == "fp32"
    assert missing[0] == "WARNING"
    assert missing[1].startswith(
        "image_encoder does not run on onnxruntime-cuda in fp16: no such image_encoder in fp16"
    )
    assert "radrank export precision --bundle" in missing[1]
    assert runs[0] == "INFO"


def test_a_plan_of_other_weights_is_told_with_what_differs_before_the_cpu_serves(machine, chosen, model, tmp_path):
    machine(tensorrt=True)
    gpu.plan_of(replace(model, sha256="0" * 64), tmp_path)
    engine, (full, rtx, runs) = chosen()
    assert engine.manifest.runtime.startswith("onnxruntime-cpu")
    assert (full[0], rtx[0], runs[0]) == ("WARNING", "WARNING", "INFO")
    assert rtx[1].startswith("image_encoder does not run on tensorrt-rtx in fp16: plan image_encoder.fp16.sm86")
    assert f"expected sha256 of the ONNX {model.sha256[:12]}, found sha256 of the ONNX 000000000000" in rtx[1]
    assert "build it: radrank export tensorrt --bundle" in rtx[1]


def test_a_plan_that_fits_serves(machine, chosen, model, tmp_path):
    machine(tensorrt=True)
    gpu.plan_of(model, tmp_path, flavour="tensorrt")
    engine, said = chosen()
    assert engine.manifest.runtime == "tensorrt 9.9.9 sm86"
    assert [level for level, _ in said] == ["INFO"]
