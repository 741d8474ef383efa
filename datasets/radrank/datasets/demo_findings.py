"""What a made-up study shows: its findings, and the chest they are found in: plain numbers, drawn from a seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One finding, as much of it as picture and words share.

    group: a label of the vocabulary, such as "pleural_effusion"
    side: "left", "right", "both", or "" where a finding has none
    zone: "upper", "mid", "lower", or ""
    severity: 0 mild, 1 moderate, 2 severe
    kind: which device, else ""
    place: three numbers in [0, 1) that place and shape the finding; words do not tell them
    """

    group: str
    side: str = ""
    zone: str = ""
    severity: int = 1
    kind: str = ""
    place: tuple[float, float, float] = (0.5, 0.5, 0.5)

    @property
    def signs(self) -> tuple[int, ...]:
        """The sides as signs of x in the picture: the patient's right lies at the picture's left."""
        return {"right": (-1,), "left": (1,)}.get(self.side, (-1, 1))


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """How often a group is met among the abnormal (a weight), and what its findings may be."""

    weight: float
    sides: tuple[str, ...] = ("",)
    zones: tuple[str, ...] = ("",)
    kinds: tuple[str, ...] = ("",)


_ONE_SIDE = ("left", "right")

KINDS: Mapping[str, Kind] = {
    "cardiomegaly": Kind(weight=1.6),
    "opacity": Kind(weight=1.8, sides=_ONE_SIDE, zones=("upper", "mid", "lower", "lower")),
    "pleural_effusion": Kind(weight=1.4, sides=("left", "right", "both")),
    "pneumothorax": Kind(weight=0.7, sides=_ONE_SIDE),
    "edema": Kind(weight=0.8, sides=("both",)),
    "atelectasis": Kind(weight=1.3, sides=("left", "right", "both")),
    "nodule": Kind(weight=1.0, sides=_ONE_SIDE, zones=("upper", "mid", "lower")),
    "granuloma": Kind(weight=1.0, sides=_ONE_SIDE, zones=("upper", "mid", "lower")),
    "emphysema": Kind(weight=0.9),
    "device": Kind(weight=1.2, kinds=("pacemaker", "central line", "port", "sternotomy wires")),
    "fracture": Kind(weight=0.7, sides=_ONE_SIDE, zones=("upper", "mid")),
    "aorta": Kind(weight=0.9),
    "spine": Kind(weight=1.0, sides=_ONE_SIDE),
    "hypoinflation": Kind(weight=0.9),
}

# Heart failure comes with fluid and wires; the effusion with a collapsed base.
_COMPANIONS: Mapping[str, Mapping[str, float]] = {
    "cardiomegaly": {"edema": 4.0, "pleural_effusion": 2.5, "device": 2.0, "aorta": 2.0},
    "edema": {"cardiomegaly": 4.0, "pleural_effusion": 3.0},
    "pleural_effusion": {"atelectasis": 3.0, "cardiomegaly": 2.0, "opacity": 1.5},
    "pneumothorax": {"fracture": 5.0, "atelectasis": 2.0},
    "fracture": {"pneumothorax": 5.0},
    "hypoinflation": {"atelectasis": 4.0},
    "emphysema": {"nodule": 2.0, "pneumothorax": 2.0},
}
# Two findings that would draw each other's opposite, or cover each other.
_APART = (
    {"emphysema", "hypoinflation"},
    {"emphysema", "edema"},
    {"pneumothorax", "edema"},
    {"pneumothorax", "pleural_effusion"},
    {"nodule", "granuloma"},
)


def draw_finding(group: str, rng: np.random.Generator) -> Finding:
    """A finding of one group, its side, zone, severity and place drawn at random."""
    kind = KINDS[group]
    return Finding(
        group=group,
        side=kind.sides[rng.integers(len(kind.sides))],
        zone=kind.zones[rng.integers(len(kind.zones))],
        severity=int(rng.integers(3)),
        kind=kind.kinds[rng.integers(len(kind.kinds))],
        place=(float(rng.random()), float(rng.random()), float(rng.random())),
    )


def draw_findings(rng: np.random.Generator) -> tuple[Finding, ...]:
    """One to three findings of different groups, for an abnormal study."""
    weights = {group: kind.weight for group, kind in KINDS.items()}
    found: list[Finding] = []
    for _ in range(1 + int(rng.random() < 0.5) + int(rng.random() < 0.33)):
        groups = list(weights)
        odds = np.cumsum([weights[group] for group in groups])
        group = groups[int(np.searchsorted(odds, rng.random() * odds[-1], side="right"))]
        found.append(draw_finding(group, rng))
        for companion, factor in _COMPANIONS.get(group, {}).items():
            weights[companion] = weights.get(companion, 0.0) * factor
        for pair in _APART:
            if group in pair:
                weights.pop(next(iter(pair - {group})), None)
        weights.pop(group)
    return tuple(found)


@dataclass(frozen=True, kw_only=True, slots=True)
class Anatomy:
    """A chest, in units of half the picture: x from −1 (left of the picture) to 1, y from −1 (top) to 1."""

    body: float  # half-width of the trunk
    lung_width: float  # half-width of the thorax inside the ribs
    apex: float  # y of the lungs' tops
    base: float  # y of the domes' summits
    dome: float  # how far the costophrenic angle lies below its summit
    aeration: float  # density that air takes away
    heart: float  # half-width of the heart
    heart_y: float
    knob: float  # radius of the aortic knob
    tortuous: float  # how far the descending aorta bulges; 0 is straight
    bend: float  # amplitude of the spine's curve, signed
    rib_gap: float
    rib_slope: float
    breast: float  # density; 0 for none
    vessels: float
    fat: float  # density of the chest wall


def draw_anatomy(rng: np.random.Generator) -> Anatomy:
    """A healthy chest."""

    def between(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    width = between(0.68, 0.78)
    return Anatomy(
        body=width + between(0.10, 0.19),
        lung_width=width,
        apex=between(-0.78, -0.68),
        base=between(0.36, 0.48),
        dome=between(0.17, 0.26),
        aeration=between(0.42, 0.50),
        heart=width * between(0.40, 0.47),
        heart_y=between(-0.02, 0.04),
        knob=between(0.06, 0.085),
        tortuous=0.0,
        bend=between(-0.012, 0.012),
        rib_gap=between(0.145, 0.175),
        rib_slope=between(0.8, 1.3),
        breast=between(0.05, 0.13) if rng.random() < 0.5 else 0.0,
        vessels=between(0.8, 1.25),
        fat=between(0.56, 0.70),
    )


def altered(anatomy: Anatomy, findings: Sequence[Finding]) -> Anatomy:
    """The chest with those findings that change its shape: heart, lung volume, aorta and spine."""
    for finding in findings:
        grade, u = finding.severity, finding.place[0]
        match finding.group:
            case "cardiomegaly":
                anatomy = replace(anatomy, heart=anatomy.lung_width * (0.57 + 0.065 * grade + 0.03 * u))
            case "emphysema":
                anatomy = replace(
                    anatomy,
                    base=anatomy.base + 0.12 + 0.04 * grade,
                    apex=anatomy.apex - 0.03,
                    dome=0.05,
                    aeration=anatomy.aeration + 0.06 + 0.02 * grade,
                    heart=anatomy.heart * 0.88,
                    vessels=anatomy.vessels * 0.55,
                )
            case "hypoinflation":
                anatomy = replace(
                    anatomy,
                    base=anatomy.base - 0.2 - 0.05 * grade,
                    aeration=anatomy.aeration - 0.05,
                    heart=anatomy.heart * 1.06,
                    heart_y=anatomy.heart_y - 0.02,
                    vessels=anatomy.vessels * 1.35,
                )
            case "aorta":
                anatomy = replace(anatomy, knob=0.115 + 0.015 * grade + 0.01 * u, tortuous=0.07 + 0.03 * grade)
            case "spine":
                anatomy = replace(anatomy, bend=finding.signs[0] * (0.07 + 0.03 * grade + 0.02 * u))
    return anatomy
