"""The frontal phantom: a chest as a sum of smooth densities, seen through an exposure, with noise.

Densities add up along the ray, and a pixel's brightness is 1 − exp(−gain · density), as on a radiograph. Anatomy,
texture and noise come from the seed alone and never from the findings: a study with and without a finding differs where
the finding is, and nowhere else.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from radrank.core.studies import View
from radrank.datasets.demo_findings import Anatomy, Finding, altered

SIZE = 256

# float32 always; numpy's stubs widen it at the first Python number.
Field = NDArray[np.floating[Any]]
Stroke = tuple[Sequence[tuple[float, float]], int, int]

X: Field = np.linspace(-1.0, 1.0, SIZE, dtype=np.float32)[None, :]
Y: Field = np.linspace(-1.0, 1.0, SIZE, dtype=np.float32)[:, None]
_LIVER: Field = np.where(X < 0, -0.02, 0.03).astype(np.float32)  # lifts the right dome


def ramp(distance: Field, soft: float) -> Field:
    """0 outside (distance below −soft/2) to 1 inside, straight in between."""
    step: Field = distance * np.float32(1.0 / soft)
    step += np.float32(0.5)
    return np.clip(step, 0.0, 1.0, out=step)


def window(left: float, top: float, right: float, bottom: float) -> tuple[tuple[slice, slice], Field, Field]:
    """(index, x, y) of a part of the picture: most of the drawing's time goes where there is nothing to draw."""
    columns, rows = (
        slice(max(0, int((low + 1) * SIZE / 2)), min(SIZE, int((high + 1) * SIZE / 2) + 1))
        for low, high in ((left, right), (top, bottom))
    )
    return (rows, columns), X[:, columns], Y[rows]


def blob(x: float, y: float, rx: float, ry: float) -> Field:
    """A Gaussian of height 1 at (x, y), float32 [SIZE, SIZE]."""
    column: Field = np.exp(-0.5 * ((Y - y) / ry) ** 2)
    row: Field = np.exp(-0.5 * ((X - x) / rx) ** 2)
    return row * column


def strokes(lines: Sequence[Stroke], blur: float) -> Field:
    """Polylines (points in units, width in pixels, brightness 0–255), blurred; float32 [SIZE, SIZE] in 0–1."""
    canvas = Image.new("L", (SIZE, SIZE))
    pen = ImageDraw.Draw(canvas)
    for points, width, fill in lines:
        pen.line([((x + 1) * SIZE / 2, (y + 1) * SIZE / 2) for x, y in points], fill=fill, width=width, joint="curve")
    return np.asarray(canvas.filter(ImageFilter.BoxBlur(blur)), dtype=np.float32) / np.float32(255.0)


@functools.cache
def _tile() -> Field:
    """Smooth noise of three scales, about −1 to 1, float32 [512, 512]: windows into it texture lungs and lesions."""
    rng = np.random.default_rng(20150101)
    total = np.zeros((512, 512), np.float32)
    for cells, share in ((16, 0.5), (48, 0.35), (128, 0.3)):
        coarse = Image.fromarray(rng.standard_normal((cells, cells)).astype(np.float32))
        total += share * np.asarray(coarse.resize((512, 512), Image.Resampling.BICUBIC), dtype=np.float32)
    return total


@functools.cache
def _grain() -> Field:
    """Unit noise, float32 [768, 768], read through windows: drawing it anew costs more than the blur it hides."""
    return np.random.default_rng(20241231).standard_normal((768, 768), dtype=np.float32)


def cloud(rng: np.random.Generator) -> Field:
    """A window of smooth noise, float32 [SIZE, SIZE]."""
    top, left = rng.integers(0, 512 - SIZE, 2)
    return _tile()[top : top + SIZE, left : left + SIZE]


@functools.cache
def _marker() -> Field:
    """The technician's L, on the patient's left."""
    return np.float32(0.5) * strokes(((((0.8, -0.86), (0.8, -0.79), (0.84, -0.79)), 2, 255),), 0.5)


@dataclass(slots=True)
class Chest:
    """The picture in the making, fields float32 [SIZE, SIZE] unless said otherwise.

    density: what is drawn so far
    lung: 1 in air, 0 outside
    markings: vessels, drawn in where `lung` is; a finding may wipe or strengthen them
    ribs: density of the ribs, added last, so that a fracture can break them
    outer: half-width of the thorax by row [SIZE, 1]
    """

    anatomy: Anatomy
    density: Field
    lung: Field
    markings: Field
    ribs: Field
    outer: Field
    texture: Field


def outline(anatomy: Anatomy, inset: float = 0.0) -> Field:
    """Half-width of the thorax by row, `inset` inside the pleura, float32 [SIZE, 1]."""
    apex = anatomy.apex + inset
    height = np.clip((anatomy.base - Y) / (anatomy.base - apex), 0.0, None)
    shape: Field = np.sqrt(np.clip(1.0 - height**2.4, 0.0, 1.0))
    return ((anatomy.lung_width - 0.8 * inset) * shape * (0.97 + 0.05 * Y)).astype(np.float32)


def domes(anatomy: Anatomy) -> Field:
    """y of the diaphragm by column, the right dome the higher, float32 [1, SIZE]."""
    summits: Field = anatomy.base + _LIVER + anatomy.dome * ((np.abs(X) - 0.34) / 0.4) ** 2
    return summits


def spine_line(anatomy: Anatomy) -> Field:
    """x of the spine by row, float32 [SIZE, 1]."""
    line: Field = anatomy.bend * np.cos((Y - 0.05) * 2.6)
    return line


def _wave(phase: Field) -> Field:
    # Not `% 1.0`: numpy's remainder is ten times slower than floor.
    saw: Field = np.abs(phase - np.floor(phase) - np.float32(0.5))
    return saw


def _ribs(anatomy: Anatomy, outer: Field) -> Field:
    across, gap = np.abs(X[:, SIZE // 2 :]), anatomy.rib_gap  # one half is the other's mirror image
    behind = anatomy.rib_slope * (0.45 * across**2 - 0.12 * across)
    before = anatomy.rib_slope * 0.5 * (0.8 - across)
    cage = ramp(outer + 0.035 - across, 0.03) * ramp(across - 0.09, 0.04) * ramp(0.62 - Y, 0.3)
    back = _wave((Y - anatomy.apex) / gap - behind / gap)
    front = _wave((Y - anatomy.apex) / gap + 0.3 - before / gap)
    # The cortex is brighter than the marrow: a rib has two rims.
    bone = ramp(0.17 - back, 0.1) + 0.5 * ramp(0.045 - np.abs(back - 0.15), 0.05)
    half = cage * (0.085 * bone + 0.055 * ramp(0.2 - front, 0.12) * ramp(across - 0.34, 0.3))
    return np.concatenate([half[:, ::-1], half], axis=1)


@functools.lru_cache(maxsize=64)
def _tree(number: int, sign: int) -> Field:
    """The vessels of one lung, one of many cached: drawing them anew would be a third of a picture's time."""
    lines: list[Stroke] = []
    for branch, (a, b, c, d, e, f) in enumerate(np.random.default_rng([number, sign + 1]).random((11, 6))):
        x, y = sign * (0.15 + 0.05 * a), -0.06 + 0.1 * b
        angle = -1.35 + 0.27 * branch + 0.15 * (c - 0.5)
        for step in range(4):
            length = (0.10 + 0.07 * d) * (1.2 if angle > 0 else 1.0)
            angle += 0.35 * (e - 0.5) + 0.12 * (1 if angle > 0 else -1) * (f - 0.3)
            end = (x + sign * length * np.cos(angle), y + length * np.sin(angle))
            lines.append((((x, y), end), 3 - step if step < 2 else 1, 210 - 45 * step))
            if step:
                fork = angle + (0.7 if (branch + step) % 2 else -0.7)
                twig = (end[0] + sign * 0.09 * np.cos(fork), end[1] + 0.09 * np.sin(fork))
                lines.append(((end, twig), 1, 120 - 20 * step))
            x, y = end
    return strokes(lines, 1.1)


def _vessels(anatomy: Anatomy, rng: np.random.Generator) -> Field:
    right, left = rng.integers(0, 32, 2)
    half = SIZE // 2
    both = np.concatenate([_tree(int(right), -1)[:, :half], _tree(int(left), 1)[:, half:]], axis=1)
    return np.float32(0.26 * anatomy.vessels) * both


def _bones_and_trunk(anatomy: Anatomy, ap: bool) -> Field:
    shoulder = np.interp(Y[:, 0], (-1.0, -0.93, -0.72, -0.5, 1.0), (0.24, 0.3, 0.97, anatomy.body, anatomy.body + 0.03))
    half = np.convolve(np.pad(shoulder, 7, "edge"), np.full(15, 1 / 15), "valid").astype(np.float32)[:, None]
    depth = np.sqrt(np.clip(1.0 - (X / (half + 0.06)) ** 2, 0.0, 1.0))
    density = anatomy.fat * (0.55 + 0.5 * depth)
    density += 0.25 * ramp(Y - domes(anatomy), 0.3)
    density *= ramp(half - np.abs(X), 0.04)
    part, x, y = window(-0.8, -1.0, 0.8, -0.4)
    side = np.abs(x)
    collar = (-0.66 if ap else -0.58) - 0.16 * np.sin(np.clip(side - 0.08, 0.0, 0.7) * 2.0)
    density[part] += 0.17 * ramp(0.026 - np.abs(y - collar), 0.02) * (ramp(0.72 - side, 0.1) * ramp(side - 0.07, 0.03))
    blade = 0.66 if ap else 0.8  # PA, the arms forward: the shoulder blades are off the lungs
    for sign in (-1, 1):
        part, x, y = window(sign * 0.78 - 0.22, -0.95, sign * 0.78 + 0.22, 0.25)
        edge = blade - 0.22 * (y + 0.2)
        density[part] += 0.11 * ramp(0.03 - np.abs(np.abs(x) - edge), 0.04) * ramp(0.45 - np.abs(y + 0.35), 0.2)
        if anatomy.breast:
            part, x, y = window(sign * 0.44 - 0.4, -0.1, sign * 0.44 + 0.4, 0.75)
            mound = 1.0 - ((x - sign * 0.44) / 0.34) ** 2 - ((y - 0.33) / 0.33) ** 2
            density[part] += anatomy.breast * ramp(mound, 0.5)
    return density


def _add_middle(density: Field, anatomy: Anatomy) -> None:
    """Spine, mediastinum, trachea, aorta, heart, hila and the stomach's bubble."""
    part, x, y = window(-0.42, -1.0, 0.42, 1.0)
    centre = spine_line(anatomy)
    off = np.abs(x - centre)
    disc = ramp(np.abs((Y * 7.5) % 1.0 - 0.5) - 0.1, 0.15)
    density[part] += ramp(0.08 - off, 0.04) * (0.09 + 0.07 * disc)
    density[part] += ramp(0.02 - np.abs(off - 0.055), 0.02) * (0.05 * disc)
    waist = np.interp(Y[:, 0], (-1.0, -0.6, -0.3, 0.0, 0.4), (0.12, 0.13, 0.15, 0.19, 0.15)).astype(np.float32)[:, None]
    density[part] += ramp(waist - np.abs(x - 0.6 * centre), 0.09) * (0.27 * ramp(Y + 0.95, 0.5))

    wide, mid = anatomy.heart, anatomy.base - 0.15 + anatomy.heart_y
    tall = 0.27 + 0.3 * (wide - 0.3)
    part, x, y = window(-0.85 * wide, mid - 0.5, 1.5 * wide, mid + 0.5)
    # The heart leans: its long axis runs from the right shoulder to the left hip.
    x, y = x - 0.32 * wide, y - mid
    u, v = (0.93 * x + 0.37 * y) / (0.98 * wide), (0.93 * y - 0.37 * x) / tall
    sunk = 0.3 + 0.7 * ramp(domes(anatomy)[:, part[1]] - Y[part[0]], 0.08)  # below the diaphragm the belly hides it
    density[part] += 0.36 * sunk * ramp(1.0 - u**2 - v**2, 0.24)

    part, x, y = window(-0.15, -0.62, 0.42, 0.45)
    knob = 1.0 - np.sqrt(((x - 0.13) / anatomy.knob) ** 2 + ((y + 0.33) / (anatomy.knob * 1.1)) ** 2)
    density[part] += 0.24 * ramp(knob, 0.35)
    bulge = 0.09 + anatomy.tortuous * np.sin(np.clip((y + 0.3) / 0.75, 0.0, 1.0) * np.pi)
    length = (0.08 + 1.2 * anatomy.tortuous) * ramp(0.35 - np.abs(y - 0.05), 0.1)
    density[part] += length * ramp(0.06 - np.abs(x - bulge), 0.03)

    part, x, y = window(-0.2, -1.0, 0.2, 0.05)
    air = 0.19 * ramp(0.042 - np.abs(x - 0.012), 0.03) * (ramp(-0.22 - y, 0.05) * ramp(y + 0.97, 0.1))
    for sign, slope in ((-1, 0.9), (1, 0.7)):
        stem = ramp(0.035 - np.abs(y + 0.22 - slope * sign * x), 0.03)
        air += 0.1 * stem * (ramp(sign * x, 0.02) * ramp(0.16 - sign * x, 0.05))
    density[part] -= air
    for sign in (-1, 1):
        density += 0.13 * blob(sign * 0.19, -0.05 + 0.02 * sign, 0.06, 0.09)
    density -= 0.2 * blob(0.36, anatomy.base + 0.24, 0.13, 0.06)


def chest(anatomy: Anatomy, *, seed: Sequence[int], ap: bool) -> Chest:
    """The chest before any lesion is laid on it. `ap` moves collar bones and shoulder blades."""
    rng = np.random.default_rng([*seed, 1])
    outer, texture = outline(anatomy), cloud(rng)
    lung = ramp(outer - np.abs(X), 0.035) * ramp(np.abs(X) - 0.11, 0.04) * ramp(domes(anatomy) - Y, 0.025)
    density = _bones_and_trunk(anatomy, ap)
    _add_middle(density, anatomy)
    density -= anatomy.aeration * lung * (0.94 + 0.12 * np.clip(-Y, -0.5, 0.6))
    density += 0.018 * texture
    return Chest(anatomy, density, lung, _vessels(anatomy, rng), _ribs(anatomy, outer), outer, cloud(rng))


def exposed(density: Field, *, seed: Sequence[int], ap: bool = False) -> NDArray[np.uint8]:
    """The picture of a density: pose, exposure, blur and noise of the seed. uint8 [SIZE, SIZE]."""
    rng = np.random.default_rng([*seed, 2])
    angle, zoom = rng.normal(0.0, 0.025), rng.uniform(0.84, 0.96)
    shift = rng.normal(0.0, 3.0, 2)
    gain, lift, grain = rng.uniform(1.3, 1.85), rng.uniform(0.0, 14.0), rng.uniform(2.0, 6.0)
    if ap:
        gain, grain = gain * 0.92, grain + 1.5
    bright = np.float32(245.0) * (1.0 - np.exp(-np.float32(gain) * np.clip(density, 0.0, None)))
    c, s, mid = np.cos(angle) * zoom, np.sin(angle) * zoom, SIZE / 2
    matrix = (c, s, mid - c * mid - s * mid + shift[0], -s, c, mid + s * mid - c * mid + shift[1])
    picture = Image.fromarray(bright.astype(np.uint8))
    posed = picture.transform(picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    top, left = rng.integers(0, 768 - SIZE, 2)
    noisy = np.float32(grain) * _grain()[top : top + SIZE, left : left + SIZE] + np.float32(lift)
    noisy += np.asarray(posed)
    return np.clip(noisy, 0.0, 255.0, out=noisy).astype(np.uint8)


def frontal(
    anatomy: Anatomy,
    findings: Sequence[Finding] = (),
    *,
    seed: Sequence[int],
    view: View = View.PA,
    lesions: Mapping[str, Callable[[Chest, Finding], None]],
) -> NDArray[np.uint8]:
    """A frontal radiograph, uint8 [SIZE, SIZE]. AP magnifies the heart and leaves the shoulder blades on the lungs.

    lesions: how to lay each group's finding on a chest; a group that is not there shows in the anatomy alone
    """
    ap = view is View.AP
    shaped = altered(anatomy, findings)
    made = chest(shaped, seed=seed, ap=ap)
    for finding in findings:
        if finding.group in lesions:
            lesions[finding.group](made, finding)
    made.density += made.markings * made.lung + made.ribs * (0.35 + 0.65 * made.lung)
    made.density += _marker()
    return exposed(made.density, seed=seed, ap=ap)


def jpeg(pixels: NDArray[np.uint8], quality: int = 88) -> bytes:
    """A gray JPEG of uint8 [height, width]."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
