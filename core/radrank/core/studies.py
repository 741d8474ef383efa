"""A study: one examination of one patient, its images and its report, as every reader yields it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum
from pathlib import Path


class Modality(StrEnum):
    """The two kinds of item a study holds."""

    IMAGE = "image"
    REPORT = "report"

    @property
    def other(self) -> Modality:
        return Modality.REPORT if self is Modality.IMAGE else Modality.IMAGE


class View(StrEnum):
    """The projection of a radiograph. FRONTAL is a frontal of unknown direction (Open-i says no more)."""

    PA = "PA"
    AP = "AP"
    FRONTAL = "FRONTAL"
    LATERAL = "LATERAL"
    UNKNOWN = "UNKNOWN"


class Split(StrEnum):
    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


# PA before AP before unknown; a lateral stands for its study only where there is nothing else.
PRIMARY_ORDER = (View.PA, View.FRONTAL, View.AP, View.UNKNOWN, View.LATERAL)


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyImage:
    """One radiograph. `content` is the encoded file (JPEG, PNG or DICOM), or the path to it.

    `image_id` is unique within its study.
    """

    image_id: str
    content: bytes | Path = field(repr=False)
    view: View = View.UNKNOWN

    def read(self) -> bytes:
        """The encoded bytes. Raises OSError where the file cannot be read."""
        return self.content if isinstance(self.content, bytes) else self.content.read_bytes()


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """One study of the archive.

    labels: finding groups in lower snake case, sorted, such as ("cardiomegaly", "opacity"); empty for a normal study.
    uncertain: findings that the source calls uncertain (CheXpert's −1).
    normal: True, False, or None where the source does not say.
    split: the source's official split, where it has one.
    """

    study_id: str
    patient_id: str = ""
    images: tuple[StudyImage, ...] = ()
    findings: str = field(default="", repr=False)
    impression: str = field(default="", repr=False)
    labels: tuple[str, ...] = ()
    uncertain: tuple[str, ...] = ()
    normal: bool | None = None
    date: date | None = None
    split: Split | None = None

    @property
    def report(self) -> str:
        """Findings, then impression: the text that is embedded."""
        return "\n".join(part for part in (self.findings.strip(), self.impression.strip()) if part)

    @property
    def primary_image(self) -> StudyImage | None:
        """The frontal that stands for the study: PA before AP before unknown before lateral."""
        return min(self.images, key=lambda image: PRIMARY_ORDER.index(image.view), default=None)


def hashed_split(study_id: str) -> Split:
    """The split of a study whose source has none: 70 % train, 10 % validation, 20 % test, by its id alone."""
    bucket = int(hashlib.sha256(f"split:{study_id}".encode()).hexdigest(), 16) % 100
    if bucket < 70:
        return Split.TRAIN
    return Split.VALIDATION if bucket < 80 else Split.TEST


def split_of(study: Study) -> Split:
    """The official split, else the hashed one."""
    return study.split or hashed_split(study.study_id)
