"""Runs as evaluation sees bundles: collections from a run's own vectors, and its re-rankers as torch answers.

An exported bundle answers within 1e-4 of these (export checks it); judged here, no image is encoded a second time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from radrank.core.graph import RELATION_NAMES, GraphBatch, GraphSettings
from radrank.core.layout import VectorLayout
from radrank.core.ports import ArchiveMessages, EngineManifest
from radrank.core.studies import Modality, View
from radrank.core.vectors import Matrix, fused_by_study
from radrank.datasets import Reader
from radrank.evaluation.collection import Collection
from radrank.training.features import FeatureSet
from radrank.training.reranker import GraphReranker

Vectors = Mapping[Modality, Matrix]


@dataclass(frozen=True, kw_only=True, slots=True)
class About:
    """What a feature set doesn't keep of its studies, by study id.

    patients: the study's own id where that is not known; uncertain: some finding is; lateral: no view but laterals
    """

    patients: Mapping[str, str]
    uncertain: frozenset[str]
    lateral: frozenset[str]

    @classmethod
    def of(cls, reader: Reader) -> About:
        """Reads everything but the images."""
        patients: dict[str, str] = {}
        uncertain, lateral = set[str](), set[str]()
        for study in reader:
            patients[study.study_id] = study.patient_id or study.study_id
            if study.uncertain:
                uncertain.add(study.study_id)
            if study.images and all(image.view is View.LATERAL for image in study.images):
                lateral.add(study.study_id)
        return cls(patients=patients, uncertain=frozenset(uncertain), lateral=frozenset(lateral))


def collection(
    features: FeatureSet, vectors: Vectors, about: About, *, layout: VectorLayout, beliefs: Vectors
) -> Collection:
    """The studies of a feature set under an encoder.

    vectors: float32 [items, d], unit, of the features' items; layout: of the encoder that re-rankers read
    beliefs: vectors that p(normal) is read from, in that layout, whatever space is judged
    """
    owners = features.study[Modality.IMAGE]
    imaged = np.unique(owners).astype(np.int32)
    items = {
        Modality.IMAGE: fused_by_study(vectors[Modality.IMAGE], owners, imaged),
        Modality.REPORT: vectors[Modality.REPORT],
    }
    believed = {
        Modality.IMAGE: fused_by_study(beliefs[Modality.IMAGE], owners, imaged),
        Modality.REPORT: beliefs[Modality.REPORT],
    }
    ids = features.study_ids
    return Collection(
        layout=layout,
        study_ids=ids,
        splits=features.splits,
        patients=tuple(about.patients[study_id] for study_id in ids),
        groups=features.groups,
        labels=features.labels,
        uncertain=np.array([study_id in about.uncertain for study_id in ids], dtype=np.bool_),
        normal=features.normal,
        vectors=items,
        study={Modality.IMAGE: imaged, Modality.REPORT: features.study[Modality.REPORT]},
        abnormal={m: 1.0 - layout.beliefs(believed[m])[:, 0] for m in Modality},
        frontal=np.array([ids[row] not in about.lateral for row in imaged], dtype=np.bool_),
        same_text=features.same_text,
    )


class TorchReranker:
    """core's Reranker over a torch module, one query at a time as in serving."""

    def __init__(self, model: GraphReranker, settings: GraphSettings) -> None:
        self._model = model.eval()
        self._names = model.array_names
        self.settings = settings
        self.messages: ArchiveMessages | None = None
        self.relations = RELATION_NAMES
        self.manifest = EngineManifest(sha256="", precision="fp32", runtime=f"torch {torch.__version__}")

    @torch.inference_mode()
    def score(self, batch: GraphBatch) -> NDArray[np.float32]:
        arrays = {name: torch.from_numpy(array) for name, array in batch.feed(self._names).items()}
        scores: NDArray[np.float32] = self._model(arrays).numpy()
        return scores

    def close(self) -> None:
        """Holds nothing of its own."""
