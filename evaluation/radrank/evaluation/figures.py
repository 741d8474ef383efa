"""All plots of an evaluation, into one folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from radrank.core.studies import Modality
from radrank.evaluation.details import BY_GROUP
from radrank.evaluation.evaluate import Findings
from radrank.evaluation.maps import Cloud, Points, plot_map
from radrank.evaluation.plots import plot_changes, plot_groups, plot_ranks, plot_reliability
from radrank.evaluation.results import Scope
from radrank.evaluation.scoring import Block


def save_figures(parts: Mapping[str, Findings], clouds: Sequence[Cloud], out: Path) -> list[Path]:
    """Writes PNG files and returns them. parts: by the name that goes before their files', "" for none.

    changes-<scope>, groups-<direction>, ranks-<direction> of every part; calibration and map of the first.
    """
    written: list[Path] = []

    def path(*words: str) -> Path:
        written.append(out / f"{'-'.join(filter(None, words))}.png")
        return written[-1]

    for part, findings in parts.items():
        for scope in (Scope.ALL, Scope.ABNORMAL):
            plot_changes(findings.report.tables, path(part, "changes", scope), scope=scope)
        for found in findings.details:
            direction, words = found.direction.replace("→", "-"), f"{found.direction}, {found.method}"
            plot_groups(
                found.groups,
                found.before,
                found.after,
                found.counts,
                path(part, "groups", direction),
                direction=words,
                metric=BY_GROUP,
            )
            plot_ranks(found.ranks, path(part, "ranks", direction), direction=words)
    first = next(iter(parts.values()))
    if first.reliability:
        plot_reliability(first.reliability, path("calibration"))
    plot_map(clouds, path("map"))
    return written


def cloud(title: str, blocks: Sequence[Block]) -> Cloud:
    """The judged entries of these blocks as one panel of a map."""
    return Cloud(title=title, images=_points(blocks, Modality.IMAGE), reports=_points(blocks, Modality.REPORT))


def _points(blocks: Sequence[Block], m: Modality) -> Points:
    """An entry of several groups is shown as the one that is most frequent here."""
    entries = [block.judged.entries[m] for block in blocks]
    findings = np.concatenate([one.labels for one in entries])[:, 1:]
    names = np.array([*blocks[0].judged.collection.groups, ""])
    commonest = np.where(findings, findings.sum(axis=0) + 1, 0)
    chosen = commonest.argmax(axis=1) if findings.shape[1] else np.zeros(len(findings), dtype=np.int64)
    return Points(
        vectors=np.concatenate([one.vectors for one in entries]),
        normal=np.concatenate([one.normal for one in entries]),
        groups=names[np.where(findings.any(axis=1), chosen, len(names) - 1)].tolist(),
    )
