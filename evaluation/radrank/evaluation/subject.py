"""What is judged: studies of a collection, cut into blocks of a world that is judged and one that is tuned on.

    one data set     queries and gallery: a split; archive: train; tuned on validation
    unseen studies   queries and gallery: studies of a folder; archive: a snapshot; tuned on the snapshot's validation
    transfer         queries and gallery: each half of the target in turn; archive: the source's train, the target's
                     other half, or both; tuned on the source's validation

Nothing is tuned on what is judged, and no judged study stands in its own archive.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

import numpy as np

from radrank.core.errors import InvalidQuery
from radrank.core.studies import Modality, Split
from radrank.evaluation.collection import Collection, joined
from radrank.evaluation.scoring import Block
from radrank.evaluation.worlds import World

LEAST_TUNING = 50  # entries of a modality: with fewer, an offset would follow the noise
_LEAST = 2  # entries and archive items of a modality: with fewer there is nothing to rank

Blocks = tuple[Block, ...]


class Archive(StrEnum):
    """Whose studies surround the target's in a transfer."""

    SOURCE = "source"
    TARGET = "target"
    BOTH = "both"


def of_split(collection: Collection, split: Split) -> Blocks:
    """Test beside train, tuned on validation; or each half of validation beside train, tuned on the other half.

    Raises InvalidQuery for train, which the bundle has learned, and where a side is too small.
    """
    train, validation = collection.of_split(Split.TRAIN), collection.of_split(Split.VALIDATION)
    if split is Split.TRAIN:
        raise InvalidQuery("split", "train is what the bundle has learned, and the archive: judge test or validation")
    if split is Split.TEST:
        judged = World(collection, gallery=collection.of_split(split), archive=train)
        return (_block(judged, World(collection, gallery=validation, archive=train)),)
    halves = [World(collection, gallery=half, archive=train) for half in collection.halves(validation)]
    return _block(halves[0], halves[1]), _block(halves[1], halves[0])


def unseen(folder: Collection, archive: Collection, split: Split | None) -> tuple[Blocks, int]:
    """Studies of a folder (of one split, or all) beside those of a snapshot.

    Studies that are judged are left out of the archive. Returns how many of them it held, too.
    """
    both = joined(folder, archive)
    judged = np.arange(len(folder), dtype=np.int32) if split is None else folder.of_split(split)
    ids = {folder.study_ids[row] for row in judged}
    others = [row for row in range(len(folder), len(both)) if both.study_ids[row] not in ids]
    known = np.array(others, dtype=np.int32)
    held_out = known[[both.splits[row] is Split.VALIDATION for row in others]]
    world = World(both, gallery=judged, archive=known)
    return (_block(world, World(both, gallery=held_out, archive=known)),), len(archive) - len(known)


def transferred(target: Collection, source: Collection, split: Split | None) -> dict[Archive, Blocks]:
    """The target's studies (of one split, or all) in two halves by patient, each judged in turn, in every archive."""
    both = joined(target, source)
    judged = np.arange(len(target), dtype=np.int32) if split is None else target.of_split(split)
    train, validation = (
        (source.of_split(part) + len(target)).astype(np.int32) for part in (Split.TRAIN, Split.VALIDATION)
    )
    tuning = World(both, gallery=validation, archive=train)
    first, second = target.halves(judged)

    def blocks(archive: Archive) -> Iterator[Block]:
        for half, other in ((first, second), (second, first)):
            around = {Archive.SOURCE: train, Archive.TARGET: other, Archive.BOTH: np.concatenate([other, train])}
            yield _block(World(both, gallery=half, archive=around[archive]), tuning)

    return {archive: tuple(blocks(archive)) for archive in Archive}


def _block(judged: World, tuning: World) -> Block:
    for m in Modality:
        entries, items = len(judged.entries[m]), len(judged.banks(m, m).gallery)
        if min(entries, items) < _LEAST:
            raise InvalidQuery(
                "split", f"there are {entries} {m} entries to judge and {items} in the archive, too few to rank"
            )
    enough = all(len(tuning.entries[m]) >= LEAST_TUNING for m in Modality)
    return Block(judged=judged, tuning=tuning if enough else None)
