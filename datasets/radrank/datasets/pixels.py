"""Radiographs as pixels: from the encoded file to 8-bit gray, guarded against hostile files.

Only JPEG, PNG and DICOM are read. The size stands in the header and is checked before anything is decoded; every
fault of an image is InvalidQuery("image", …), whose text never repeats what the file says.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from radrank.core.errors import InvalidQuery, RadrankError
from radrank.datasets import _jpeg

MAX_PIXELS = 64_000_000
MAX_ASPECT = 10

Gray = NDArray[np.uint8]

_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_ORIENTATION = 0x0112
# EXIF 2.32, tag 274: how to turn what is stored into what is meant.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(content: bytes, *, at_least: int = 0) -> Gray:
    """Gray pixels uint8 [H, W] of a JPEG, PNG or DICOM file.

    at_least: JPEGs may be decoded smaller, to a short side of at least so many pixels; 0 means full size.
    16-bit pixels are spread from their minimum to their maximum, or by the DICOM window. Raises InvalidQuery, and
    MissingExtra for DICOM without pydicom.
    """
    try:
        if content[128:132] == b"DICM":
            from radrank.datasets._dicom_pixels import decode as decode_dicom

            return decode_dicom(content)
        image = _open(content)
        return _gray(image, at_least=at_least)
    except RadrankError:
        raise
    except Exception:  # noqa: BLE001 - decoders raise anything on a hostile file, and may quote it
        raise InvalidQuery("image", "is broken or truncated") from None


def fit(gray: Gray, size: int) -> Gray:
    """Pixels uint8 [size, size]: the short side resized (bicubic), then the centre cropped, as CLIP preprocesses."""
    image = Image.fromarray(gray)
    width, height = (side * size // min(image.size) for side in image.size)
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return np.asarray(image.crop((left, top, left + size, top + size)))


def load(content: bytes, size: int) -> Gray:
    """Pixels uint8 [size, size] of an encoded file. Raises InvalidQuery."""
    return fit(decode(content, at_least=size), size)


def preview(content: bytes, max_side: int = 1024) -> bytes:
    """A JPEG for viewers: 8-bit gray, quality 92, no side over `max_side`, no metadata. Raises InvalidQuery."""
    at_least = 0
    if content.startswith(_JPEG):
        width, height = _size(content)
        if max(width, height) <= max_side and _jpeg.is_plain(content):
            return content
        at_least = -(-max_side * min(width, height) // max(width, height))
    image = Image.fromarray(decode(content, at_least=at_least))
    image.thumbnail((max_side, max_side), Image.Resampling.BICUBIC)
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=92)
    return encoded.getvalue()


def check_size(width: int, height: int) -> None:
    """Raises InvalidQuery where a header announces a size that is not to be decoded."""
    if width <= 0 or height <= 0:
        raise InvalidQuery("image", "has no pixels")
    if width * height > MAX_PIXELS:
        raise InvalidQuery("image", f"has more than {MAX_PIXELS // 1_000_000} megapixels")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise InvalidQuery("image", f"is more than {MAX_ASPECT} times as long as wide")


def spread(values: NDArray[np.generic], low: float, high: float) -> Gray:
    """uint8 of the values' shape, `low` to 0 and `high` to 255; without any range, the middle gray."""
    if high <= low:
        return np.full(values.shape, 128, dtype=np.uint8)
    # In place: 64 megapixels of float32 are enough to hold once.
    scaled = values.astype(np.float32)
    scaled -= low
    scaled *= 255 / (high - low)
    np.clip(np.rint(scaled, out=scaled), 0, 255, out=scaled)
    return scaled.astype(np.uint8)


def _open(content: bytes) -> ImageFile:
    """The image with its header read and checked, nothing decoded."""
    # Not Image.open: its decompression-bomb check warns, and would come before ours.
    openers: dict[bytes, Callable[[io.BytesIO], ImageFile]] = {_JPEG: JpegImageFile, _PNG: PngImageFile}
    for magic, opener in openers.items():
        if content.startswith(magic):
            image = opener(io.BytesIO(content))
            check_size(*image.size)
            return image
    raise InvalidQuery("image", "is neither JPEG, PNG nor DICOM")


def _size(content: bytes) -> tuple[int, int]:
    try:
        width, height = _open(content).size
    except RadrankError:
        raise
    except Exception:  # noqa: BLE001 - as in decode
        raise InvalidQuery("image", "is broken or truncated") from None
    return width, height


def _gray(image: ImageFile, *, at_least: int) -> Gray:
    turn = _TURNS.get(_orientation(image))
    if isinstance(image, JpegImageFile):
        # Luminance straight from the JPEG's own planes, at 1/2, 1/4 or 1/8 where that is large enough.
        image.draft("L", (at_least, at_least) if at_least else image.size)
    image.load()
    gray = _eight_bit(image) if image.mode in ("I", "F") or image.mode.startswith("I;16") else _luminance(image)
    return np.asarray(gray.transpose(turn) if turn else gray)


def _eight_bit(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    return Image.fromarray(spread(values, float(values.min()), float(values.max())))


def _luminance(image: Image.Image) -> Image.Image:
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        # What is transparent is background, and a radiograph's background is black.
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
    return image.convert("L")


def _orientation(image: ImageFile) -> int:
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # noqa: BLE001 - a broken EXIF block spoils no pixels
        return 1
    return value if isinstance(value, int) else 1
