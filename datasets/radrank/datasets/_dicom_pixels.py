"""Pixels of a DICOM radiograph: modality and VOI transformations as PS3.3 C.11 has them, then 8 bits."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from radrank.core.errors import InvalidQuery
from radrank.datasets import _jpeg
from radrank.datasets._pydicom import pydicom
from radrank.datasets.pixels import Gray, check_size, spread

# Inflating is unbounded and comes before any header can be read.
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_JPEG_2000 = b"\xff\x4f\xff\x51"
_GRAY = ("MONOCHROME1", "MONOCHROME2")
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")


def decode(content: bytes) -> Gray:
    """uint8 [Rows, Columns] of the first frame. Raises InvalidQuery, MissingExtra, and whatever pydicom raises."""
    module = pydicom()
    if _DEFLATED in content[:4096]:
        raise InvalidQuery("image", "is a deflated DICOM file; send it as Explicit VR Little Endian")
    header = module.dcmread(io.BytesIO(content), stop_before_pixels=True)
    if "Rows" not in header or "Columns" not in header:
        raise InvalidQuery("image", "is a DICOM file without an image")
    check_size(int(header.Columns), int(header.Rows))
    photometric = str(header.get("PhotometricInterpretation") or "MONOCHROME2")
    if photometric not in _GRAY + _COLOUR or int(header.get("BitsAllocated", 16)) > 16:
        raise InvalidQuery("image", "is not a radiograph's DICOM: expected monochrome pixels of at most 16 bits")
    pixels = _first_frame(module, content, compressed=header.file_meta.TransferSyntaxUID.is_compressed)
    if pixels.ndim == 3:
        return np.asarray(Image.fromarray(spread(pixels, 0, 2 ** int(header.BitsStored) - 1)).convert("L"))
    return _rendered(module, header, pixels, inverted=photometric == "MONOCHROME1")


def _first_frame(module: Any, content: bytes, *, compressed: bool) -> NDArray[np.generic]:
    """Integers [Rows, Columns], or [Rows, Columns, 3] in RGB."""
    dataset = module.dcmread(io.BytesIO(content))
    try:
        if compressed:
            frames = int(dataset.get("NumberOfFrames") or 1)
            _check_codestream(module.encaps.get_frame(dataset.PixelData, 0, number_of_frames=frames))
        pixels: NDArray[np.generic] = module.pixels.pixel_array(dataset, index=0)
    except (RuntimeError, NotImplementedError):
        if compressed:
            raise InvalidQuery(
                "image", "is in a transfer syntax that can't be decoded here; send it as Explicit VR Little Endian"
            ) from None
        raise
    return pixels


def _check_codestream(frame: bytes) -> None:
    """A compressed frame has a header of its own, and decoders believe that one: it is checked too."""
    if frame.startswith(b"\xff\xd8") and (size := _jpeg.size(frame)):
        check_size(*size)
    if (at := frame.find(_JPEG_2000, 0, 4096)) >= 0:
        # ISO 15444-1 A.5.1: SOC, then SIZ with Lsiz, Rsiz, Xsiz, Ysiz.
        check_size(int.from_bytes(frame[at + 8 : at + 12], "big"), int.from_bytes(frame[at + 12 : at + 16], "big"))


def _rendered(module: Any, header: Any, pixels: NDArray[np.generic], *, inverted: bool) -> Gray:
    # At most 2^16 values exist: transform each once, then look the pixels up.
    low, high = int(pixels.min()), int(pixels.max())
    values = np.arange(low, high + 1)
    levels = module.pixels.apply_modality_lut(values, header)
    if header.get("VOILUTSequence"):
        bits = int(header.VOILUTSequence[0].LUTDescriptor[2])
        table = spread(module.pixels.apply_voi(np.rint(levels).astype(np.int64), header), 0, 2**bits - 1)
    elif (window := _window(header)) is not None:
        table = spread(_windowed(levels, *window), 0, 1)
    else:
        shown = levels[_present(header, pixels, low, high)]
        table = spread(levels, float(shown.min()), float(shown.max()))
    if inverted:
        table = 255 - table
    rendered = np.empty(pixels.shape, dtype=np.uint8)
    for band in _bands(pixels):
        rendered[band] = table[pixels[band].astype(np.int64) - low]
    return rendered


def _bands(pixels: NDArray[np.generic]) -> Iterator[slice]:
    # Indices are 8 bytes each: row by band of rows, a large image needs no half gigabyte of them.
    for start in range(0, len(pixels), 256):
        yield slice(start, start + 256)


def _window(header: Any) -> tuple[float, float, str] | None:
    """Centre, width and function of the first window; None where there is none that makes sense."""
    centre, width = (_first(header.get(name)) for name in ("WindowCenter", "WindowWidth"))
    function = str(header.get("VOILUTFunction") or "LINEAR").upper()
    if centre is None or width is None or not (width > 1 or (width > 0 and function != "LINEAR")):
        return None
    return centre, width, function


def _windowed(levels: NDArray[Any], centre: float, width: float, function: str) -> NDArray[np.float64]:
    """0 to 1, by PS3.3 C.11.2.1.2 and C.11.2.1.3."""
    x = levels.astype(np.float64)
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (x - centre) / width, -700, 700)))
    if function == "LINEAR_EXACT":
        return np.clip((x - centre) / width + 0.5, 0, 1)
    return np.clip((x - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)


def _present(header: Any, pixels: NDArray[np.generic], low: int, high: int) -> NDArray[np.bool_]:
    """Which of the values low … high occur, the padding around the detector aside."""
    present = np.zeros(high - low + 1, dtype=np.bool_)
    for band in _bands(pixels):
        present[pixels[band].astype(np.int64) - low] = True
    padding = _first(header.get("PixelPaddingValue"))
    if padding is not None and low <= padding <= high and present.sum() > 1:
        present[int(padding) - low] = False
    return present


def _first(value: Any) -> float | None:
    """The first of a multi-valued number; None where it is absent or empty."""
    if value is None or value == "":
        return None
    if isinstance(value, (str, bytes, int, float)) or not hasattr(value, "__len__"):
        return float(value)
    return float(value[0]) if len(value) else None
