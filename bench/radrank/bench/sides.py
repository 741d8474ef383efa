"""What is measured beside the server: its pipeline in this process; and the queries that all sides are asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from threadpoolctl import threadpool_limits

from radrank.core.errors import InvalidQuery
from radrank.core.ranking import Ranker
from radrank.core.snapshot import current, open_snapshot
from radrank.core.view import View
from radrank.datasets import open_dataset
from radrank.datasets.demo import golden_material
from radrank.engines.bundle import Bundle, open_bundle
from radrank.server.building import matching_factory
from radrank.server.home import snapshots_of
from radrank.server.tuning import tuned


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One study that asks: its encoded image, its impression, and its whole report."""

    image: bytes = field(repr=False)
    phrase: str = field(repr=False)
    report: str = field(repr=False)


def questions(dataset: str, root: Path | None, count: int) -> list[Question]:
    """The first studies that have an image and an impression; of "demo", studies that its archive doesn't hold."""
    if dataset == "demo":
        images, reports = golden_material(count)
        pairs = zip(images, reports, strict=True)
        return [Question(image=image, phrase=text.split("\n")[-1], report=text) for image, text in pairs]
    studies = (study for study in open_dataset(dataset, root) if study.primary_image and study.impression.strip())
    found = [
        Question(image=study.primary_image.read(), phrase=study.impression, report=study.report)
        for study in islice(studies, count)
        if study.primary_image
    ]
    if not found:
        raise InvalidQuery("dataset", "has no study with both an image and an impression")
    return found


@contextmanager
def in_process(bundle: Path, archive: Path) -> Iterator[tuple[Bundle, Ranker]]:
    """The pipeline as the server runs it, over the archive's current snapshot. Raises RadrankError."""
    snapshots = snapshots_of(archive)
    path = current(snapshots)
    engines = open_bundle(bundle)
    engines.warm_up()
    snapshot = open_snapshot(
        path, factory=tuned(matching_factory(snapshots, None), archive), encoder=engines.encoder_id
    )
    view = View.of(snapshot, engines.graph)
    try:
        with threadpool_limits(limits=1, user_api="blas"):  # as `radrank serve` does
            yield (
                engines,
                Ranker(
                    encoder=engines.encoder,
                    rerankers=engines.rerankers,
                    default_reranker=engines.default_reranker,
                    view=view,
                ),
            )
    finally:
        for items in snapshot.items.values():
            items.index.close()
        engines.close()
