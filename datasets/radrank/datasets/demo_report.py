"""Reports in words: what the picture shows, what it does not, in one of many orders."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from radrank.core.studies import View
from radrank.datasets.demo_findings import Finding
from radrank.datasets.demo_phrases import (
    COMPARISONS,
    DENIALS,
    KIND_WORDS,
    NORMAL,
    OPENINGS,
    PHRASES,
    ZONE_WORDS,
)

_VIEW_WORDS = {View.PA: ("PA", "frontal", "PA upright"), View.AP: ("AP", "AP portable", "portable frontal")}


def _pick(rng: np.random.Generator, choices: Sequence[str]) -> str:
    return choices[int(rng.integers(len(choices)))]


def _sentence(text: str) -> str:
    text = " ".join(text.split())
    return text[:1].upper() + text[1:]


def _filled(phrase: str, finding: Finding, rng: np.random.Generator) -> str:
    both = finding.side == "both"
    side = _pick(rng, ("bilateral", "bilateral", "right and left")) if both else finding.side
    return _sentence(
        phrase.format(
            side=side,
            base=_pick(rng, ("lung bases", "bases bilaterally") if both else (f"{side} lung base", f"{side} base")),
            zone=_pick(rng, ZONE_WORDS[finding.zone]) if finding.zone else "",
            rib=_pick(rng, ("upper",) if finding.zone == "upper" else ("mid", "middle")),
            grade=PHRASES[finding.group].grades[finding.severity],
            kind=_pick(rng, KIND_WORDS[finding.kind]) if finding.kind else "",
        )
    )


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def _unremarkable(present: set[str], count: int, rng: np.random.Generator) -> list[str]:
    """Sentences that deny `count` absent groups, singly, together, or by calling the organ normal."""
    absent = [group for group in PHRASES if group not in present]
    # "Lungs are clear" and "normally inflated" deny more than one group.
    lungs_free = not present & {"opacity", "edema", "atelectasis", "nodule", "granuloma", "pneumothorax", "emphysema"}
    # Every report speaks of the common ones first, as radiologists do.
    common = [group for group in ("cardiomegaly", "opacity", "pleural_effusion", "pneumothorax") if group in absent]
    rest = [group for group in absent if group not in common]
    rng.shuffle(rest)
    rng.shuffle(common)
    chosen = (common + rest)[:count]
    sentences, denied = [], []
    for group in chosen:
        phrases = PHRASES[group]
        calm = phrases.fine if group != "opacity" or (lungs_free and "hypoinflation" not in present) else ()
        if (group == "emphysema" and "hypoinflation" in present) or (group == "edema" and "emphysema" in present):
            calm = ()
        if group == "aorta" and present & {"cardiomegaly", "device"}:
            calm = calm[-1:]
        if calm and rng.random() < 0.65:
            sentences.append(_pick(rng, calm))
        else:
            denied.append(_pick(rng, phrases.names))
    while denied:
        size = 1 + int(rng.integers(3))
        sentences.append(_sentence(_pick(rng, DENIALS).format(_listed(denied[:size]))))
        del denied[:size]
    return sentences


def written(
    findings: Sequence[Finding],
    rng: np.random.Generator,
    *,
    view: View = View.PA,
    lateral: bool = False,
    prior: bool = False,
) -> tuple[str, str]:
    """(findings, impression) of a report. One may be empty; every finding is named in what remains.

    lateral: the study has a second view; prior: the patient was examined before
    """
    terse, long = rng.random() < 0.2, rng.random() < 0.4
    present = {finding.group for finding in findings}
    seen = [_filled(_pick(rng, PHRASES[finding.group].found), finding, rng) for finding in findings]
    concluded = [_filled(_pick(rng, PHRASES[finding.group].concluded), finding, rng) for finding in findings]
    if terse:
        denials = _unremarkable(present, int(rng.integers(0, 3)) if findings else int(rng.integers(2, 4)), rng)
        body = seen + denials
        rng.shuffle(body)
        if rng.random() < 0.5:
            return " ".join(body), ""
        return "", " ".join(concluded or [_pick(rng, NORMAL)])
    body = seen + _unremarkable(present, int(rng.integers(6, 10) if long else rng.integers(3, 6)), rng)
    rng.shuffle(body)
    lead = []
    if rng.random() < 0.4:
        words = _pick(rng, _VIEW_WORDS.get(view, ("frontal",))) + (" and lateral" if lateral else "")
        lead.append(_sentence(_pick(rng, OPENINGS).format(view=words)))
    if prior and rng.random() < 0.7:
        lead.append(_pick(rng, COMPARISONS))
    rng.shuffle(concluded)
    if not findings:
        concluded = [_pick(rng, NORMAL)]
    elif rng.random() < 0.15:
        concluded.append("Clinical correlation is suggested.")
    return " ".join(lead + body), " ".join(concluded) if rng.random() < 0.92 else ""
