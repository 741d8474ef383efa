"""Made-up collections to judge: studies with findings, whose images and reports lie near one another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from helpers.doubles import LAYOUT, joined
from helpers.trials import GROUPS, made_labels
from radrank.core.studies import Modality, Split
from radrank.evaluation.collection import Collection

NAMES = LAYOUT.groups
WIDTH = LAYOUT.projection


def made_collection(
    studies: int = 120, *, seed: int = 0, encoder: int = 0, prefix: str = "S", noise: float = 0.8, **changed: Any
) -> Collection:
    """Half of the studies are train, a quarter each validation and test; two in a row are of one patient.

    seed: of the studies, encoder: of the space they lie in; changed: fields in place of those made
    """
    rng, space = np.random.default_rng(seed), np.random.default_rng([encoder, 1])
    labels = made_labels(rng, studies)
    normal = np.where(labels[:, 0], 1, np.where(labels.any(axis=1), -1, 0)).astype(np.int8)
    inside = labels @ space.normal(size=(1 + GROUPS, WIDTH)) + 0.5 * space.normal(size=(studies, WIDTH))
    vectors = {}
    for m in Modality:
        near = inside + noise * space.normal(size=inside.shape) + 0.3
        believed = np.clip(0.2 + 0.4 * labels + 0.2 * space.normal(size=labels.shape), 0.0, 1.0)
        vectors[m] = joined(near, believed, m)
    splits = [[Split.TRAIN, Split.TEST, Split.TRAIN, Split.VALIDATION][row % 4] for row in range(studies)]
    fields: dict[str, Any] = {
        "layout": LAYOUT,
        "study_ids": tuple(f"{prefix}{row:04d}" for row in range(studies)),
        "splits": tuple(splits),
        "patients": tuple(f"{prefix}P{row // 2:04d}" for row in range(studies)),
        "groups": NAMES,
        "labels": labels,
        "uncertain": np.zeros(studies, dtype=np.bool_),
        "normal": normal,
        "vectors": vectors,
        "study": {m: np.arange(studies, dtype=np.int32) for m in Modality},
        "abnormal": {
            m: np.clip(0.5 - 0.3 * normal + 0.15 * space.normal(size=studies), 0, 1).astype(np.float32)
            for m in Modality
        },
        "frontal": np.ones(studies, dtype=np.bool_),
        "same_text": np.arange(studies, dtype=np.int32),
    }
    return Collection(**fields | changed)


@contextmanager
def silent(label: str, total: int) -> Iterator[Callable[[], None]]:
    """A progress bar that nobody sees."""
    yield lambda: None
