"""All studies of one data set, or of a snapshot, under one encoder: what galleries and archives are taken from."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from radrank.core.columns import NORMAL_CODES, VIEW_CODES, view_bits
from radrank.core.errors import BadStudy
from radrank.core.layout import VectorLayout
from radrank.core.ports import Encoder
from radrank.core.relevance import label_matrix
from radrank.core.snapshot import Snapshot
from radrank.core.studies import PRIMARY_ORDER, Modality, Split, Study, View, hashed_split, split_of
from radrank.core.vectors import Matrix, fused_by_study
from radrank.datasets import Reader
from radrank.datasets.decoding import decoded
from radrank.datasets.progress import Task

Views = Literal["all", "primary"]
OnBad = Callable[[BadStudy], None]

_BATCH = 32
_PREFERENCE = {VIEW_CODES[view]: place for place, view in enumerate(PRIMARY_ORDER)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Collection:
    """Studies, and one image and one report item of each that has them.

    layout: of the vectors
    study_ids, splits: of each study; patients: who it is of, the study's own id where that is not known
    groups: of findings; labels: bool [studies, 1 + groups], as relevance.label_matrix
    uncertain: bool [studies], some finding is neither there nor absent: the study's query leaves Strong
    normal: int8 [studies], 1 normal, −1 abnormal, 0 unknown
    vectors: float32 [items, d], unit, and study: int32 [items], each item's study, per modality
    abnormal: float32 [items], the encoder's probability of an abnormal study, per modality
    frontal: bool [images], False where the views are laterals alone: such an item stands in archives only
    same_text: int32 [reports], equal for reports that repeat word for word
    """

    layout: VectorLayout
    study_ids: tuple[str, ...]
    splits: tuple[Split, ...]
    patients: tuple[str, ...]
    groups: tuple[str, ...]
    labels: NDArray[np.bool_]
    uncertain: NDArray[np.bool_]
    normal: NDArray[np.int8]
    vectors: Mapping[Modality, Matrix]
    study: Mapping[Modality, NDArray[np.int32]]
    abnormal: Mapping[Modality, NDArray[np.float32]]
    frontal: NDArray[np.bool_]
    same_text: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.study_ids)

    def of_split(self, split: Split) -> NDArray[np.int32]:
        """Rows of the studies of one split."""
        return np.array([row for row, found in enumerate(self.splits) if found is split], dtype=np.int32)

    @property
    def findings(self) -> NDArray[np.uint8]:
        """The labels as graphs read them: uint8 [studies, 1 + the encoder's groups]; groups it has no name for are left
        out."""
        known = np.zeros((len(self), self.layout.beliefs_width), dtype=np.uint8)
        known[:, 0] = self.labels[:, 0]
        for place, group in enumerate(self.layout.groups, start=1):
            if group in self.groups:
                known[:, place] = self.labels[:, 1 + self.groups.index(group)]
        return known

    def halves(self, studies: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """These studies cut in two by patient, in an order of hashes: the same whatever else is in the collection."""
        patients = sorted({self.patients[row] for row in studies}, key=_hashed)
        first = set(patients[::2])
        chosen = np.array([self.patients[row] in first for row in studies], dtype=np.bool_)
        return studies[chosen], studies[~chosen]


def collect(
    reader: Reader, encoder: Encoder, *, views: Views = "all", workers: int | None = None, on_bad: OnBad, task: Task
) -> Collection:
    """Reads and encodes a data set.

    views: an image item is the sum of the study's images, or its primary frontal alone
    workers: threads that decode; on_bad: told of every image that can't be read
    """
    studies: list[Study] = []
    seen: list[int] = []
    owners: list[int] = []
    waiting: list[NDArray[np.uint8]] = []
    found: list[Matrix] = [np.empty((0, encoder.layout.dimensions), dtype=np.float32)]

    def encode() -> None:
        if waiting:
            found.append(encoder.encode_images(np.stack(waiting)))
            waiting.clear()

    with task("images", len(reader)) as advance:
        for one in decoded(reader, encoder.image_size, workers=workers or len(os.sched_getaffinity(0))):
            for _, _, error in one.bad:
                on_bad(BadStudy("an image", error.reason))
            if one.pixels or one.study.report:
                for image, array in zip(one.study.images, one.pixels, strict=True):
                    owners.append(len(studies))
                    seen.append(VIEW_CODES[image.view])
                    waiting.append(array)
                    if len(waiting) == _BATCH:
                        encode()
                studies.append(replace(one.study, images=()))
            advance()
        encode()
    told = [row for row, study in enumerate(studies) if study.report]
    texts = [studies[row].report for row in told]
    same_text = _numbered(texts)
    reports = _encoded(list(dict.fromkeys(texts)), encoder, task)[same_text]
    groups = tuple(sorted({label for study in studies for label in study.labels}))
    images = _fused(np.concatenate(found), np.array(owners, np.int32), np.array(seen, np.int8), views)
    vectors = {Modality.IMAGE: images[0], Modality.REPORT: reports}
    return Collection(
        layout=encoder.layout,
        study_ids=tuple(study.study_id for study in studies),
        splits=tuple(split_of(study) for study in studies),
        patients=tuple(study.patient_id or study.study_id for study in studies),
        groups=groups,
        labels=label_matrix(studies, groups),
        uncertain=np.array([bool(study.uncertain) for study in studies], dtype=np.bool_),
        normal=np.array([NORMAL_CODES[study.normal] for study in studies], dtype=np.int8),
        vectors=vectors,
        study={Modality.IMAGE: images[1], Modality.REPORT: np.array(told, dtype=np.int32)},
        abnormal={m: encoder.classify(vectors[m], m) for m in Modality},
        frontal=images[2],
        same_text=same_text,
    )


def from_snapshot(snapshot: Snapshot, encoder: Encoder) -> Collection:
    """The snapshot's studies with its own vectors; of the encoder only the classifier is asked.

    A snapshot keeps neither texts nor official splits nor what is uncertain: no two reports are alike, splits are those
    of the ids, and nothing is uncertain.
    """
    columns = snapshot.columns
    ids = tuple(bytes(study_id).decode() for study_id in columns.ids)
    groups = tuple(sorted(columns.labels))
    labels = np.zeros((len(ids), 1 + len(groups)), dtype=np.bool_)
    labels[:, 0] = columns.normal == 1
    for place, group in enumerate(groups, start=1):
        labels[columns.labels[group], place] = True
    held = snapshot.items
    vectors = {m: np.array(items.vectors) for m, items in held.items()}
    return Collection(
        layout=snapshot.layout,
        study_ids=ids,
        splits=tuple(hashed_split(study_id) for study_id in ids),
        patients=tuple(str(patient) if patient else ids[row] for row, patient in enumerate(columns.patients.tolist())),
        groups=groups,
        labels=labels,
        uncertain=np.zeros(len(ids), dtype=np.bool_),
        normal=np.array(columns.normal),
        vectors=vectors,
        study={m: np.array(items.study) for m, items in held.items()},
        abnormal={m: encoder.classify(vectors[m], m) for m in Modality},
        frontal=held[Modality.IMAGE].views != view_bits((View.LATERAL,)),
        same_text=np.arange(len(held[Modality.REPORT].study), dtype=np.int32),
    )


def joined(first: Collection, second: Collection) -> Collection:
    """Both as one: the second's studies follow the first's, and groups of one name are one group.

    No study and no text of one is that of the other, whatever it is called.
    """
    both = (first, second)
    groups = tuple(sorted({*first.groups, *second.groups}))
    starts = (0, len(first))
    texts = (0, int(first.same_text.max(initial=-1)) + 1)
    return Collection(
        layout=first.layout,
        study_ids=first.study_ids + second.study_ids,
        splits=first.splits + second.splits,
        patients=first.patients + second.patients,
        groups=groups,
        labels=np.concatenate([_relabelled(one, groups) for one in both]),
        uncertain=np.concatenate([one.uncertain for one in both]),
        normal=np.concatenate([one.normal for one in both]),
        vectors={m: np.concatenate([one.vectors[m] for one in both]) for m in Modality},
        study={
            m: np.concatenate([one.study[m] + start for one, start in zip(both, starts, strict=True)]).astype(np.int32)
            for m in Modality
        },
        abnormal={m: np.concatenate([one.abnormal[m] for one in both]) for m in Modality},
        frontal=np.concatenate([one.frontal for one in both]),
        same_text=np.concatenate([one.same_text + start for one, start in zip(both, texts, strict=True)]).astype(
            np.int32
        ),
    )


def _encoded(texts: Sequence[str], encoder: Encoder, task: Task) -> Matrix:
    """Vectors float32 [texts, d]. Texts of like length are encoded together: padding costs as much as words do."""
    vectors = np.empty((len(texts), encoder.layout.dimensions), dtype=np.float32)
    by_length = sorted(range(len(texts)), key=lambda place: len(texts[place]))
    with task("reports", len(texts)) as advance:
        for start in range(0, len(texts), _BATCH):
            places = by_length[start : start + _BATCH]
            vectors[places] = encoder.encode_texts([texts[place] for place in places])
            for _ in places:
                advance()
    return vectors


def _fused(
    vectors: Matrix, study: NDArray[np.int32], views: NDArray[np.int8], kept: Views
) -> tuple[Matrix, NDArray[np.int32], NDArray[np.bool_]]:
    """One item a study, by study: vectors float32 [items, d], study int32 [items], frontal bool [items].

    vectors [images, d], unit, with study [images], ascending, and codes of views [images], a study's images in their
    order
    """
    lateral = views == VIEW_CODES[View.LATERAL]
    if kept == "primary":
        order = np.lexsort(
            (np.array([_PREFERENCE[code] for code in views.tolist()]), study)
        )  # stable: the first of equals
        order = order[np.unique(study[order], return_index=True)[1]]
        order = order[~lateral[order]]
        return vectors[order], study[order], np.ones(len(order), dtype=np.bool_)
    owners, place = np.unique(study, return_inverse=True)
    frontal = np.zeros(len(owners), dtype=np.bool_)
    frontal[place[~lateral]] = True
    return fused_by_study(vectors, study, owners), owners.astype(np.int32), frontal


def _relabelled(collection: Collection, groups: Sequence[str]) -> NDArray[np.bool_]:
    """Its labels in the columns of these groups, which hold all of its own."""
    labels = np.zeros((len(collection), 1 + len(groups)), dtype=np.bool_)
    labels[:, [0, *(1 + groups.index(group) for group in collection.groups)]] = collection.labels
    return labels


def _numbered(texts: Sequence[str]) -> NDArray[np.int32]:
    """int32 [texts], equal for equal ones, counted in the order in which they first come."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(text, len(numbers)) for text in texts], dtype=np.int32)


def _hashed(patient: str) -> str:
    return hashlib.sha256(f"half:{patient}".encode()).hexdigest()
