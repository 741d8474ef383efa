"""Matched for normals: what is left of a gain when the embedding's share of normals in the top 10 is restored.

A third of an archive is normal, so a method that puts normal entries first gains on every mean without finding
anything. One offset on p(normal), found on validation, takes that gain away or gives it back.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from radrank.evaluation.metrics import Scores, completed, normals_share
from radrank.evaluation.trial import Trial

__all__ = ["completed", "find_offset", "standardised", "with_offset"]

_WIDEST = 1024.0  # in standard deviations of a query's scores: here p(normal) alone decides
_FINEST = 1e-5


def standardised(trial: Trial, scores: Scores) -> NDArray[np.float64]:
    """Each query's scores with mean 0 and deviation 1 over the entries that the method ranked.

    Ranked are the valid entries with a finite score; the others are −inf in the float64 [q, n] that is returned.
    """
    ranked = trial.valid & np.isfinite(scores)
    count = np.maximum(ranked.sum(axis=1, keepdims=True), 1)
    centred = np.where(ranked, scores, 0.0).astype(np.float64)
    centred = np.where(ranked, centred - centred.sum(axis=1, keepdims=True) / count, 0.0)
    deviation = np.sqrt((centred**2).sum(axis=1, keepdims=True) / count)
    return np.where(ranked, centred / np.where(deviation > 0.0, deviation, 1.0), -np.inf)


def with_offset(trial: Trial, scores: Scores, offset: float) -> NDArray[np.float64]:
    """Standardised scores plus offset · p(normal), float64 [q, n]; −inf where the method did not rank.

    p(normal) is the encoder's own, never the label. Entries not ranked stay behind, in cosine order (`completed`).
    """
    return standardised(trial, scores) + offset * (1.0 - trial.gallery_abnormal.astype(np.float64))


def find_offset(trial: Trial, scores: Scores, wanted_share: float) -> float:
    """The offset with which the mean share of normals in the top 10, over all queries, comes nearest wanted_share.

    By bisection: the share grows with the offset as far as p(normal) agrees with the labels. A share that no offset
    reaches gets the end of the search.
    """

    def excess(offset: float) -> float:
        return float(normals_share(trial, with_offset(trial, scores, offset)).mean()) - wanted_share

    here = excess(0.0)
    if here == 0.0:
        return 0.0
    near, far = 0.0, -float(np.sign(here))
    while (far_excess := excess(far)) * here > 0.0 and abs(far) < _WIDEST:
        near, here, far = far, far_excess, 2.0 * far
    while abs(far - near) > _FINEST * max(1.0, abs(far)) and far_excess * here < 0.0:
        middle = (near + far) / 2.0
        found = excess(middle)
        if found * here > 0.0:
            near, here = middle, found
        else:
            far, far_excess = middle, found
    return near if abs(here) < abs(far_excess) else far
