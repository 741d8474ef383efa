"""The images of studies as pixels: decoded on threads, a few studies ahead, broken ones told apart."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from radrank.core.errors import InvalidQuery
from radrank.core.studies import Study, StudyImage
from radrank.datasets import pixels

Keep = Callable[[StudyImage, bytes], StudyImage]
"""What is kept of an image that was decoded, from it and its encoded bytes. Raises InvalidQuery."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoded:
    """study: with the images that could be read, as they were kept; pixels: uint8 [S, S], gray, one of each
    bad: the others, with their places among the study's images and what is wrong with them
    """

    study: Study
    pixels: list[NDArray[np.uint8]]
    bad: list[tuple[int, StudyImage, InvalidQuery]]


def decoded(
    studies: Iterable[Study], size: int, *, workers: int, keep: Keep = lambda image, _: image
) -> Iterator[Decoded]:
    """Every study with its images at `size`, in order. No more than a few are ahead, since a study may be large."""
    ahead: deque[Future[Decoded]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    try:
        for study in studies:
            ahead.append(pool.submit(_decode, study, size, keep))
            if len(ahead) > 2 * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _decode(study: Study, size: int, keep: Keep) -> Decoded:
    kept: list[StudyImage] = []
    found: list[NDArray[np.uint8]] = []
    bad: list[tuple[int, StudyImage, InvalidQuery]] = []
    for number, image in enumerate(study.images):
        try:
            content = image.read()
            gray, held = pixels.load(content, size), keep(image, content)
        except InvalidQuery as error:
            bad.append((number, image, error))
        except OSError as error:
            bad.append((number, image, InvalidQuery("image", f"can't be read: {error.strerror}")))
        else:
            found.append(gray)
            kept.append(held)
    return Decoded(study=replace(study, images=tuple(kept)), pixels=found, bad=bad)
