"""A data set as frozen features: what heads and re-rankers train on, computed once and kept beside the run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from radrank.core.columns import NORMAL_CODES
from radrank.core.relevance import label_matrix
from radrank.core.studies import Modality, Split, Study, split_of
from radrank.datasets.decoding import decoded
from radrank.datasets.progress import Task
from radrank.training.backbones import Backbone, embed_images, embed_texts

MAPS = "maps.f16"


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureSet:
    """Studies of one data set under one frozen backbone.

    study_ids: sorted by their place in the data set; splits: of each study
    labels: bool [studies, 1 + groups], as relevance.label_matrix over `groups`
    normal: int8 [studies], 1 normal, −1 abnormal, 0 unknown
    features: float32 [items, width] per modality; study: int32 [items], each item's study
    primary: bool [images], the image that stands for its study
    same_text: int32 [reports], equal for reports that repeat word for word
    tokens: int32 [reports, T], the reports' token ids, padded with pad_id
    maps: float16 [images, …], what the image tower's tail reads; a file of its own, memory-mapped
    """

    study_ids: tuple[str, ...]
    splits: tuple[Split, ...]
    groups: tuple[str, ...]
    labels: NDArray[np.bool_]
    normal: NDArray[np.int8]
    features: dict[Modality, NDArray[np.float32]]
    study: dict[Modality, NDArray[np.int32]]
    primary: NDArray[np.bool_]
    same_text: NDArray[np.int32]
    tokens: NDArray[np.int32]
    pad_id: int
    maps: NDArray[np.float16]

    def of_split(self, split: Split) -> NDArray[np.int32]:
        """Indices of the studies of one split."""
        return np.array([row for row, found in enumerate(self.splits) if found is split], dtype=np.int32)

    def save(self, path: Path) -> None:
        """Writes one .npz, JSON for the names inside it. The maps stay in the file that extract wrote them to."""
        names = {
            "study_ids": self.study_ids,
            "splits": self.splits,
            "groups": self.groups,
            "pad_id": self.pad_id,
            "map_shape": self.maps.shape,
        }
        np.savez(
            path,
            allow_pickle=False,
            names=np.frombuffer(json.dumps(names).encode(), dtype=np.uint8),
            labels=self.labels,
            normal=self.normal,
            primary=self.primary,
            same_text=self.same_text,
            tokens=self.tokens,
            **{f"{m}_features": self.features[m] for m in Modality},
            **{f"{m}_study": self.study[m] for m in Modality},
        )

    @classmethod
    def load(cls, path: Path) -> FeatureSet:
        with np.load(path) as stored:
            names = json.loads(bytes(stored["names"]))
            return cls(
                study_ids=tuple(names["study_ids"]),
                splits=tuple(Split(s) for s in names["splits"]),
                groups=tuple(names["groups"]),
                labels=stored["labels"],
                normal=stored["normal"],
                features={m: stored[f"{m}_features"] for m in Modality},
                study={m: stored[f"{m}_study"] for m in Modality},
                primary=stored["primary"],
                same_text=stored["same_text"],
                tokens=stored["tokens"],
                pad_id=names["pad_id"],
                maps=_opened(path.with_name(MAPS), tuple(names["map_shape"])),
            )


def extract(
    studies: Iterable[Study],
    backbone: Backbone,
    folder: Path,
    *,
    expected: int,
    on_bad: Callable[[str, str], None],
    task: Task,
) -> FeatureSet:
    """Runs every image and report through the frozen backbone.

    folder: takes the file of the images' maps; expected: how many studies, for the progress bar; on_bad: told (study
    id, reason) of every image that can't be decoded; task: makes the progress bars.
    """
    kept: list[Study] = []
    owners: dict[Modality, list[int]] = {m: [] for m in Modality}
    primary: list[bool] = []
    texts: list[str] = []

    def images(advance: Callable[[], None]) -> Iterator[NDArray[np.uint8]]:
        for one in decoded(studies, backbone.preprocessing.image_size, workers=1):
            study = one.study
            for _, _, error in one.bad:
                on_bad(study.study_id, error.reason)
            row = len(kept)
            kept.append(study)
            # Where the primary image is the one that broke, the best of the others stands for the study.
            chosen = study.primary_image
            for image, array in zip(study.images, one.pixels, strict=True):
                owners[Modality.IMAGE].append(row)
                primary.append(image is chosen)
                yield array
            if study.report:
                owners[Modality.REPORT].append(row)
                texts.append(study.report)
            advance()

    with task("images", expected) as advance, (folder / f".{MAPS}").open("wb") as file:

        def keep(maps: NDArray[np.float16]) -> None:
            file.write(maps.tobytes())

        image_features = embed_images(backbone, images(advance), on_maps=keep)
    with task("reports", len(texts)) as advance:
        report_features = embed_texts(backbone, texts, progress=_stepwise(advance))
    # Maps of an interrupted run must never stand beside another run's features.
    (folder / f".{MAPS}").replace(folder / MAPS)
    groups = tuple(sorted({label for study in kept for label in study.labels}))
    return FeatureSet(
        study_ids=tuple(study.study_id for study in kept),
        splits=tuple(split_of(study) for study in kept),
        groups=groups,
        labels=label_matrix(kept, groups),
        normal=np.array([NORMAL_CODES[study.normal] for study in kept], dtype=np.int8),
        features={Modality.IMAGE: image_features, Modality.REPORT: report_features},
        study={m: np.array(owners[m], dtype=np.int32) for m in Modality},
        primary=np.array(primary, dtype=np.bool_),
        same_text=np.unique(np.array(texts or [""]), return_inverse=True)[1].astype(np.int32)[: len(texts)],
        tokens=token_ids(backbone, texts),
        pad_id=backbone.pad_id,
        maps=_opened(folder / MAPS, (len(image_features), *backbone.map_shape)),
    )


def token_ids(backbone: Backbone, texts: Sequence[str]) -> NDArray[np.int32]:
    """The texts' token ids int32 [n, longest], cut to max_tokens, padded."""
    tokenizer = Tokenizer.from_str(backbone.tokenizer_json)
    tokenizer.enable_truncation(backbone.max_tokens)
    tokenizer.enable_padding(pad_id=backbone.pad_id)
    ids = [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]
    return np.array(ids, dtype=np.int32).reshape(len(texts), len(ids[0]) if ids else 0)


def _opened(path: Path, shape: tuple[int, ...]) -> NDArray[np.float16]:
    return np.memmap(path, dtype=np.float16, mode="r", shape=shape) if shape[0] else np.empty(shape, dtype=np.float16)


def _stepwise(advance: Callable[[], None]) -> Callable[[int], None]:
    """From "so many are done" to one step after another."""
    told = 0

    def progress(done: int) -> None:
        nonlocal told
        for _ in range(done - told):
            advance()
        told = done

    return progress
