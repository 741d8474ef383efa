"""What a caller asks, in plain Python types."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from os import PathLike
from typing import Any, Literal, TypeAlias, TypedDict

import numpy as np
from numpy.typing import NDArray

ImageFile: TypeAlias = bytes | str | PathLike[str]
"""The bytes of a JPEG, PNG or DICOM file, or the path of one. At most 64 megapixels."""

Modality: TypeAlias = Literal["image", "report"]
View: TypeAlias = Literal["pa", "ap", "frontal", "lateral"]


class QueryOptions(TypedDict, total=False):
    """Who asks: exactly one of these."""

    image: ImageFile | None
    text: str | None
    embedding: NDArray[np.floating[Any]] | None
    """[d], finite, not all zero; any length."""
    study: str | None
    """The id of a study of the archive; it is never among its own hits."""


class SearchOptions(QueryOptions, total=False):
    """Keywords of a search."""

    modality: Modality | None
    """Of the embedding (image where absent), or which item of the study asks."""
    target: Modality | None
    """What to rank. Absent: reports for an image, images for a text."""
    k: int
    """Hits wanted, 1 to 1,000; 10 where absent."""
    candidates: int
    """First-stage candidates to re-rank, k to 1,000. 0: the server's default."""
    reranker: str | None
    """By name; "off" for the encoder's own order. Absent: the bundle's default."""
    views: Sequence[str]
    labels_any: Sequence[str]
    labels_all: Sequence[str]
    normal: bool | None
    """True: normal studies only. False: abnormal only."""
    date_from: date | None
    date_to: date | None
    exclude: Sequence[str]
    """Study ids left out of hits and graph; at most 1,000."""
    one_per_patient: bool
    allow_degraded: bool
    """Where the deadline leaves too little time to re-rank: the encoder's own order instead of no reply."""
    include_report: bool
    include_labels: bool
    include_preview: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class NewImage:
    """An image to add. Empty `image_id`: its place in the study."""

    content: ImageFile
    view: str = ""
    image_id: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class NewStudy:
    """A study to add or replace. Images or report may be absent, not both. Ids are pseudonyms.

    images: at most 32
    findings, impression: at most 64 KiB each
    labels: finding labels, lower snake case; at most 64
    normal: None where unknown
    """

    study_id: str
    patient_id: str = ""
    images: Sequence[NewImage] = ()
    findings: str = ""
    impression: str = ""
    labels: Sequence[str] = ()
    normal: bool | None = None
    date: date | None = None
