"""What `radrank index build` does to an archive: import a data set, re-encode for another bundle."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from radrank.core.archive import Archive
from radrank.core.errors import BadStudy, NotFound
from radrank.core.ports import IndexFactory
from radrank.core.records import Record
from radrank.core.snapshot import current
from radrank.core.studies import Study
from radrank.engines.index import INDEXES, index_factory
from radrank.server.importing import BATCH, OnBad, encode_studies
from radrank.server.library import Engines

_TRANSACTION = 256  # studies: few enough to hold, many enough that waiting for the disk does not count

Step = Callable[[], None]
"""Called once for every study that is done."""


@dataclass(frozen=True, slots=True)
class Imported:
    """Counts of studies."""

    added: int
    replaced: int


def import_studies(
    archive: Archive, engines: Engines, studies: Iterable[Study], *, on_bad: OnBad, step: Step = lambda: None
) -> Imported:
    """Upserts studies, some hundreds a transaction: what an interrupted import leaves is whole, and can be repeated."""
    added = replaced = 0
    records = _stepping(encode_studies(_named(studies, on_bad), engines.encoder, batch_size=BATCH, on_bad=on_bad), step)
    while batch := list(islice(records, _TRANSACTION)):
        counts = archive.upsert(batch, encoder=engines.encoder_id)
        added, replaced = added + counts[0], replaced + counts[1]
    return Imported(added, replaced)


def reencode(archive: Archive, engines: Engines, *, step: Step = lambda: None) -> int:
    """Encodes every study anew, its images from their stored previews, in one transaction. Returns the sequence."""
    stored = (record.study for record in archive.records(previews=True))
    records = _stepping(encode_studies(stored, engines.encoder, batch_size=BATCH), step)
    return archive.replace_vectors(records, encoder=engines.encoder_id)


def matching_factory(snapshots: Path, name: str | None) -> IndexFactory:
    """The index of this name; None: the one that the current snapshot was built with, else HNSW."""
    if name is None:
        try:
            return factory_of(current(snapshots))
        except (NotFound, FileNotFoundError):
            return index_factory()
    return index_factory(name)


def factory_of(snapshot: Path) -> IndexFactory:
    """The index that this snapshot was built with; HNSW where it was built with one that is unknown."""
    manifest = json.loads((snapshot / "manifest.json").read_text(encoding="utf-8"))
    made = [factory for factory in map(index_factory, INDEXES) if factory.name == manifest["index"]]
    return made[0] if made else index_factory()


def _named(studies: Iterable[Study], on_bad: OnBad) -> Iterator[Study]:
    for study in studies:
        if "\0" in study.study_id or not study.study_id:
            on_bad(BadStudy("a study", "has an id that is empty or holds NUL"))
        else:
            yield study


def _stepping(records: Iterable[Record], step: Step) -> Iterator[Record]:
    for record in records:
        step()
        yield record
