"""How a result sheet draws text and radiographs."""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

GROUND = "#0e1116"
CARD = "#181d25"
EDGE = "#272e39"
TEXT = "#e8ecf2"
DIM = "#97a1b0"
ACCENT = "#62b6f5"
LABEL = "#f0c36d"
UP = "#5fd08a"
DOWN = "#f0716f"
GAP = 18


@lru_cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own typeface: there on every machine."""
    return ImageFont.load_default(size)


def cut(pen: ImageDraw.ImageDraw, text: str, face: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    """The text, or its beginning and an ellipsis, in `width` pixels."""
    if pen.textlength(text, face) <= width:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if pen.textlength(text[:middle].rstrip() + "…", face) <= width:
            low = middle
        else:
            high = middle - 1
    return text[:low].rstrip() + "…"


def wrap(
    pen: ImageDraw.ImageDraw,
    text: str,
    face: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    width: float,
    *,
    lines: int,
) -> list[str]:
    """At most `lines` lines of `width` pixels; what doesn't fit becomes an ellipsis."""
    done: list[str] = []
    line = ""
    words = text.split()
    for place, word in enumerate(words):
        longer = f"{line} {word}" if line else word
        if not line or pen.textlength(longer, face) <= width:
            line = longer
            continue
        if len(done) == lines - 1:
            line = " ".join([line, *words[place:]])
            break
        done.append(cut(pen, line, face, width))
        line = word
    if line and lines > 0:
        done.append(cut(pen, line, face, width))
    return done


def picture(sheet: Image.Image, content: bytes, at: tuple[int, int], side: int, *, empty: str) -> None:
    """Pastes an image file into a black square of `side` pixels, whole and centred; words where it can't be read."""
    square = Image.new("RGB", (side, side), "black")
    image = opened(content, side) if content else None
    if image is None:
        pen = ImageDraw.Draw(square)
        pen.text((side / 2, side / 2), empty, DIM, font(17), anchor="mm")
    else:
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    mask = Image.new("L", (side * 2, side * 2))
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, side * 2 - 1, side * 2 - 1), 20, 255)
    sheet.paste(square, at, mask.resize((side, side), Image.Resampling.LANCZOS))


def opened(content: bytes, side: int) -> Image.Image | None:
    """RGB, longest side `side`; None for what Pillow can't read, such as DICOM."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.draft("L", (side, side))
            grey = _eight_bits(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    scale = side / max(grey.size)
    size = (max(1, round(grey.width * scale)), max(1, round(grey.height * scale)))
    return grey.resize(size, Image.Resampling.LANCZOS)


def _eight_bits(image: Image.Image) -> Image.Image:
    if not image.mode.startswith(("I", "F")):
        return image.convert("RGB")
    # 16-bit radiographs rarely use all 16 bits: Pillow's own conversion would clip them to white.
    pixels = np.asarray(image, np.float32)
    low, high = float(pixels.min()), float(pixels.max())
    scaled = (pixels - low) * (255.0 / max(high - low, 1.0))
    return Image.fromarray(scaled.astype(np.uint8)).convert("RGB")
