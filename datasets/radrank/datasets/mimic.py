"""MIMIC-CXR-JPG and MIMIC-CXR, in PhysioNet's layout (Johnson et al., Scientific Data 2019;6:317).

    root/
    ├── files/p10/p10000032/s50414267/<dicom_id>.jpg (or .dcm)
    ├── files/p10/p10000032/s50414267.txt, or the same under mimic-cxr-reports/
    ├── mimic-cxr-2.0.0-metadata.csv.gz
    ├── mimic-cxr-2.0.0-chexpert.csv.gz     may be absent: no labels then
    └── mimic-cxr-2.0.0-split.csv.gz        may be absent: split by hash then

Each CSV may be unpacked.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from radrank.core.errors import BadStudy, NotFound
from radrank.core.studies import Split, Study, StudyImage, View
from radrank.datasets import mimic_report
from radrank.datasets._cells import date_of, normality, rows, snake, view_of
from radrank.datasets._reading import StudyReader, Tally, require

LAYOUT = "files/p10/p<subject>/s<study>/ and mimic-cxr-2.0.0-{metadata,chexpert,split}.csv.gz in one folder"

_SPLITS = {"train": Split.TRAIN, "validate": Split.VALIDATION, "test": Split.TEST}
_NO_FINDING = "no_finding"
_POSITIVE, _UNCERTAIN = 1.0, -1.0


@dataclass(frozen=True, slots=True)
class _Entry:
    """What the indexes say of one study; `images` are (dicom_id, view)."""

    study: str
    subject: str
    date: date | None
    images: list[tuple[str, View]] = field(default_factory=list)

    def __str__(self) -> str:
        return f"p{self.subject[:2]}/p{self.subject}/s{self.study}"


class _Findings(NamedTuple):
    labels: tuple[str, ...] = ()
    uncertain: tuple[str, ...] = ()
    normal: bool | None = None


class MimicCXR(StudyReader[_Entry]):
    """The studies that the metadata lists, by subject and study number; ids are the CSV's bare numbers.

    Dates are MIMIC's shifted ones. Studies of which neither report nor image is on disk are left out, so a part of the
    collection (a few pXX folders) reads as well.
    """

    def __init__(self, root: Path, *, strict: bool = False) -> None:
        super().__init__(strict=strict)
        self._files = require(root / "files", kind="MIMIC-CXR folder", layout=LAYOUT)
        self._reports = (self._files, root / "mimic-cxr-reports" / "files")
        self._root = root
        self._metadata = self._table("metadata")
        if self._metadata is None:
            raise NotFound(
                "MIMIC-CXR folder",
                f"{root / 'mimic-cxr-2.0.0-metadata.csv.gz'} is missing (MIMIC-CXR-JPG brings it); expected {LAYOUT}",
            )

    def _table(self, kind: str) -> Path | None:
        found = [path for suffix in (".csv.gz", ".csv") for path in self._root.glob(f"mimic-cxr-*-{kind}{suffix}")]
        return max(found, default=None)

    def _find(self, tally: Tally) -> Sequence[_Entry]:
        assert self._metadata is not None
        self._note_faults(tally)
        entries: dict[str, _Entry] = {}
        columns = ("dicom_id", "subject_id", "study_id", "viewposition", "studydate")
        for where, row in rows(self._metadata, columns, tally):
            dicom, subject, study = row["dicom_id"], row["subject_id"], row["study_id"]
            # Bare numbers only: they become parts of paths.
            if not (dicom and subject.isdecimal() and study.isdecimal()):
                tally.skip(BadStudy(where, "dicom_id, subject_id and study_id must all stand"))
                continue
            try:
                taken = date_of(row["studydate"].partition(".")[0], where)
            except BadStudy as bad:
                tally.skip(bad)
                continue
            entry = entries.setdefault(study, _Entry(study, subject, taken))
            if entry.subject != subject:
                tally.skip(BadStudy(where, "the study stands under two subjects"))
                continue
            entry.images.append((dicom, view_of(row["viewposition"])))
        return sorted(entries.values(), key=lambda entry: (int(entry.subject), int(entry.study)))

    def _note_faults(self, tally: Tally) -> None:
        for faults in (self._chexpert[1], self._splits[1]):
            tally.add(faults)

    @cached_property
    def _splits(self) -> tuple[Mapping[str, Split], Tally]:
        """study_id → official split. It is by patient, so all images of a study agree."""
        tally, splits = Tally(), dict[str, Split]()
        for where, row in _optional_rows(self._table("split"), ("study_id", "split"), tally):
            if (split := _SPLITS.get(row["split"])) is None:
                tally.skip(BadStudy(where, f"the split is none of {', '.join(_SPLITS)}"))
            elif splits.setdefault(row["study_id"], split) is not split:
                tally.skip(BadStudy(where, "the study stands in two splits"))
        return splits, tally

    @cached_property
    def _chexpert(self) -> tuple[Mapping[str, _Findings], Tally]:
        """study_id → CheXpert's labels."""
        tally, findings = Tally(), dict[str, _Findings]()
        for where, row in _optional_rows(self._table("chexpert"), ("subject_id", "study_id"), tally):
            try:
                findings[row["study_id"]] = _findings_of(row)
            except ValueError:
                tally.skip(BadStudy(where, "a label is none of 1.0, 0.0, -1.0 or empty"))
        return findings, tally

    def _read(self, source: _Entry, tally: Tally) -> Study | None:
        patient = Path(f"p{source.subject[:2]}") / f"p{source.subject}"
        images = tuple(self._images_of(self._files / patient / f"s{source.study}", source.images, tally))
        report = mimic_report.split(self._report_of(patient / f"s{source.study}.txt"))
        if not images and not any(report):
            tally.leave_out("neither report nor image")
            return None
        labels = self._chexpert[0].get(source.study, _Findings())
        return Study(
            study_id=source.study,
            patient_id=source.subject,
            images=images,
            findings=report.findings,
            impression=report.impression,
            labels=labels.labels,
            uncertain=labels.uncertain,
            normal=labels.normal,
            date=source.date,
            split=self._splits[0].get(source.study),
        )

    def _images_of(self, folder: Path, images: Collection[tuple[str, View]], tally: Tally) -> Iterator[StudyImage]:
        for dicom, view in dict(images).items():
            paths = (folder / f"{dicom}{suffix}" for suffix in (".jpg", ".dcm"))
            if path := next((path for path in paths if path.is_file()), None):
                yield StudyImage(image_id=dicom, content=path, view=view)
            else:
                tally.leave_out("image file is missing")

    def _report_of(self, name: Path) -> str:
        for folder in self._reports:
            if (path := folder / name).is_file():
                try:
                    return path.read_text(encoding="utf-8")
                except UnicodeDecodeError:
                    raise BadStudy(str(name), "is not UTF-8") from None
        return ""


def _optional_rows(path: Path | None, columns: Collection[str], tally: Tally) -> Iterator[tuple[str, dict[str, str]]]:
    return iter(()) if path is None else rows(path, columns, tally)


def _findings_of(row: Mapping[str, str]) -> _Findings:
    """Raises ValueError where a cell is no label value."""
    values = {snake(name): float(cell) for name, cell in row.items() if cell and name not in ("subject_id", "study_id")}
    if not set(values.values()) <= {_POSITIVE, 0.0, _UNCERTAIN}:
        raise ValueError
    stated = values.pop(_NO_FINDING, 0.0) == _POSITIVE
    labels = tuple(sorted(name for name, value in values.items() if value == _POSITIVE))
    uncertain = tuple(sorted(name for name, value in values.items() if value == _UNCERTAIN))
    return _Findings(labels, uncertain, normality(labels, stated=stated))
