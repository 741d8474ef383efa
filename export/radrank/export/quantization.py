"""A bundle's encoders in int8, for CPUs with VNNI: by ONNX Runtime's quantizer, calibrated on studies to train on."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from radrank.core.errors import InvalidQuery
from radrank.engines.engine import Model
from radrank.engines.models import IMAGE_ENCODER, TEXT_ENCODER
from radrank.engines.onnxruntime import onnxruntime

METHOD = "onnxruntime quantization: text dynamic, images static (QDQ, per channel, percentile)"


def quantize(model: Model, pixels: Sequence[NDArray[np.uint8]]) -> bytes:
    """An encoder's ONNX file in int8. pixels: uint8 [S, S] each, radiographs to calibrate the image tower on.

    Raises InvalidQuery for a model that is no encoder, MissingExtra.
    """
    onnxruntime()  # says which extra brings it, as an import of its quantizer would not
    with tempfile.TemporaryDirectory() as folder:
        path, source = Path(folder) / "int8.onnx", Path(folder) / "fp32.onnx"
        found = onnx.load(model.path)
        del found.graph.value_info[:]  # the exporter's own shapes contradict what the quantizer infers
        onnx.save(found, source)
        if model.name == TEXT_ENCODER:
            _dynamic(source, path)
        elif model.name == IMAGE_ENCODER:
            _static(source, path, pixels)
        else:
            raise InvalidQuery("model", "int8 is for encoders: a re-ranker is too small to gain by it")
        return path.read_bytes()


def _dynamic(source: Path, path: Path) -> None:
    """Words stay what they are: activations of a text tower are scaled as they come."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    products = ["MatMul", "Gemm"]
    quantize_dynamic(source, path, per_channel=True, weight_type=QuantType.QInt8, op_types_to_quantize=products)


def _static(source: Path, path: Path, pixels: Sequence[NDArray[np.uint8]]) -> None:
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = path.with_name("prepared.onnx")
    quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        prepared,
        path,
        _Calibration(pixels),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.Percentile,
        op_types_to_quantize=["Conv", "MatMul", "Gemm"],
    )


class _Calibration:
    """What onnxruntime's quantizer reads, one radiograph at a time."""

    def __init__(self, pixels: Iterable[NDArray[np.uint8]]) -> None:
        self._feeds: Iterator[dict[str, Any]] = iter([{"pixels": image[None]} for image in pixels])

    def get_next(self) -> dict[str, Any] | None:
        return next(self._feeds, None)
