"""What stands where in a bundle's vectors: a projection, and beside it what the encoder believes of the findings.

    √(1 − share) · projection ‖ √share · [ beliefs / √2, its length's complement in the place of its modality ]

Both parts together have unit length, so one dot product compares both, and re-rankers read the beliefs from the vector.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radrank.core.studies import Modality

BELIEF_NORM = 2.0**0.5  # beliefs of norm √2, about two certain findings, fill their part of a vector


@dataclass(frozen=True, kw_only=True, slots=True)
class VectorLayout:
    """projection: dimensions of the projected part; share: of the beliefs in a similarity, above 0 and below 1;
    groups: finding groups in the order of their beliefs, which "normal" comes before
    """

    projection: int
    share: float
    groups: tuple[str, ...]

    @property
    def beliefs_width(self) -> int:
        """Beliefs of an item: normal and every group."""
        return 1 + len(self.groups)

    @property
    def dimensions(self) -> int:
        """Of whole vectors: projection, beliefs, and a place in each modality that makes the length one."""
        return self.projection + self.beliefs_width + len(Modality)

    @property
    def belief_scale(self) -> float:
        """What a vector's numbers are multiplied by to become beliefs."""
        return BELIEF_NORM / float(self.share**0.5)

    def beliefs(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Of vectors [..., d]: float32 [..., 1 + groups] in 0…1, normal first."""
        part = vectors[..., self.projection : self.projection + self.beliefs_width]
        # Not np.clip: that runs Python code, on the way of every search.
        beliefs: NDArray[np.float32] = np.minimum(
            np.maximum(part * np.float32(self.belief_scale), np.float32(0.0)), np.float32(1.0)
        )
        return beliefs

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> VectorLayout:
        """Raises KeyError or TypeError where fields are missing or unknown."""
        return cls(**{**stored, "groups": tuple(stored["groups"])})
