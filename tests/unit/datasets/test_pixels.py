from __future__ import annotations

import io
import sys

import numpy as np
import pytest
from PIL import Image

from radrank.core.errors import InvalidQuery, MissingExtra
from radrank.datasets import _pydicom
from radrank.datasets.pixels import MAX_PIXELS, decode, fit, load, preview

WIDE = np.tile(np.arange(0, 65536, 1024, dtype=np.uint16), (32, 1))
TWELVE_BITS = np.tile(np.arange(0, 4096, 64, dtype=np.uint16), (32, 1))


def reason(content: bytes) -> str:
    with pytest.raises(InvalidQuery) as caught:
        decode(content)
    assert caught.value.field == "image"
    return caught.value.reason


def test_a_png_comes_back_as_it_was(files):
    assert (decode(files.encoded(files.ramp(), "PNG")) == files.ramp()).all()


def test_a_jpeg_is_decoded_no_larger_than_it_must_be(files):
    content = files.encoded(files.ramp(800, 1200))
    assert decode(content).shape == (800, 1200)
    assert decode(content, at_least=150).shape == (200, 300)
    assert decode(content, at_least=2000).shape == (800, 1200)
    assert load(content, 224).shape == (224, 224)


@pytest.mark.parametrize("mode", ["P", "RGB", "RGBA", "LA", "CMYK"])
def test_every_mode_goes_to_gray(files, mode):
    file = io.BytesIO()
    gray = Image.fromarray(files.ramp())
    image = gray.convert("RGB").convert(mode) if mode == "CMYK" else gray.convert(mode)
    image.save(file, "JPEG" if mode == "CMYK" else "PNG")
    assert np.abs(decode(file.getvalue()).astype(int) - files.ramp()).max() < 12


def test_a_bitmap_is_black_and_white(files):
    assert set(decode(files.encoded(files.ramp() > 127, "PNG")).ravel()) == {0, 255}


def test_what_is_transparent_is_black(files):
    white = np.dstack([np.full((40, 60, 3), 255, np.uint8), np.zeros((40, 60), np.uint8)])
    assert decode(files.encoded(white, "PNG")).max() == 0


@pytest.mark.parametrize("pixels", [WIDE, TWELVE_BITS], ids=["16 bits", "12 of 16 bits"])
def test_sixteen_bit_pngs_are_scaled_not_clipped(files, pixels):
    gray = decode(files.encoded(pixels, "PNG"))
    assert (gray[0, 0], gray[0, -1]) == (0, 255)
    assert (np.diff(gray[0].astype(int)) > 0).all()


def test_the_exif_orientation_is_honoured(files):
    exif = Image.Exif()
    exif[0x0112] = 6
    content = files.encoded(files.ramp(), exif=exif)
    gray = decode(content)
    assert gray.shape == (60, 40)
    assert gray[0].mean() < 10 < 245 < gray[-1].mean()


def test_fit_resizes_the_short_side_and_crops_the_centre():
    pixels = np.zeros((100, 300), np.uint8)
    pixels[:, 100:200] = 200
    assert (fit(pixels, 50)[:, 2:-2] == 200).all()
    assert fit(pixels.T, 50).shape == (50, 50)
    assert (fit(pixels, 100) == 200).all()


def test_bad_images_are_the_caller_s_to_fix(files):
    png, jpeg = files.encoded(files.ramp(), "PNG"), files.encoded(files.ramp(400, 600))
    assert reason(b"") == reason(b"A note, not an image.") == "is neither JPEG, PNG nor DICOM"
    assert reason(files.encoded(files.ramp(), "BMP")) == "is neither JPEG, PNG nor DICOM"
    assert reason(png[: len(png) // 2]) == "is broken or truncated"
    assert reason(jpeg[: len(jpeg) // 2]) == "is broken or truncated"
    assert reason(jpeg[:20]) == "is broken or truncated"
    assert reason(files.png_header(0, 10)) in ("has no pixels", "is broken or truncated")
    assert reason(files.png_header(1000, 20)) == "is more than 10 times as long as wide"


@pytest.mark.parametrize("side", [8001, 12_000, 60_000])
def test_a_bomb_is_refused_by_its_header(files, side):
    assert side * side > MAX_PIXELS
    assert reason(files.png_header(side, side)) == "has more than 64 megapixels"
    jpeg = bytearray(files.encoded(files.ramp()))
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = side.to_bytes(2, "big") * 2
    assert reason(bytes(jpeg)) == "has more than 64 megapixels"
    assert reason(files.dicom(Rows=side, Columns=side)) == "has more than 64 megapixels"


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow's, while it looks for a resolution
def test_a_broken_exif_block_spoils_no_pixels(files):
    jpeg = files.encoded(files.ramp())
    broken = jpeg[:2] + b"\xff\xe1\x00\x10Exif\0\0MM\0*\xff\xff\xff\xff" + jpeg[2:]
    assert (decode(broken) == decode(jpeg)).all()


def test_a_dicom_without_window_spans_its_range_and_monochrome1_is_inverted(files):
    plain, inverted = decode(files.dicom()), decode(files.dicom(PhotometricInterpretation="MONOCHROME1"))
    assert plain.shape == (30, 40)
    assert (plain[0, 0], plain[0, -1]) == (0, 255)
    assert (inverted == 255 - plain).all()


def test_padding_around_the_detector_does_not_set_the_range(files):
    pixels = np.tile(np.arange(1000, 2000, 50, dtype=np.uint16), (20, 1))
    pixels[:, 0] = 65535
    gray = decode(files.dicom(pixels, PixelPaddingValue=65535))
    assert (gray[0, 1], gray[0, -1]) == (0, 255)


def test_a_window_is_applied_after_the_rescale(files):
    gray = decode(
        files.dicom(RescaleSlope=2, RescaleIntercept=-1000, WindowCenter=[3000, 1], WindowWidth=[2001, 1])
    )  # stored 1500 … 2500 is shown
    stored = np.arange(0, 4000, 100)
    assert (gray[0][stored <= 1500] == 0).all()
    assert (gray[0][stored >= 2500] == 255).all()
    assert gray[0][stored == 2000] == pytest.approx(128, abs=1)


@pytest.mark.parametrize("function", ["LINEAR_EXACT", "SIGMOID"])
def test_the_other_voi_functions_keep_the_order(files, function):
    gray = decode(files.dicom(WindowCenter=2000, WindowWidth=1000, VOILUTFunction=function))[0].astype(int)
    assert (np.diff(gray) >= 0).all()
    assert gray[20] == pytest.approx(128, abs=1)


def test_signed_pixels_and_a_senseless_window_are_no_obstacle(files):
    pixels = np.tile(np.arange(-500, 500, 10, dtype=np.int16), (60, 1))
    assert decode(files.dicom(pixels, WindowCenter=0, WindowWidth=0))[0, [0, -1]].tolist() == [0, 255]


def test_a_voi_lut_is_looked_up(files):
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    lut = Dataset()
    lut.add_new("LUTDescriptor", "US", [256, 0, 16])
    lut.add_new("LUTData", "US", [65535 - 257 * value for value in range(256)])
    gray = decode(files.dicom(files.ramp(), VOILUTSequence=Sequence([lut])))
    assert (gray == 255 - files.ramp()).all()


def test_only_the_first_frame_is_read(files):
    frames = np.concatenate([files.ramp(), 255 - files.ramp()])
    gray = decode(files.dicom(frames, Rows=40, NumberOfFrames=2))
    assert (gray == files.ramp()).all()


def test_a_jpeg_inside_a_dicom_is_decoded_and_its_own_header_checked(files):
    from pydicom.encaps import encapsulate

    jpeg = files.encoded(files.ramp(), quality=95)
    options = {"syntax": "1.2.840.10008.1.2.4.50", "PixelData": None}

    def wrapped(stream: bytes) -> bytes:
        return files.dicom(files.ramp(), **options | {"PixelData": encapsulate([stream])})

    assert np.abs(decode(wrapped(jpeg)).astype(int) - files.ramp()).max() < 12
    at = jpeg.index(b"\xff\xc0") + 5
    assert reason(wrapped(jpeg[:at] + b"\x9c\x40" * 2 + jpeg[at + 4 :])) == "has more than 64 megapixels"


def test_bad_dicoms_are_the_caller_s_to_fix(files):
    from pydicom.encaps import encapsulate

    whole = files.dicom()
    assert reason(whole[:-500]) == "is broken or truncated"
    assert "DICOM" in reason(whole[:140]) or reason(whole[:140]) == "is broken or truncated"
    assert reason(files.dicom(Rows=None)) == "is a DICOM file without an image"
    assert "not a radiograph" in reason(files.dicom(PhotometricInterpretation="PALETTE COLOR"))
    lossless = files.dicom(syntax="1.2.840.10008.1.2.4.70", PixelData=encapsulate([b"\xff\xd8\xff\xd9"]))
    assert "send it as Explicit VR Little Endian" in reason(lossless)
    assert "deflated" in reason(files.dicom(syntax="1.2.840.10008.1.2.1.99"))


def test_dicom_without_pydicom_names_the_cure(files, monkeypatch):
    content = files.dicom()
    monkeypatch.setitem(sys.modules, "pydicom", None)
    _pydicom.pydicom.cache_clear()
    with pytest.raises(MissingExtra, match=r"radrank\[dicom\]"):
        decode(content)


def test_a_plain_small_jpeg_is_its_own_preview(files):
    content = files.encoded(files.ramp())
    assert preview(content) == content


def test_a_preview_is_gray_small_and_bare(files):
    exif = Image.Exif()
    exif[0x010E] = "a name"
    plain = files.encoded(files.ramp())
    for content in (
        files.encoded(files.ramp(), exif=exif),
        files.encoded(files.ramp(), comment=b"a name"),
        plain + b"a name\xff\xd9",
        files.encoded(np.dstack([files.ramp()] * 3)),
        files.encoded(files.ramp(), "PNG"),
        files.encoded(files.ramp(900, 2400)),
        files.dicom(PatientName="a name"),
    ):
        shown = preview(content)
        image = Image.open(io.BytesIO(shown))
        assert shown != content
        assert b"a name" not in shown
        assert (image.format, image.mode) == ("JPEG", "L")
        assert max(image.size) <= 1024


def test_a_preview_of_a_large_jpeg_is_as_large_as_allowed(files):
    assert Image.open(io.BytesIO(preview(files.encoded(files.ramp(900, 2400)), 1024))).size == (1024, 384)


def test_a_preview_of_a_broken_image_is_refused(files):
    jpeg = files.encoded(files.ramp(400, 600))
    for content in (jpeg[:300], jpeg[: len(jpeg) // 2], b"text"):
        with pytest.raises(InvalidQuery):
            preview(content)
