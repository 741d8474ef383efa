"""What a report says of itself: what was judged, on what, by which rules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from radrank.core.studies import Modality
from radrank.evaluation.subject import LEAST_TUNING, Archive, Blocks

if TYPE_CHECKING:
    from radrank.engines.bundle import Bundle
    from radrank.evaluation.assembly import Options

ARCHIVES: Mapping[Archive, str] = {
    Archive.SOURCE: "the source's train",
    Archive.TARGET: "the target's other half",
    Archive.BOTH: "the source's train and the target's other half",
}

_RULES = (
    "Relevance. Pair: the same study. Strong: identical sets of finding groups, both normal included. Weak: a shared "
    "group, or both normal. Jaccard: the overlap of the sets. nDCG's gains: pair 3, strong 2, weak 1. mAP@k divides by "
    "min(k, relevant). Abnormal queries have findings; studies that are not said to be either count among all only.",
    "Identical report texts are one entry, asked with once, and the pair of all of their studies.",
    "Splits: the data set's own, else by id: sha256 of `split:<id>` modulo 100, below 70 train, below 80 validation, "
    "else test.",
)
_VIEWS = {
    "all": "An image entry is the normed sum of the vectors of a study's images; studies without a frontal are archive "
    "only.",
    "primary": "An image entry is a study's primary frontal: PA before AP before unknown.",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Read:
    """One data set as it was read: studies; broken files and rows; what a rule left out; reasons of broken images."""

    studies: int
    skipped: int
    left_out: Mapping[str, int]
    broken: Sequence[str]


def title(options: Options, bundles: Sequence[Bundle]) -> str:
    seeds = f" ({len(bundles)} seeds)" if len(bundles) > 1 else ""
    part = "all studies" if options.wanted is None else f"{options.split} split"
    return f"{bundles[0].manifest.name}{seeds} on {options.dataset}, {part}"


def notes(options: Options, bundles: Sequence[Bundle], read: Mapping[str, Read], overlap: int) -> Iterator[str]:
    """Everything but what depends on the blocks."""
    if options.command:
        yield f"`{options.command}`"
    for bundle in bundles:
        trained = bundle.manifest.training.get("dataset", {}).get("name", "an unknown data set")
        yield (
            f"Bundle {bundle.manifest.name} {bundle.sha256[:12]}, encoder {bundle.encoder_id[:12]}, "
            f"trained on {trained}."
        )
    for name, found in read.items():
        reasons = {**found.left_out, **Counter(found.broken)}
        told = [f"{count:,} × {reason}" for reason, count in reasons.items()]
        told += [f"{found.skipped:,} broken files or rows"] if found.skipped else []
        yield f"{name}: {found.studies:,} studies" + (f"; left out: {', '.join(told)}." if told else ".")
    if options.root is not None and "covid" in f"{options.root.parent.name}/{options.root.name}".lower():
        yield "The COVID set's texts are case notes, not radiology reports: a hard shift of domain."
    if options.transfer is not None:
        yield (
            "Transfer: the judged set is cut in two halves by patient; each is queries and gallery in turn, and both "
            "are judged together."
        )
    if options.archive is not None:
        yield (
            "The archive is a snapshot, which keeps neither texts nor official splits: its splits are those of the ids."
            + (f" {overlap:,} studies that are judged were left out of it." if overlap else "")
        )
    yield _VIEWS[options.views]
    yield from _RULES
    yield (
        f"Re-rankers score the {options.candidates} nearest entries of a query; the others follow in the embedding's "
        "order. Each query is asked by itself."
    )
    yield (f"Intervals: paired bootstrap over queries, {options.draws:,} draws. Nothing is tuned on what is judged.")


def counted(part: str, blocks: Blocks) -> Iterator[str]:
    """What stands in these blocks. part: the archive's name in a transfer, or nothing."""
    where = f"Archive {part}, which is {ARCHIVES[Archive(part)]}. " if part else ""
    told = []
    for block in blocks:
        judged = block.judged
        sizes = [
            f"{len(judged.entries[m]):,} {m} entries beside {len(judged.banks(m, m).gallery):,} in the archive"
            for m in Modality
        ]
        told.append(" and ".join(sizes))
    yield f"{where}Judged: {'; then '.join(told)}."
    tuning = blocks[0].tuning
    if tuning is None:
        yield (
            f"There are fewer than {LEAST_TUNING} studies to tune on: training-free methods keep the first parameters "
            "of their grids, and no row is matched."
        )
    else:
        entries = " and ".join(f"{len(tuning.entries[m]):,} {m} entries" for m in Modality)
        yield f"Tuned on {entries} of validation: parameters for macro Jaccard@10, offsets for the share of normals."
    uncertain = sum(int(np.count_nonzero(block.judged.entries[Modality.IMAGE].uncertain)) for block in blocks)
    if uncertain:
        yield f"{uncertain:,} image queries have an uncertain finding: they have no strong match, and count 0 there."
