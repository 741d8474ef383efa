"""Made-up vectors for measurements of size: clusters, and the shift between modalities that dual encoders show.

Their moments are near those of the heads trained on Open-i (features of 3,060 studies; here the same number of rows):

                                          Open-i         made up
mean cosine within / across modalities    0.27 / 0.21    0.28 / 0.21
cosine of the 100th neighbour, i→i, i→r   0.51, 0.44     0.54, 0.45
participation ratio of the covariance     37 and 19      27
local intrinsic dimension (k = 20)        32 and 13      30
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from radrank.core.studies import Modality
from radrank.core.vectors import Matrix, unit

BLOCK = 8_192  # studies drawn at a time: a study's vectors depend on its number alone
_CLUSTERS = 1_000
# Shares of a vector's squared length: common to all, the modality's own, the cluster, the study, what is left.
_COMMON, _SHIFT, _CLUSTER, _STUDY, _REST = 0.2, 0.065, 0.25, 0.2, 0.285
_HELD_OUT = 1 << 30  # number of the first study that no gallery holds


class ClusteredSpace:
    """Unit vectors of studies 0, 1, 2, …: both of a study share a cluster and a place in it.

    dimensions: of a vector, at least 3
    """

    def __init__(self, dimensions: int, *, seed: int = 0) -> None:
        rng = np.random.default_rng([seed, 0])
        spectrum = (np.arange(dimensions) + 2.0) ** -1.2
        self._spread = np.sqrt(spectrum / spectrum.sum())
        axes = np.linalg.qr(rng.normal(size=(dimensions, 3)))[0].T
        self._offsets = {
            m: np.sqrt(_COMMON) * axes[0] + np.sqrt(_SHIFT) * axes[1 + place] for place, m in enumerate(Modality)
        }
        self._centres = np.sqrt(_CLUSTER) * self._spread * rng.normal(size=(_CLUSTERS, dimensions))
        sizes = np.arange(1, _CLUSTERS + 1) ** -0.5  # a few findings are everywhere, most are rare
        self._sizes = sizes / sizes.sum()
        self._seed = seed
        self.dimensions = dimensions

    def studies(self, start: int, stop: int) -> Iterator[Mapping[Modality, Matrix]]:
        """Vectors of these studies, a block at a time: float32 [≤ BLOCK, d] of each modality, row by row."""
        for block in range(start // BLOCK, -(-stop // BLOCK)):
            vectors = self._block(block)
            first = block * BLOCK
            rows = slice(max(0, start - first), min(BLOCK, stop - first))
            yield {m: one[rows] for m, one in vectors.items()}

    def held_out(self, count: int) -> Mapping[Modality, Matrix]:
        """Vectors of studies that are in no gallery: what new queries are."""
        blocks = list(self.studies(_HELD_OUT, _HELD_OUT + count))
        return {m: np.concatenate([block[m] for block in blocks]) for m in Modality}

    def _block(self, number: int) -> dict[Modality, Matrix]:
        rng = np.random.default_rng([self._seed, 1, number])
        shape = (BLOCK, self.dimensions)
        clusters = rng.choice(_CLUSTERS, size=BLOCK, p=self._sizes)
        shared = self._centres[clusters] + np.sqrt(_STUDY) * self._spread * rng.normal(size=shape)
        return {
            m: unit(self._offsets[m] + shared + np.sqrt(_REST) * self._spread * rng.normal(size=shape))
            for m in Modality
        }


def write_vectors(
    space: ClusteredSpace, m: Modality, rows: int, path: Path, *, step: Callable[[int], None] = lambda _: None
) -> NDArray[np.float32]:
    """The first `rows` studies' vectors of one modality as a .npy file; returns it memory-mapped.

    step: called with how many rows are written
    """
    fresh = path.with_name(path.name + ".new")
    written = np.lib.format.open_memmap(fresh, mode="w+", dtype=np.float32, shape=(rows, space.dimensions))
    done = 0
    for block in space.studies(0, rows):
        written[done : done + len(block[m])] = block[m]
        done += len(block[m])
        step(done)
    written.flush()
    del written
    fresh.replace(path)
    mapped: NDArray[np.float32] = np.load(path, mmap_mode="r")
    return mapped
