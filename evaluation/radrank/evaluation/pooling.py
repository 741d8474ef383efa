"""Several trials as one: queries of each block against the entries of that block alone, judged together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radrank.core.errors import Mismatch
from radrank.evaluation.metrics import Scores, completed
from radrank.evaluation.trial import Trial

_PAIRWISE = ("valid", "pair", "strong", "weak", "jaccard")


def pooled_trial(trials: Sequence[Trial]) -> Trial:
    """Queries and entries one block after the other; an entry is valid for the queries of its own block only."""
    if len(trials) == 1:
        return trials[0]
    first = trials[0]
    parts: dict[str, Any] = {"source": first.source, "target": first.target}
    for field in fields(Trial):
        if field.name not in parts:
            values = [getattr(trial, field.name) for trial in trials]
            parts[field.name] = _diagonal(values) if field.name in _PAIRWISE else np.concatenate(values)
    return Trial(**parts)


def pooled_scores(trials: Sequence[Trial], scores: Sequence[Scores]) -> NDArray[np.float64]:
    """Scores float [q, n] of each block as scores of the pooled trial: finite where valid, else −inf.

    Entries that a method did not rank are placed by the block's own cosines (`completed`): the pooled trial may be that
    of another encoder. Raises Mismatch where scores are not those of the trials.
    """
    blocks = []
    for trial, found in zip(trials, scores, strict=True):
        if found.shape != trial.valid.shape:
            raise Mismatch("scores of a block", f"of shape {trial.valid.shape}", f"of shape {found.shape}")
        placed = completed(np.where(trial.valid, found, -np.inf), trial.cosines)
        blocks.append(np.where(trial.valid, placed, -np.inf))
    return _diagonal(blocks, -np.inf)


def _diagonal(blocks: Sequence[NDArray[Any]], elsewhere: float = 0.0) -> NDArray[Any]:
    """Blocks [q, n] along the diagonal of one array."""
    shape = (sum(len(block) for block in blocks), sum(block.shape[1] for block in blocks))
    whole = np.full(shape, elsewhere, dtype=blocks[0].dtype)
    row = column = 0
    for block in blocks:
        whole[row : row + len(block), column : column + block.shape[1]] = block
        row, column = row + len(block), column + block.shape[1]
    return whole
