"""A picture of a search: the query beside what it found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from radrank.client import _ink
from radrank.client._ink import (
    ACCENT,
    CARD,
    DIM,
    DOWN,
    EDGE,
    GAP,
    GROUND,
    LABEL,
    TEXT,
    UP,
    font,
)
from radrank.client._words import clean, status
from radrank.client.errors import ClientError
from radrank.client.results import Hit, SearchResult

COLUMNS = 5
MOST_HITS = 50  # a sheet is for looking at; 1,000 previews would be a 60,000-pixel picture

_MARGIN = 36
_HEAD = 64
_CARD_W, _CARD_H = 288, 470
_PICTURE = 264
_PAD = 12
_QUERY_W = 400


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What to draw as the query: an image file, or words. `name` stands under it."""

    image: bytes = b""
    text: str = ""
    name: str = ""


def save(path: Path, asked: Asked, result: SearchResult) -> None:
    """Draws the sheet as a PNG; ClientError where the file can't be written."""
    picture = draw(asked, result)
    try:
        picture.save(path, "PNG", optimize=True)
    except OSError as error:
        raise ClientError(f"can't write the sheet to {path}: {error.strerror or error}") from error


def draw(asked: Asked, result: SearchResult) -> Image.Image:
    """RGB, on a dark ground: the query at the left, the first `MOST_HITS` hits best first,
    in even rows of at most `COLUMNS`."""
    hits = result.hits[:MOST_HITS]
    rows = max(1, -(-len(hits) // COLUMNS))
    columns = max(1, -(-len(hits) // rows))
    wide = max(2, columns)  # room for the heading
    grid_w = wide * _CARD_W + (wide - 1) * GAP
    grid_h = rows * _CARD_H + (rows - 1) * GAP
    left = _MARGIN + _QUERY_W + GAP * 2
    size = (left + grid_w + _MARGIN, _MARGIN + _HEAD + grid_h + _MARGIN)
    sheet = Image.new("RGB", size, GROUND)
    pen = ImageDraw.Draw(sheet)
    top = _MARGIN + _HEAD
    _head(pen, result, left, size[0] - _MARGIN)
    _query(sheet, pen, asked, (_MARGIN, top))
    for place, hit in enumerate(hits):
        row, column = divmod(place, columns)
        _card(sheet, pen, hit, (left + column * (_CARD_W + GAP), top + row * (_CARD_H + GAP)))
    if not hits:
        pen.text((left + 8, top + 8), "no study fits", DIM, font(20))
    return sheet


def _head(pen: ImageDraw.ImageDraw, result: SearchResult, left: int, right: int) -> None:
    pen.text((_MARGIN, _MARGIN), "Query", TEXT, font(30))
    kind = {"image": "Images", "report": "Reports"}.get(result.target, "Studies")
    pen.text((left, _MARGIN), f"{kind} found", TEXT, font(30))
    made = result.provenance
    ranked = f"re-ranked by {clean(made.reranker)}" if made.reranker else "not re-ranked"
    line = f"{ranked}  ·  {result.times.total_us / 1000:.1f} ms"
    room = right - left - pen.textlength(f"{kind} found", font(30)) - 24
    line = _ink.cut(pen, line, font(17), room)
    pen.text((right, _MARGIN + 16), line, DIM, font(17), anchor="ra")


def _query(sheet: Image.Image, pen: ImageDraw.ImageDraw, asked: Asked, at: tuple[int, int]) -> None:
    x, y = at
    inner = _QUERY_W - 2 * _PAD
    if asked.text:
        lines = _ink.wrap(pen, clean(asked.text), font(24), inner - 24, lines=11)
        height = 56 + 34 * len(lines)
        pen.rounded_rectangle((x, y, x + _QUERY_W, y + height), 16, CARD, ACCENT, 2)
        for place, line in enumerate(lines):
            pen.text((x + _PAD + 12, y + 30 + 34 * place), line, TEXT, font(24))
        return
    height = inner + 2 * _PAD + 44
    pen.rounded_rectangle((x, y, x + _QUERY_W, y + height), 16, CARD, ACCENT, 2)
    _ink.picture(sheet, asked.image, (x + _PAD, y + _PAD), inner, empty="no preview of this file")
    name = _ink.cut(pen, clean(asked.name), font(19), inner)
    pen.text((x + _PAD + 2, y + _PAD + inner + 14), name, TEXT, font(19))


def _card(sheet: Image.Image, pen: ImageDraw.ImageDraw, hit: Hit, at: tuple[int, int]) -> None:
    x, y = at
    inner = _CARD_W - 2 * _PAD
    pen.rounded_rectangle((x, y, x + _CARD_W, y + _CARD_H), 16, CARD, EDGE, 1)
    _ink.picture(sheet, hit.preview, (x + _PAD, y + _PAD), _PICTURE, empty="no image")
    _ranks(pen, hit, (x + _PAD + 8, y + _PAD + 8))
    line = y + _PAD + _PICTURE + 12
    score = f"{hit.score:.3f}"
    pen.text((x + _CARD_W - _PAD, line), score, TEXT, font(19), anchor="ra")
    room = inner - pen.textlength(score, font(19)) - 12
    pen.text((x + _PAD, line), _ink.cut(pen, clean(hit.study_id), font(19), room), TEXT, font(19))
    line += 28
    cosine = f"cos {hit.cosine:.3f}"
    pen.text((x + _CARD_W - _PAD, line), cosine, DIM, font(15), anchor="ra")
    room = inner - pen.textlength(cosine, font(15)) - 12
    what = "  ·  ".join(filter(None, (hit.view and hit.view.upper(), status(hit.normal))))
    pen.text((x + _PAD, line), _ink.cut(pen, what, font(15), room), UP if hit.normal else DIM, font(15))
    line += 26
    labels = ", ".join(clean(label).replace("_", " ") for label in hit.labels)
    if labels:
        pen.text((x + _PAD, line), _ink.cut(pen, labels, font(16), inner), LABEL, font(16))
        line += 28
    for words in _ink.wrap(pen, clean(hit.report), font(15), inner, lines=(y + _CARD_H - _PAD - line) // 21):
        pen.text((x + _PAD, line), words, DIM, font(15))
        line += 21


def _ranks(pen: ImageDraw.ImageDraw, hit: Hit, at: tuple[int, int]) -> None:
    """The rank now, then a triangle with how far the hit moved and the rank before."""
    x, y = at
    now = str(hit.rank)
    width = max(34, int(pen.textlength(now, font(22))) + 18)
    pen.rounded_rectangle((x, y, x + width, y + 34), 9, ACCENT)
    pen.text((x + width / 2, y + 17), now, GROUND, font(22), anchor="mm")
    x += width + 6
    colour = UP if hit.moved > 0 else DOWN if hit.moved < 0 else DIM
    by = str(abs(hit.moved)) if hit.moved else ""
    was = f"was {hit.candidate_rank}"
    width = 32 + int(pen.textlength(by, font(17))) + int(pen.textlength(was, font(15))) + (10 if by else 4)
    pen.rounded_rectangle((x, y, x + width, y + 34), 9, GROUND)
    middle = y + 17
    if hit.moved:
        tip = -6 if hit.moved > 0 else 6
        pen.polygon([(x + 9, middle - tip), (x + 21, middle - tip), (x + 15, middle + tip)], colour)
    else:
        for lift in (-3, 3):
            pen.line([(x + 9, middle + lift), (x + 20, middle + lift)], colour, 2)
    pen.text((x + 26, middle), by, colour, font(17), anchor="lm")
    pen.text((x + width - 8, middle), was, DIM, font(15), anchor="rm")
