"""What a JPEG's segments say, before anything is decoded (ITU-T T.81, annex B)."""

from __future__ import annotations

from collections.abc import Iterator

SOF = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}

_TABLES = {0xC4, 0xDB, 0xDD}
_JFIF, _SOS = 0xE0, 0xDA
_BARE_JFIF = 14  # bytes: no thumbnail


def segments(content: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Marker, the offset behind the segment, and its payload; ends with the first scan or the first disorder."""
    at = 2
    while at + 4 <= len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        end = at + 2 + max(2, int.from_bytes(content[at + 2 : at + 4], "big"))
        yield marker, end, content[at + 4 : end]
        if marker == _SOS:
            return
        at = end


def size(content: bytes) -> tuple[int, int] | None:
    """Width and height, the largest that any frame header announces; None where there is no frame header."""
    sizes = [
        (int.from_bytes(payload[3:5], "big"), int.from_bytes(payload[1:3], "big"))
        for marker, _, payload in segments(content)
        if marker in SOF
    ]
    return max(sizes, key=lambda pair: pair[0] * pair[1], default=None)


def is_plain(content: bytes) -> bool:
    """Whether a JPEG is gray and bare: frame, tables, at most an empty JFIF header, and nothing after its end."""
    for marker, end, payload in segments(content):
        if marker == _SOS:
            # In coded data FF D9 can only be the end; further scans' tables may hold it, and are then re-encoded.
            return content.find(b"\xff\xd9", end) == len(content) - 2
        gray_frame = marker in (0xC0, 0xC1, 0xC2) and payload[5:6] == b"\x01"
        if not (marker in _TABLES or gray_frame or (marker == _JFIF and len(payload) == _BARE_JFIF)):
            return False
    return False
