"""From studies to the archive's records: images decoded by threads, encoded in batches, and kept as previews."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from radrank.core.errors import BadStudy, InvalidQuery
from radrank.core.ports import Encoder
from radrank.core.records import Record
from radrank.core.studies import Study, StudyImage
from radrank.core.vectors import Matrix, Vector
from radrank.datasets import pixels

BATCH = 32

OnBad = Callable[[BadStudy], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Decoded:
    """study: its images replaced by their previews; pixels: uint8 [S, S] each; bad: those that could not be read."""

    study: Study
    pixels: list[NDArray[np.uint8]]
    bad: list[tuple[int, StudyImage, InvalidQuery]]


def encode_studies(
    studies: Iterable[Study], encoder: Encoder, *, batch_size: int = BATCH, on_bad: OnBad | None = None
) -> Iterator[Record]:
    """A record for each study, in their order, as they come.

    batch_size: images encoded at once
    on_bad: told of every image that can't be decoded, and of studies of which nothing is left; they are skipped.
    Without it the first raises InvalidQuery("studies[3].images[0].content", …), counted from 0.
    """
    waiting: list[_Decoded] = []
    for place, decoded in enumerate(_decoded(studies, encoder.image_size)):
        for number, image, error in decoded.bad:
            if on_bad is None:
                raise InvalidQuery(f"studies[{place}].images[{number}].content", error.reason)
            on_bad(BadStudy(_where(decoded.study, image), error.reason))
        if not decoded.pixels and not decoded.study.report:
            if on_bad is None:
                raise InvalidQuery(f"studies[{place}]", "has neither images nor a report")
            on_bad(BadStudy(f"study {decoded.study.study_id}", "has neither a readable image nor a report"))
            continue
        waiting.append(decoded)
        if sum(max(1, len(one.pixels)) for one in waiting) >= batch_size:
            yield from _encoded(waiting, encoder, batch_size)
            waiting = []
    yield from _encoded(waiting, encoder, batch_size)


def _decoded(studies: Iterable[Study], size: int) -> Iterator[_Decoded]:
    """Decodes a few studies ahead: no more, since a study as it was sent may be large."""
    threads = min(4, os.cpu_count() or 1)
    ahead: deque[Future[_Decoded]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
    try:
        for study in studies:
            ahead.append(pool.submit(_decode, study, size))
            if len(ahead) > 2 * threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _decode(study: Study, size: int) -> _Decoded:
    kept: list[StudyImage] = []
    found: list[NDArray[np.uint8]] = []
    bad: list[tuple[int, StudyImage, InvalidQuery]] = []
    for number, image in enumerate(study.images):
        try:
            content = image.read()
            gray, preview = pixels.load(content, size), pixels.preview(content)
        except InvalidQuery as error:
            bad.append((number, image, error))
        except OSError as error:
            bad.append((number, image, InvalidQuery("image", f"can't be read: {error.strerror}")))
        else:
            found.append(gray)
            kept.append(replace(image, content=preview))
    return _Decoded(study=replace(study, images=tuple(kept)), pixels=found, bad=bad)


def _encoded(batch: Sequence[_Decoded], encoder: Encoder, batch_size: int) -> Iterator[Record]:
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
    parts = [np.empty((0, encoder.dimensions), dtype=np.float32)]
    for start in range(0, len(images), batch_size):
        parts.append(encoder.encode_images(np.stack(images[start : start + batch_size])))
    return np.concatenate(parts)


def _reports(texts: Sequence[str], encoder: Encoder) -> Iterable[Vector]:
    return encoder.encode_texts(texts) if texts else ()


def _where(study: Study, image: StudyImage) -> str:
    """For the person who owns the data set."""
    return str(image.content) if isinstance(image.content, Path) else f"study {study.study_id}, image {image.image_id}"
