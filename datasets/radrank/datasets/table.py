"""Any collection as one CSV table: a row is an image, a report, or both.

Columns: study_id; then any of image (a path, relative to the CSV), view, report, findings, impression, labels, normal,
patient_id, date (ISO) and split (train, validation, test). Other columns are not read. Rows of one study_id are one
study. Labels are parted by ";", "|", "/" or ","; "normal" and "No Finding" are said of a study, and are no labels.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from radrank.core.errors import BadStudy, NotFound
from radrank.core.studies import Split, Study, StudyImage
from radrank.datasets._cells import date_of, natural, normality, rows, snake, view_of
from radrank.datasets._reading import StudyReader, Tally, require

T = TypeVar("T")

LAYOUT = "a CSV file, or a folder with studies.csv, whose header has study_id and image or report"

_NORMAL = {"normal", "no_finding", "no_findings"}
_TRUTH = {"true": True, "1": True, "1.0": True, "yes": True, "false": False, "0": False, "0.0": False, "no": False}
_SPLITS = {split.value: split for split in Split} | {"validate": Split.VALIDATION, "val": Split.VALIDATION}


@dataclass(frozen=True, slots=True)
class _Row:
    """One row, read. A study is a list of them."""

    where: str
    study: Study
    stated: bool = field(kw_only=True)  # its labels say "normal"


class Table(StudyReader[list[_Row]]):
    """The studies of a CSV table, by id.

    A row whose image file is missing, or that contradicts an earlier row of its study, is skipped.
    """

    def __init__(self, path: Path, *, strict: bool = False) -> None:
        super().__init__(strict=strict)
        path = path / "studies.csv" if path.is_dir() else path
        self._path = require(path, kind="CSV table", layout=LAYOUT)

    def _find(self, tally: Tally) -> Sequence[list[_Row]]:
        studies: dict[str, list[_Row]] = {}
        for where, cells in rows(self._path, ("study_id",), tally):
            if not cells.keys() & {"image", "report", "findings", "impression"}:
                raise NotFound("column image or report", f"{self._path.name} must be {LAYOUT}")
            try:
                row = self._row(where, cells)
                known = studies.setdefault(row.study.study_id, [])
                _agree(row, known)
                known.append(row)
            except BadStudy as bad:
                tally.skip(bad)
        return [studies[study_id] for study_id in sorted(studies, key=natural) if studies[study_id]]

    def _row(self, where: str, cells: dict[str, str]) -> _Row:
        if not cells["study_id"]:
            raise BadStudy(where, "has no study_id")
        labels = {snake(label) for label in re.split(r"[;|/,]", cells.get("labels", ""))} - {""}
        sectioned = cells.get("findings") or cells.get("impression")
        return _Row(
            where,
            Study(
                study_id=cells["study_id"],
                patient_id=cells.get("patient_id", ""),
                images=self._images(where, cells),
                findings=cells.get("findings", "") if sectioned else cells.get("report", ""),
                impression=cells.get("impression", ""),
                labels=tuple(sorted(labels - _NORMAL)),
                normal=_choice(_TRUTH, "normal", where, cells),
                date=date_of(cells.get("date", ""), where),
                split=_choice(_SPLITS, "split", where, cells),
            ),
            stated=bool(labels & _NORMAL),
        )

    def _images(self, where: str, cells: dict[str, str]) -> tuple[StudyImage, ...]:
        if not (name := cells.get("image", "")):
            return ()
        if not (path := self._path.parent / name).is_file():
            raise BadStudy(where, f"the image file {name} is missing")
        return (StudyImage(image_id=name, content=path, view=view_of(cells.get("view", ""))),)

    def _read(self, source: list[_Row], tally: Tally) -> Study | None:
        parts = [row.study for row in source]
        labels = tuple(sorted({label for part in parts for label in part.labels}))
        said = {part.normal for part in parts if part.normal is not None}
        study = Study(
            study_id=parts[0].study_id,
            patient_id=_first(parts, lambda part: part.patient_id) or "",
            images=tuple({image.image_id: image for part in parts for image in part.images}.values()),
            findings=_joined(part.findings for part in parts),
            impression=_joined(part.impression for part in parts),
            labels=labels,
            normal=all(said) if said else normality(labels, stated=any(row.stated for row in source)),
            date=min((part.date for part in parts if part.date), default=None),
            split=_first(parts, lambda part: part.split),
        )
        if not study.report and not study.images:
            tally.leave_out("neither report nor image")
            return None
        return study


def _agree(row: _Row, known: Sequence[_Row]) -> None:
    for name in ("patient_id", "split"):
        value = getattr(row.study, name)
        if value and any(getattr(other.study, name) not in ("", None, value) for other in known):
            raise BadStudy(row.where, f"its {name} is not that of the study's earlier rows")


def _choice(table: Mapping[str, T], column: str, where: str, cells: Mapping[str, str]) -> T | None:
    """What the cell chooses; None where it is empty. Raises BadStudy."""
    cell = cells.get(column, "").lower()
    if cell and cell not in table:
        raise BadStudy(where, f"{column} is none of {', '.join(table)}")
    return table[cell] if cell else None


def _first(parts: Iterable[Study], get: Callable[[Study], T | None]) -> T | None:
    return next((value for part in parts if (value := get(part))), None)


def _joined(texts: Iterable[str]) -> str:
    """Distinct texts in their order: a study's rows often repeat its report."""
    return "\n".join(dict.fromkeys(text for text in texts if text))
