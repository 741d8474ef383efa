"""The parts of a sheet that a search through the command line doesn't reach."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw
from rich.console import Console

from radrank.client import _decode, _ink, sheet, tables
from radrank.client.errors import ClientError
from radrank.v1 import retrieval_pb2


@pytest.fixture
def answer(fake):
    def answer(k):
        request = retrieval_pb2.SearchRequest(k=k, include_report=True, include_labels=True)
        return _decode.search(fake.answer(request))

    return answer


@pytest.mark.parametrize("k", [0, 1, 3, 6])
def test_any_number_of_hits_makes_a_sheet_without_pictures_too(answer, k):
    drawn = sheet.draw(sheet.Asked(text="a long query " * 60), answer(k))
    assert drawn.mode == "RGB"
    assert drawn.height >= 500


def test_sixteen_bit_radiographs_keep_their_contrast():
    pixels = np.tile(np.linspace(100, 4095, 64).astype(np.uint16), (64, 1))
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    drawn = _ink.opened(out.getvalue(), 64)
    assert drawn is not None
    grey = np.asarray(drawn)[32, :, 0]
    assert (grey[0], grey[-1]) == (0, 255)
    assert 120 < grey[32] < 135


def test_small_and_wide_images_fit_the_square():
    out = io.BytesIO()
    Image.new("L", (40, 10)).save(out, "PNG")
    drawn = _ink.opened(out.getvalue(), 200)
    assert drawn is not None
    assert drawn.size == (200, 50)


def test_text_is_wrapped_and_cut_to_its_width():
    pen = ImageDraw.Draw(Image.new("L", (1, 1)))
    lines = _ink.wrap(pen, "one two three four five six seven " + "x" * 200, _ink.font(15), 90, lines=3)
    assert len(lines) == 3
    assert lines[-1].endswith("…")
    assert all(pen.textlength(line, _ink.font(15)) <= 90 for line in lines)
    assert _ink.wrap(pen, "", _ink.font(15), 90, lines=3) == []


def test_a_sheet_that_cannot_be_written_is_an_error_said_on_purpose(answer, tmp_path):
    with pytest.raises(ClientError, match="can't write the sheet"):
        sheet.save(tmp_path, sheet.Asked(text="a"), answer(1))


def test_a_hit_that_stayed_is_marked_as_such():
    hit = _decode.hit(retrieval_pb2.Hit(study_id="a", rank=4, candidate_rank=4))
    assert tables.moved(hit).plain == "  4 ＝"
    Console(file=io.StringIO()).print(tables.moved(hit))
