"""A study as the archive stores it: what was said of it, and its vectors in one bundle's space."""

from __future__ import annotations

from dataclasses import dataclass, field

from radrank.core.studies import Study
from radrank.core.vectors import Matrix, Vector


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """study: with image contents replaced by their previews (JPEG bytes)
    image_vectors: float32 [images, d], unit, in the order of study.images
    report_vector: float32 [d], unit, or None where the study has no report
    """

    study: Study
    image_vectors: Matrix = field(repr=False)
    report_vector: Vector | None = field(repr=False)
