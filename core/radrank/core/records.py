"""A study as the archive stores it: what was said of it, and its vectors in one bundle's space."""

from __future__ import annotations

from dataclasses import dataclass, field

from radrank.core.columns import VIEW_CODES, view_bits
from radrank.core.studies import Study
from radrank.core.vectors import Matrix, Vector, fused


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageItem:
    """All images of a study as the one item that is searched.

    vector: float32 [d], unit, of all images together
    position: place of the primary image among the study's; view: code of its view; views: bits of all images' views
    """

    vector: Vector = field(repr=False)
    position: int
    view: int
    views: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """study: with image contents replaced by their previews (JPEG bytes)
    image_vectors: float32 [images, d], unit, in the order of study.images
    report_vector: float32 [d], unit, or None where the study has no report
    """

    study: Study
    image_vectors: Matrix = field(repr=False)
    report_vector: Vector | None = field(repr=False)

    @property
    def image_item(self) -> ImageItem | None:
        """None where the study has no image."""
        images, primary = self.study.images, self.study.primary_image
        if primary is None:
            return None
        return ImageItem(
            vector=fused(self.image_vectors),
            position=images.index(primary),
            view=VIEW_CODES[primary.view],
            views=view_bits(image.view for image in images),
        )
