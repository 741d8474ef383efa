"""The lateral phantom: the same chest from its left side, sternum at the left of the picture, spine at the right."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from radrank.datasets.demo_findings import Anatomy, Finding, altered
from radrank.datasets.demo_phantom import Field, Stroke, X, Y, blob, cloud, exposed, ramp, strokes

_HEIGHT = {"upper": -0.45, "mid": -0.1, "lower": 0.25}


def lateral(anatomy: Anatomy, findings: Sequence[Finding] = (), *, seed: Sequence[int]) -> NDArray[np.uint8]:
    """A lateral radiograph, uint8 [SIZE, SIZE]. A finding's height is its zone's; its side can't be told."""
    rng = np.random.default_rng([*seed, 3])
    texture, shaped = cloud(rng), altered(anatomy, findings)
    groups = {finding.group for finding in findings}
    deep = 0.66 if "emphysema" in groups else 0.56
    back = (0.42 + 0.1 * np.sin((Y + 0.4) * 2.0)).astype(np.float32)  # the front of the spine, by row
    front = (0.42 - deep - 0.42 + 0.22 * Y**2 - 0.1 * Y).astype(np.float32)
    base = (shaped.base - 0.05 + shaped.dome * 1.1 * (((X + 0.1) / 0.5) ** 2 + 0.35 * X)).astype(np.float32)
    trunk = ramp(X - (front - 0.2 - 0.15 * ramp(Y + 0.5, 0.8)), 0.05) * ramp(0.86 + 0.06 * np.cos(2 * Y) - X, 0.05)
    lung = ramp(X - front - 0.04, 0.05) * ramp(back + 0.16 - X, 0.08) * ramp(base - Y, 0.03) * ramp(Y + 0.72, 0.2)

    density = (shaped.fat + 0.18) * trunk + 0.22 * ramp(Y - base, 0.25) * trunk
    density -= (shaped.aeration + 0.12) * lung
    density += _bones(shaped, front, back, lung)
    wide, y = 0.8 * shaped.heart + 0.02, shaped.base - 0.2
    x = -0.28 + 0.4 * (wide - 0.26)
    density += 0.3 * ramp(1.0 - ((X - x) / wide) ** 2 - ((Y - y) / 0.3) ** 2, 0.3) * (0.4 + 0.6 * lung)
    density -= 0.2 * ramp(0.04 - np.abs(X - 0.1 - 0.12 * Y), 0.03) * ramp(-0.15 - Y, 0.1)  # trachea
    density += 0.14 * blob(0.04, -0.04, 0.1, 0.1)  # hila
    density += (0.1 + 1.2 * shaped.tortuous) * ramp(0.07 - np.abs(X - 0.3 - shaped.tortuous), 0.05) * lung
    density += 0.03 * shaped.vessels * texture * lung
    for finding in findings:
        density += _lesion(shaped, finding, lung=lung, base=base, texture=texture)
    return exposed(density, seed=(*seed, 3))


def _bones(anatomy: Anatomy, front: Field, back: Field, lung: Field) -> Field:
    behind = X - back - 0.11
    plates = ramp(np.abs((Y * 6.5) % 1.0 - 0.5) - 0.1, 0.15)
    spine = ramp(0.1 - np.abs(behind + 0.5 * abs(anatomy.bend)), 0.04) * (0.1 + 0.12 * plates)
    sternum = 0.2 * ramp(0.03 - np.abs(X - front), 0.03) * ramp(0.25 - Y, 0.1) * ramp(Y + 0.7, 0.1)
    phase = (Y - 0.45 * X) / anatomy.rib_gap
    ribs = 0.05 * ramp(0.16 - np.abs(phase - np.floor(phase) - 0.5), 0.12) * lung
    return spine + sternum + ribs


def _lesion(anatomy: Anatomy, finding: Finding, *, lung: Field, base: Field, texture: Field) -> Field:
    """The density that one finding adds, float32 [SIZE, SIZE]; zero where a lateral doesn't show it."""
    grade, (u, v, w) = finding.severity, finding.place
    x, y = -0.2 + 0.5 * u, min(_HEIGHT.get(finding.zone, 0.0) + 0.12 * (v - 0.5), anatomy.base - 0.12)
    rough: Field = np.clip(1.0 + 0.55 * texture, 0.3, 1.7)
    away: Field = np.hypot(X - x, Y - y)
    match finding.group:
        case "opacity":
            size = 0.11 + 0.035 * grade
            return (0.22 + 0.06 * grade) * blob(x, y, size, 0.8 * size) * rough * lung
        case "pleural_effusion":
            # Lying lowest, the posterior sulcus fills first.
            level: Field = (
                anatomy.base + (0.16, -0.02, -0.28)[grade] - 0.16 * np.clip(np.abs(X - 0.15) / 0.4, 0.0, 1.2) ** 3
            )
            return (anatomy.aeration + 0.1) * ramp(Y - level.astype(np.float32), 0.06) * lung
        case "edema":
            return (0.14 + 0.05 * grade) * blob(0.04, 0.0, 0.3, 0.35) * rough * lung
        case "atelectasis":
            band: Stroke = (((-0.15 + 0.1 * u, anatomy.base - 0.1), (0.2 + 0.1 * w, anatomy.base - 0.13)), 4, 255)
            return 0.3 * strokes((band,), 1.0) * lung
        case "nodule":
            return 0.28 * ramp(1.0 - away / ((0.045, 0.06, 0.1)[grade] + 0.012 * w), 0.5) * np.maximum(lung, 0.5)
        case "granuloma":
            return 0.75 * ramp(1.0 - away / 0.022, 0.5)
        case "hypoinflation":
            return 0.06 * ramp(Y - base + 0.25, 0.4) * lung
        case "device" if finding.kind == "pacemaker":
            lead: Stroke = (
                ((-0.5, -0.5), (0.0, -0.55), (0.05, -0.2), (-0.05, 0.1), (-0.3, anatomy.base - 0.05)),
                2,
                255,
            )
            return 1.1 * strokes((lead,), 0.6) + 1.2 * ramp(0.05 - np.hypot((X + 0.52) * 2.0, Y + 0.5), 0.02)
        case "device" if finding.kind == "sternotomy wires":
            loops: list[Stroke] = [
                (((-0.53, h), (-0.49, h + 0.01)), 2, 255) for h in np.linspace(-0.45, 0.1, 4 + grade)
            ]
            return 1.1 * strokes(loops, 0.6)
        case "device":
            line: Stroke = (((-0.3, -0.8), (-0.1, -0.5), (-0.02, -0.1)), 2, 220)
            return 0.9 * strokes((line,), 0.6)
        case _:
            return np.zeros((1, 1), np.float32)
