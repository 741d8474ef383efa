"""What is known of every study, as columns: for filters, exclusion, grouping and order."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from radrank.core.filters import Filters
from radrank.core.studies import Study, View

VIEW_CODES: Mapping[View, int] = {view: code for code, view in enumerate(View)}
NORMAL_CODES: Mapping[bool | None, int] = {True: 1, False: -1, None: 0}


def view_bits(views: Iterable[View]) -> int:
    """A bit for each view among these; all fit 8 bits."""
    bits = 0
    for view in views:
        bits |= 1 << VIEW_CODES[view]
    return bits


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyColumns:
    """One row a study, sorted by id.

    ids: bytes [n], UTF-8; patients: int64 [n], hash of the patient id, 0 without one
    normal: int8 [n], 1 normal, −1 abnormal, 0 unknown; dates: int32 [n], days from year 1, 0 unknown
    labels: for each label the ascending rows that carry it
    """

    ids: NDArray[np.bytes_]
    patients: NDArray[np.int64]
    normal: NDArray[np.int8]
    dates: NDArray[np.int32]
    labels: Mapping[str, NDArray[np.int32]]

    def __len__(self) -> int:
        return len(self.ids)

    def find(self, study_id: str) -> int | None:
        """The row of a study, or None."""
        key = study_id.encode()
        if not len(self.ids) or len(key) > self.ids.dtype.itemsize:
            return None  # longer than any id: numpy would cut it to a prefix
        row = int(np.searchsorted(self.ids, np.bytes_(key)))
        return row if row < len(self.ids) and bytes(self.ids[row]) == key else None

    def allowed(self, filters: Filters) -> NDArray[np.bool_]:
        """Which studies pass everything but the views. bool [n]"""
        mask = np.ones(len(self), dtype=np.bool_)
        if filters.labels_any:
            mask &= self._carrying(filters.labels_any)
        for label in filters.labels_all:
            mask &= self._carrying((label,))
        if filters.normal is not None:
            mask &= self.normal == NORMAL_CODES[filters.normal]
        if filters.since is not None:
            mask &= self.dates >= filters.since.toordinal()
        if filters.until is not None:
            mask &= (self.dates <= filters.until.toordinal()) & (self.dates > 0)
        return mask

    def findings(self, groups: Sequence[str]) -> NDArray[np.uint8]:
        """What is known of every study: uint8 [n, 1 + groups], normal first; all 0 where nothing is."""
        known = np.zeros((len(self), 1 + len(groups)), dtype=np.uint8)
        known[:, 0] = self.normal == NORMAL_CODES[True]
        for place, group in enumerate(groups, start=1):
            if group in self.labels:
                known[self.labels[group], place] = 1
        return known

    def _carrying(self, labels: Iterable[str]) -> NDArray[np.bool_]:
        mask = np.zeros(len(self), dtype=np.bool_)
        for label in labels:
            if label in self.labels:
                mask[self.labels[label]] = True
        return mask

    @classmethod
    def of(cls, studies: Sequence[Study]) -> StudyColumns:
        """Columns of studies that come sorted by the UTF-8 bytes of their ids."""
        carried: dict[str, list[int]] = {}
        for row, study in enumerate(studies):
            for label in study.labels:
                carried.setdefault(label, []).append(row)
        return cls(
            ids=np.array([study.study_id.encode() for study in studies] or [b""], dtype=np.bytes_)[: len(studies)],
            patients=np.array([_hashed(study.patient_id) for study in studies], dtype=np.int64),
            normal=np.array([NORMAL_CODES[study.normal] for study in studies], dtype=np.int8),
            dates=np.array([study.date.toordinal() if study.date else 0 for study in studies], dtype=np.int32),
            labels={label: np.array(rows, dtype=np.int32) for label, rows in sorted(carried.items())},
        )


def _hashed(patient_id: str) -> int:
    """64 bits of a patient's pseudonym: equal for equal ids, 0 for none."""
    if not patient_id:
        return 0
    return int.from_bytes(hashlib.blake2b(patient_id.encode(), digest_size=8).digest(), "little", signed=True) or 1
