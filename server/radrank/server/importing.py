"""From studies to the archive's records: images decoded by threads, encoded in batches, and kept as previews."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from radrank.core.errors import BadStudy, InvalidQuery
from radrank.core.ports import Encoder
from radrank.core.records import Record
from radrank.core.studies import Study, StudyImage
from radrank.core.vectors import Matrix, Vector
from radrank.datasets import pixels
from radrank.datasets.decoding import Decoded, decoded

BATCH = 32

OnBad = Callable[[BadStudy], None]


def encode_studies(
    studies: Iterable[Study], encoder: Encoder, *, batch_size: int = BATCH, on_bad: OnBad | None = None
) -> Iterator[Record]:
    """A record for each study, in their order, as they come.

    batch_size: images encoded at once
    on_bad: told of every image that can't be decoded, and of studies of which nothing is left; they are skipped.
    Without it the first raises InvalidQuery("studies[3].images[0].content", …), counted from 0.
    """
    waiting: list[Decoded] = []
    threads = min(4, os.cpu_count() or 1)
    for place, one in enumerate(decoded(studies, encoder.image_size, workers=threads, keep=_as_preview)):
        for number, image, error in one.bad:
            if on_bad is None:
                raise InvalidQuery(f"studies[{place}].images[{number}].content", error.reason)
            on_bad(BadStudy(_where(one.study, image), error.reason))
        if not one.pixels and not one.study.report:
            if on_bad is None:
                raise InvalidQuery(f"studies[{place}]", "has neither images nor a report")
            on_bad(BadStudy(f"study {one.study.study_id}", "has neither a readable image nor a report"))
            continue
        waiting.append(one)
        if sum(max(1, len(held.pixels)) for held in waiting) >= batch_size:
            yield from _encoded(waiting, encoder, batch_size)
            waiting = []
    yield from _encoded(waiting, encoder, batch_size)


def _as_preview(image: StudyImage, content: bytes) -> StudyImage:
    return replace(image, content=pixels.preview(content))


def _encoded(batch: Sequence[Decoded], encoder: Encoder, batch_size: int) -> Iterator[Record]:
    vectors = _images([image for one in batch for image in one.pixels], encoder, batch_size)
    reports = iter(_reports([one.study.report for one in batch if one.study.report], encoder))
    start = 0
    for one in batch:
        end = start + len(one.pixels)
        yield Record(
            study=one.study,
            image_vectors=vectors[start:end],
            report_vector=next(reports) if one.study.report else None,
        )
        start = end


def _images(images: Sequence[NDArray[np.uint8]], encoder: Encoder, batch_size: int) -> Matrix:
    parts = [np.empty((0, encoder.layout.dimensions), dtype=np.float32)]
    for start in range(0, len(images), batch_size):
        parts.append(encoder.encode_images(np.stack(images[start : start + batch_size])))
    return np.concatenate(parts)


def _reports(texts: Sequence[str], encoder: Encoder) -> Iterable[Vector]:
    return encoder.encode_texts(texts) if texts else ()


def _where(study: Study, image: StudyImage) -> str:
    """For the person who owns the data set."""
    return str(image.content) if isinstance(image.content, Path) else f"study {study.study_id}, image {image.image_id}"
