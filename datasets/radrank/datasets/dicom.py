"""A folder of DICOM files, in any nesting: studies are what the headers say they are.

Images alone come from here: reports live elsewhere (join them as a CSV table).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from radrank.core.errors import BadStudy
from radrank.core.studies import Study, StudyImage
from radrank.datasets._cells import date_of, natural, view_of
from radrank.datasets._pydicom import pydicom
from radrank.datasets._reading import StudyReader, Tally, require

LAYOUT = "a folder with DICOM files in any nesting"

# DR is no defined term of PS3.3 C.7.3.1.1.1, but detectors write it.
_RADIOGRAPHY = {"CR", "DX", "DR", ""}
_TAGS = [
    "Modality",
    "PatientID",
    "SOPInstanceUID",
    "StudyDate",
    "StudyInstanceUID",
    "ViewPosition",
]


@dataclass(slots=True)
class _Group:
    """The images of one StudyInstanceUID."""

    study_id: str
    patient_id: str
    date: date | None
    images: dict[str, StudyImage] = field(default_factory=dict)

    def __str__(self) -> str:
        return str(next(iter(self.images.values())).content)


class DicomFolder(StudyReader[_Group]):
    """The radiography studies of a folder, by StudyInstanceUID. Image ids are SOPInstanceUIDs.

    Only headers are read, once, at the first `len()` or `iter()`. Other modalities and files that are not DICOM are
    left out; a file that calls itself .dcm and is not is skipped as broken.
    """

    def __init__(self, root: Path, *, strict: bool = False) -> None:
        super().__init__(strict=strict)
        pydicom()
        self._root = require(root, kind="DICOM folder", layout=LAYOUT)

    def _find(self, tally: Tally) -> Sequence[_Group]:
        groups: dict[str, _Group] = {}
        for path in _files(self._root):
            try:
                self._file(path, groups, tally)
            except BadStudy as bad:
                tally.skip(bad)
        return sorted(groups.values(), key=lambda group: natural(group.study_id))

    def _file(self, path: Path, groups: dict[str, _Group], tally: Tally) -> None:
        where = path.relative_to(self._root).as_posix()
        if not _is_dicom(path, where):
            if path.suffix.lower() in (".dcm", ".dicom"):
                raise BadStudy(where, "is not a DICOM file")
            tally.leave_out("not a DICOM file")
            return
        header = _header(path, where)
        modality = header["Modality"]
        if modality not in _RADIOGRAPHY:
            tally.leave_out(f"modality {modality}")
            return
        study_id = header["StudyInstanceUID"]
        if not study_id:
            raise BadStudy(where, "has no StudyInstanceUID")
        group = groups.setdefault(study_id, _Group(study_id, header["PatientID"], _date(header["StudyDate"])))
        image_id = header["SOPInstanceUID"] or where
        if image_id in group.images:
            tally.leave_out("a copy of another file")
            return
        group.images[image_id] = StudyImage(image_id=image_id, content=path, view=view_of(header["ViewPosition"]))

    def _read(self, source: _Group, _tally: Tally) -> Study:
        return Study(
            study_id=source.study_id,
            patient_id=source.patient_id,
            images=tuple(source.images.values()),
            date=source.date,
        )


def _files(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        folders.sort(key=natural)
        for name in sorted(names, key=natural):
            if not name.startswith(".") and name.upper() != "DICOMDIR":
                yield Path(folder) / name


def _is_dicom(path: Path, where: str) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError as error:
        raise BadStudy(where, error.strerror or "can't be read") from None


def _header(path: Path, where: str) -> dict[str, str]:
    try:
        dataset: Any = pydicom().dcmread(path, stop_before_pixels=True, specific_tags=_TAGS)
        return {tag: str(dataset.get(tag) or "").strip() for tag in _TAGS}
    except Exception:  # noqa: BLE001 - pydicom raises anything on a broken file, and may quote it
        raise BadStudy(where, "the DICOM header is broken") from None


def _date(text: str) -> date | None:
    # A study without a usable date is still a study.
    try:
        return date_of(text.replace(".", ""), "")
    except BadStudy:
        return None
