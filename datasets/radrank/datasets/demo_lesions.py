"""Lesions: each lays one group's finding on a frontal chest, where and as large as its words will say."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from radrank.datasets.demo_findings import Finding
from radrank.datasets.demo_phantom import SIZE, Chest, Field, Stroke, X, Y, blob, domes, outline, ramp, strokes


def _row(y: float) -> int:
    return int(np.clip((y + 1) * SIZE / 2, 0, SIZE - 1))


def spot(chest: Chest, finding: Finding, sign: int) -> tuple[float, float]:
    """(x, y) inside the lung of that side, in the finding's zone, clear of heart and chest wall."""
    top, base = chest.anatomy.apex + 0.14, chest.anatomy.base - 0.04
    third = {"upper": 0, "mid": 1, "lower": 2}.get(finding.zone, 1)
    y = top + (base - top) * (third + 0.2 + 0.6 * finding.place[1]) / 3
    outer = float(chest.outer[_row(y), 0])
    inner = max(0.24, 0.95 * chest.anatomy.heart if sign > 0 and third == 2 else 0.24)
    inner = min(inner, outer - 0.16)
    return sign * (inner + (outer - 0.09 - inner) * finding.place[0]), y


def _half(sign: int) -> Field:
    return ramp(sign * X, 0.02)


def opacity(chest: Chest, finding: Finding) -> None:
    x, y = spot(chest, finding, finding.signs[0])
    size = 0.10 + 0.035 * finding.severity
    dx, dy = 0.07 * (finding.place[2] - 0.5), 0.05 * (0.5 - finding.place[0])
    patch = blob(x, y, size, 0.85 * size) + 0.6 * blob(x + 2 * dx, y + dy + 0.06, 0.7 * size, 0.6 * size)
    rough = np.clip(1.0 + 0.55 * chest.texture, 0.3, 1.7)
    chest.density += (0.25 + 0.06 * finding.severity) * patch * rough * chest.lung


def effusion(chest: Chest, finding: Finding) -> None:
    anatomy, across = chest.anatomy, np.abs(X)
    level = anatomy.base + (0.1, -0.12, -0.42)[finding.severity] - 0.06 * finding.place[0]
    climb = np.clip((across - 0.1) / (anatomy.lung_width - 0.1), 0.0, 1.1) ** 3
    for sign in finding.signs:
        fluid = ramp(Y - (level - 0.22 * climb), 0.07) * chest.lung * _half(sign)
        chest.density += (anatomy.aeration + 0.12) * fluid
        chest.markings *= 1.0 - 0.8 * fluid
        chest.ribs *= 1.0 - 0.65 * fluid


def pneumothorax(chest: Chest, finding: Finding) -> None:
    rim = 0.09 + 0.07 * finding.severity + 0.02 * finding.place[0]
    inner = outline(chest.anatomy, rim)
    half = _half(finding.signs[0]) * chest.lung
    # Air rises to the apex and thins out towards the base.
    where = ramp(0.25 + 0.15 * finding.severity - Y, 0.3)
    inside = ramp(inner - np.abs(X), 0.03)
    free = (1.0 - inside) * half * where
    line = 4.0 * inside * (1.0 - inside) * half * where
    chest.markings *= 1.0 - free
    chest.density += 0.2 * line - 0.11 * free
    chest.density += 0.05 * finding.severity * inside * half


def edema(chest: Chest, finding: Finding) -> None:
    strength = 0.15 + 0.06 * finding.severity
    rough = np.clip(1.0 + 0.6 * chest.texture, 0.2, 1.9)
    for sign in finding.signs:
        haze = blob(sign * 0.3, 0.02, 0.15, 0.24) + 0.4 * blob(sign * 0.42, 0.2, 0.2, 0.22)
        chest.density += strength * haze * rough * chest.lung
        edge = float(chest.outer[_row(0.25), 0])
        septal: list[Stroke] = [
            (((sign * (edge - 0.01), y), (sign * (edge - 0.1), y - 0.012)), 1, 220) for y in np.arange(0.1, 0.36, 0.05)
        ]
        chest.density += 0.22 * strokes(septal, 0.6) * chest.lung
    chest.markings *= 1.5 + 0.2 * finding.severity


def atelectasis(chest: Chest, finding: Finding) -> None:
    u, v, w = finding.place
    for sign in finding.signs:
        y = chest.anatomy.base - 0.07 - 0.1 * u
        start = 0.3 + 0.12 * w
        end = min(start + 0.24 + 0.05 * finding.severity, chest.anatomy.lung_width - 0.06)
        bands: list[Stroke] = [
            (((sign * start, y + 0.05 * v), (sign * end, y - 0.04 + k * 0.02)), 4, 255 - 60 * k)
            for k, y in enumerate((y, y - 0.09)[: 1 + (finding.severity > 0)])
        ]
        chest.density += 0.34 * strokes(bands, 1.0) * chest.lung
        haze = blob(sign * 0.45, chest.anatomy.base, 0.18, 0.05)
        chest.density += 0.05 * (1 + finding.severity) * haze * chest.lung


def nodule(chest: Chest, finding: Finding) -> None:
    x, y = spot(chest, finding, finding.signs[0])
    radius = (0.042, 0.06, 0.1)[finding.severity] + 0.012 * finding.place[2]
    away = 1.0 - np.sqrt(((X - x) / radius) ** 2 + ((Y - y) / (0.92 * radius)) ** 2)
    chest.density += 0.3 * ramp(away, 0.5) * np.maximum(chest.lung, 0.5)


def granuloma(chest: Chest, finding: Finding) -> None:
    x, y = spot(chest, finding, finding.signs[0])
    u, v, w = finding.place
    offsets = ((0.0, 0.0), (0.08 * u - 0.02, -0.07), (-0.06, 0.05 + 0.05 * v), (0.05, 0.09 * w))
    for dx, dy in offsets[: 1 + finding.severity]:
        away = 1.0 - np.sqrt((X - x - dx) ** 2 + (Y - y - dy) ** 2) / 0.021
        chest.density += 0.75 * ramp(away, 0.5)


def device(chest: Chest, finding: Finding) -> None:
    u, v, w = finding.place
    jitter = 0.04 * (u - 0.5)
    tip = chest.anatomy.base - 0.06
    box: Field = np.zeros((1, 1), np.float32)
    lines: list[Stroke] = []
    if finding.kind == "pacemaker":
        x, y = 0.52 + jitter, -0.47 + 0.05 * v
        box = ramp(0.085 - np.maximum(np.abs(X - x), np.abs(Y - y)), 0.02) * ramp(0.1 - np.hypot(X - x, Y - y), 0.02)
        vein = ((x, y), (0.4, y - 0.13), (0.18, -0.5), (-0.08, -0.38), (-0.12, -0.15))
        lines = [((*vein, (-0.13, 0.12), (0.06 + jitter, tip), (0.16 + 0.06 * w, tip - 0.01)), 2, 255)]
        if finding.severity:
            lines.append((((-0.11, -0.3), (-0.15, 0.0), (-0.12, 0.06), (-0.07, -0.02)), 2, 230))
    elif finding.kind == "central line":
        neck = ((-0.2 + jitter, -1.0), (-0.17, -0.75)) if v < 0.5 else ((-0.8, -0.62), (-0.5, -0.66), (-0.28, -0.58))
        lines = [((*neck, (-0.13, -0.45), (-0.115, -0.2), (-0.11, -0.08 + 0.1 * w)), 2, 230)]
    elif finding.kind == "port":
        x, y = -0.48 + jitter, -0.36 + 0.08 * v
        box = ramp(0.062 - np.abs(np.hypot(X - x, Y - y) - 0.01), 0.03)
        lines = [(((x, y), (x + 0.02, y - 0.2), (-0.3, -0.62), (-0.16, -0.5), (-0.11, -0.1 + 0.06 * w)), 2, 230)]
    else:
        for y in np.linspace(-0.42 + jitter, 0.2, 4 + finding.severity):
            tilt = 0.012 * (-1) ** int(10 * y)
            loop = (
                (-0.03, y - 0.015),
                (0.03, y - 0.02 + tilt),
                (0.032, y + 0.015),
                (-0.03, y + 0.018),
                (-0.03, y - 0.015),
            )
            lines.append((loop, 1, 255))
    chest.density += 1.1 * strokes(lines, 0.6) + 1.2 * box


def fracture(chest: Chest, finding: Finding) -> None:
    anatomy, sign = chest.anatomy, finding.signs[0]
    number = (3 if finding.zone == "upper" else 5) + int(2 * finding.place[1])
    for k in range(1 + finding.severity):
        x = 0.52 + 0.08 * finding.place[0]
        bow = anatomy.rib_slope * (0.45 * x**2 - 0.12 * x)
        y = anatomy.apex + (number + k - 0.5) * anatomy.rib_gap + bow
        x = min(x, float(chest.outer[_row(y), 0]) - 0.03)
        near = ramp(0.06 - np.abs(X - sign * x), 0.02) * ramp(0.06 - np.abs(Y - y), 0.02)
        gap = ramp(0.02 - np.abs(X - sign * x - 0.3 * (Y - y)), 0.015)
        chest.ribs *= 1.0 - near * gap
        for step, shift in ((-1, -0.02), (1, 0.025)):
            chest.ribs += 0.22 * blob(sign * (x + step * 0.032), y + shift, 0.014, 0.02)
        chest.density -= 0.08 * near * gap


def aorta(chest: Chest, finding: Finding) -> None:
    radius = chest.anatomy.knob
    chalk = 0.22 + 0.06 * finding.severity
    rim = np.abs(np.hypot(X - 0.13, (Y + 0.33) / 1.1) - radius * 0.88)
    chest.density += chalk * ramp(0.012 - rim, 0.012) * ramp(X - 0.13, 0.05) * ramp(-0.28 - Y, 0.05)


def emphysema(chest: Chest, finding: Finding) -> None:
    sign = -1 if finding.place[0] < 0.5 else 1
    away = np.hypot(X - sign * 0.42, Y - chest.anatomy.apex - 0.3)
    wall = 0.11 + 0.02 * finding.severity
    bulla = ramp(wall - away, 0.03)
    chest.density += (0.12 * ramp(0.008 - np.abs(away - wall), 0.012) - 0.06 * bulla) * chest.lung
    chest.markings *= 1.0 - 0.8 * bulla


def hypoinflation(chest: Chest, finding: Finding) -> None:
    crowd = ramp(Y - (domes(chest.anatomy) - 0.25), 0.4) * chest.lung
    chest.density += (0.05 + 0.02 * finding.severity) * crowd


LESIONS: Mapping[str, Callable[[Chest, Finding], None]] = {
    "opacity": opacity,
    "pleural_effusion": effusion,
    "pneumothorax": pneumothorax,
    "edema": edema,
    "atelectasis": atelectasis,
    "nodule": nodule,
    "granuloma": granuloma,
    "emphysema": emphysema,
    "device": device,
    "fracture": fracture,
    "aorta": aorta,
    "hypoinflation": hypoinflation,
}
