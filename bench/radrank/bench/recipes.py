"""Head recipes compared: which losses, and which inputs, each over the same frozen backbone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from radrank.bench.spaces import Vectors
from radrank.core.studies import Modality, Split
from radrank.training.features import FeatureSet
from radrank.training.heads import Heads, HeadSettings, LossWeights, train_heads
from radrank.training.inputs import Inputs

CLIP_ALONE = "CLIP loss alone"
FROZEN = "CLIP + contrastive + Jaccard + findings (ours)"
OFF = {"contrastive": 0.0, "jaccard": 0.0, "abnormal": 0.0, "findings": 0.0}

# Over frozen features of the primary frontal and the report: what the paper trains on.
LOSSES: Mapping[str, LossWeights] = {
    CLIP_ALONE: LossWeights(**OFF),
    "CLIP + contrastive": LossWeights(**OFF | {"contrastive": 0.5}),
    "CLIP + abnormal": LossWeights(**OFF | {"abnormal": 0.5}),
    "contrastive + abnormal": LossWeights(**OFF | {"clip": 0.0, "contrastive": 0.5, "abnormal": 0.5}),
    "CLIP + contrastive + abnormal (the paper)": LossWeights(**OFF | {"contrastive": 0.5, "abnormal": 0.5}),
    "the paper + Jaccard": LossWeights(**OFF | {"contrastive": 0.5, "abnormal": 0.5, "jaccard": 1.0}),
    "the paper + findings": LossWeights(**OFF | {"contrastive": 0.5, "abnormal": 0.5, "findings": 0.5}),
    FROZEN: LossWeights(),
}

# Over our losses: what the heads read.
BOTH_VIEWS, TUNED, LEXICON, BELIEFS = (
    "frozen, all views",
    "tuned tower, all views",
    "tuned tower, all views, lexicon",
    "the same, beliefs in the vector (served)",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Space:
    """Items of a feature set and their vectors by one recipe. images: rows of all images that are among the items"""

    features: FeatureSet
    vectors: Vectors
    images: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipes:
    """Trains heads over one seed's inputs. inputs: of the tuned tower and the lexicon, for every item of features"""

    features: FeatureSet
    inputs: Mapping[Modality, Inputs]
    settings: HeadSettings

    def spaces(self, served: Heads, step: Callable[[], None]) -> dict[str, Space]:
        """The space of every recipe, by name. served: heads as they are exported; step: called WORK times."""
        train = self.features.of_split(Split.TRAIN)
        primary = np.flatnonzero(self.features.primary)
        every = np.arange(len(self.features.primary))
        frontal = _with_images(self.features, primary)
        frozen = _columns(self.inputs, {m: self.features.features[m].shape[1] for m in Modality})
        found: dict[str, Space] = {}

        def add(name: str, features: FeatureSet, inputs: Mapping[Modality, Inputs], losses: LossWeights) -> None:
            heads = train_heads(features, inputs, replace(self.settings, losses=losses), train=train)
            images = primary if features is frontal else every
            found[name] = Space(features=features, vectors=projected(heads, inputs), images=images)
            step()

        for name, losses in LOSSES.items():
            add(name, frontal, _image_rows(frozen, primary), losses)
        add(BOTH_VIEWS, self.features, frozen, LossWeights())
        words = {Modality.IMAGE: self.inputs[Modality.IMAGE], Modality.REPORT: frozen[Modality.REPORT]}
        add(TUNED, self.features, words, LossWeights())
        found[LEXICON] = Space(features=self.features, vectors=projected(served, self.inputs), images=every)
        found[BELIEFS] = Space(features=self.features, vectors=served.vectors(self.inputs), images=every)
        return found


WORK = len(LOSSES) + 2


@torch.inference_mode()
def projected(heads: Heads, inputs: Mapping[Modality, Inputs]) -> dict[Modality, NDArray[np.float32]]:
    """The projected part of the vectors alone, unit float32 [items, projection]."""
    heads.eval()
    return {m: heads.project(torch.from_numpy(found.features), m).numpy() for m, found in inputs.items()}


def _columns(inputs: Mapping[Modality, Inputs], widths: Mapping[Modality, int]) -> dict[Modality, Inputs]:
    """The first columns of the inputs' features: those of the frozen towers."""
    return {m: replace(one, features=np.ascontiguousarray(one.features[:, : widths[m]])) for m, one in inputs.items()}


def _image_rows(inputs: Mapping[Modality, Inputs], rows: NDArray[np.int64]) -> dict[Modality, Inputs]:
    images = inputs[Modality.IMAGE]
    chosen = Inputs(features=images.features[rows], beliefs=images.beliefs[rows])
    return {Modality.IMAGE: chosen, Modality.REPORT: inputs[Modality.REPORT]}


def _with_images(features: FeatureSet, rows: NDArray[np.int64]) -> FeatureSet:
    """The same studies with these images alone; the maps are not needed any more."""
    return replace(
        features,
        features={**features.features, Modality.IMAGE: features.features[Modality.IMAGE][rows]},
        study={**features.study, Modality.IMAGE: features.study[Modality.IMAGE][rows]},
        primary=features.primary[rows],
        maps=features.maps[:0],
    )
