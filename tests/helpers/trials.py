"""Made-up trials: a gallery with findings, queries near their pairs, an archive of more of the same."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radrank.core.relevance import jaccard
from radrank.core.studies import Modality
from radrank.core.vectors import unit
from radrank.evaluation.trial import Banks, Trial

GROUPS = 4


def made_trial(seed: int = 0, *, studies: int = 40, same: bool = False, noise: float = 1.0) -> Trial:
    """One query and one entry a study; same: the queries are the entries. About a third of the studies is normal."""
    rng = np.random.default_rng(seed)
    labels = made_labels(rng, studies)
    base = 3.0 * _directions(labels) + rng.normal(size=(studies, 16))
    gallery = unit(base + noise * rng.normal(size=base.shape))
    queries = gallery if same else unit(base + noise * rng.normal(size=base.shape))
    overlap = jaccard(labels, labels)
    status = np.where(labels[:, 0], 1, np.where(labels.any(axis=1), -1, 0)).astype(np.int8)
    return Trial(
        source=Modality.IMAGE,
        target=Modality.IMAGE if same else Modality.REPORT,
        queries=queries,
        gallery=gallery,
        valid=~np.eye(studies, dtype=np.bool_) if same else np.ones((studies, studies), dtype=np.bool_),
        pair=np.eye(studies, dtype=np.bool_),
        strong=overlap == 1.0,
        weak=overlap > 0.0,
        jaccard=overlap,
        query_normal=status,
        gallery_normal=status,
        gallery_abnormal=np.clip(0.5 - 0.3 * status + 0.15 * rng.normal(size=studies), 0.0, 1.0).astype(np.float32),
    )


def made_banks(seed: int = 0, *, queries: int = 60, gallery: int = 50) -> Banks:
    rng = np.random.default_rng((seed, 1))
    return Banks(
        queries=unit(3.0 * _directions(made_labels(rng, queries)) + 1.4 * rng.normal(size=(queries, 16))),
        gallery=unit(3.0 * _directions(made_labels(rng, gallery)) + 1.4 * rng.normal(size=(gallery, 16))),
    )


def made_labels(rng: np.random.Generator, studies: int) -> NDArray[np.bool_]:
    """bool [studies, 1 + GROUPS], normal first; some studies are neither normal nor labelled."""
    labels = rng.random((studies, 1 + GROUPS)) < 0.3
    labels[labels[:, 0], 1:] = False
    return labels


def only(trial: Trial, queries: Any) -> Trial:
    """The trial with these queries alone, against the same gallery."""
    parts = ("queries", "valid", "pair", "strong", "weak", "jaccard", "query_normal")
    return replace(trial, **{part: getattr(trial, part)[queries] for part in parts})


def ranked_as(*orders: list[int]) -> NDArray[np.float64]:
    """Scores [q, n] with which the entries come in these orders."""
    return -np.argsort(np.array(orders), axis=1).astype(np.float64)


def _directions(labels: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Each label pulls along an axis of its own."""
    return labels.astype(np.float64) @ np.eye(1 + GROUPS, 16)
