"""Checks of the contract's fields. Every fault is InvalidQuery with the field's name; its value is not repeated."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import date
from typing import TypeVar

from radrank.core.errors import InvalidQuery
from radrank.core.studies import Modality, View
from radrank.v1 import types_pb2

ID_BYTES = 256
TEXT_BYTES = 64 * 1024
LABELS = 64

VIEW_NUMBERS: Mapping[View, types_pb2.View] = {
    View.UNKNOWN: types_pb2.VIEW_UNSPECIFIED,
    View.PA: types_pb2.VIEW_PA,
    View.AP: types_pb2.VIEW_AP,
    View.FRONTAL: types_pb2.VIEW_FRONTAL,
    View.LATERAL: types_pb2.VIEW_LATERAL,
}
MODALITY_NUMBERS: Mapping[Modality, types_pb2.Modality] = {
    Modality.IMAGE: types_pb2.MODALITY_IMAGE,
    Modality.REPORT: types_pb2.MODALITY_REPORT,
}
VIEWS: Mapping[int, View] = {int(number): view for view, number in VIEW_NUMBERS.items()}
MODALITIES: Mapping[int, Modality | None] = {
    int(types_pb2.MODALITY_UNSPECIFIED): None,
    **{int(number): modality for modality, number in MODALITY_NUMBERS.items()},
}

_LABEL = re.compile(r"[a-z0-9]+(_[a-z0-9]+)*")

Core = TypeVar("Core")


def known(table: Mapping[int, Core], number: int, field: str) -> Core:
    """What an enum's number stands for."""
    if number not in table:
        raise InvalidQuery(field, "is a number that this version does not know")
    return table[number]


def identifier(value: str, field: str, *, required: bool = True) -> str:
    """An id: at most 256 bytes, no control characters, and more than blanks where it is required."""
    if not value and not required:
        return value
    if not value.strip():
        raise InvalidQuery(field, "must hold 1 to 256 bytes, not only blanks")
    if len(value.encode()) > ID_BYTES:
        raise InvalidQuery(field, f"is longer than {ID_BYTES} bytes")
    if any(unicodedata.category(letter) == "Cc" for letter in value):
        raise InvalidQuery(field, "holds control characters")
    return value


def words(value: str, field: str) -> str:
    """A part of a report: at most 64 KiB."""
    if len(value.encode()) > TEXT_BYTES:
        raise InvalidQuery(field, f"is longer than {TEXT_BYTES // 1024} KiB")
    return value


def labels(values: Sequence[str], field: str) -> tuple[str, ...]:
    """Finding labels in lower snake case, sorted, each once."""
    at_most(values, LABELS, field)
    for place, label in enumerate(values):
        if len(label) > ID_BYTES or not _LABEL.fullmatch(label):
            raise InvalidQuery(f"{field}[{place}]", "must be lower snake case, such as pleural_effusion")
    return tuple(sorted(set(values)))


def day(value: types_pb2.Date, field: str) -> date:
    """A day of the calendar."""
    try:
        return date(value.year, value.month, value.day)
    except (ValueError, OverflowError):
        raise InvalidQuery(field, "is no day of the calendar, year 1 to 9999") from None


def at_most(values: Sequence[object], limit: int, field: str) -> None:
    if len(values) > limit:
        raise InvalidQuery(field, f"has more than {limit:,} entries")
