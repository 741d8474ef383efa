"""From the contract's messages to plain Python types."""

from __future__ import annotations

from datetime import date
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from radrank.client.errors import ServerError
from radrank.client.results import (
    Hit,
    Provenance,
    ScreenResult,
    SearchResult,
    StageTimes,
    Stats,
    Study,
    StudyImage,
)
from radrank.v1 import archive_pb2, retrieval_pb2, types_pb2


class _HasNormal(Protocol):
    normal: bool

    def HasField(self, field_name: str) -> bool: ...  # noqa: N802 - protobuf's name


def _normal(message: object) -> bool | None:
    known: _HasNormal = message  # type: ignore[assignment]
    return known.normal if known.HasField("normal") else None


# A newer server may know enum values that these stubs don't: they read as unknown.
def _view(number: types_pb2.View) -> str:
    return _short(types_pb2.View.Name(number)) if number and number in types_pb2.View.values() else ""


def _modality(number: types_pb2.Modality) -> str:
    return _short(types_pb2.Modality.Name(number)) if number and number in types_pb2.Modality.values() else ""


def _short(name: str) -> str:
    return name.split("_", 1)[1].lower()


def provenance(message: types_pb2.Provenance) -> Provenance:
    return Provenance(**{name: getattr(message, name) for name in Provenance.__slots__})


def times(message: types_pb2.StageTimes) -> StageTimes:
    return StageTimes(**{name: getattr(message, name) for name in StageTimes.__slots__})


def hit(message: retrieval_pb2.Hit) -> Hit:
    return Hit(
        study_id=message.study_id,
        image_id=message.image_id,
        view=_view(message.view),
        rank=message.rank,
        candidate_rank=message.candidate_rank,
        score=message.score,
        cosine=message.cosine,
        report=message.report,
        labels=tuple(message.labels),
        normal=_normal(message),
        preview=message.preview,
    )


def search(message: retrieval_pb2.SearchResponse) -> SearchResult:
    return SearchResult(
        hits=tuple(hit(found) for found in message.hits),
        times=times(message.times),
        provenance=provenance(message.provenance),
        query_modality=_modality(message.query_modality),
        degraded=message.degraded,
        target=_modality(message.target),
    )


def vectors(message: retrieval_pb2.EmbedResponse) -> NDArray[np.float32]:
    """float32 [n, d]."""
    rows = message.vectors
    if any(len(row) != 4 * message.dimensions for row in rows):
        raise ServerError("the server's vectors do not have the dimensions that it names", code="DATA_LOSS")
    return np.frombuffer(b"".join(rows), "<f4").astype(np.float32).reshape(len(rows), message.dimensions)


def screen(message: retrieval_pb2.ScreenResponse) -> ScreenResult:
    return ScreenResult(
        abnormal_probability=message.abnormal_probability,
        abnormal_vote=message.abnormal_vote if message.voters else None,
        voters=message.voters,
        times=times(message.times),
        provenance=provenance(message.provenance),
    )


def study(message: retrieval_pb2.GetStudyResponse) -> Study:
    day = message.date
    return Study(
        study_id=message.study_id,
        patient_id=message.patient_id,
        findings=message.findings,
        impression=message.impression,
        labels=tuple(message.labels),
        normal=_normal(message),
        date=date(day.year, day.month, day.day) if message.HasField("date") else None,
        images=tuple(
            StudyImage(image_id=image.image_id, view=_view(image.view), preview=image.preview)
            for image in message.images
        ),
    )


def stats(message: archive_pb2.StatsResponse) -> Stats:
    return Stats(
        studies=message.studies,
        images=message.images,
        reports=message.reports,
        normal=message.normal,
        abnormal=message.abnormal,
        labels={count.label: count.studies for count in message.labels},
        sequence=message.sequence,
        unindexed_studies=message.unindexed_studies,
        dimensions=message.dimensions,
        rerankers=tuple(message.rerankers),
        default_reranker=message.default_reranker,
        provenance=provenance(message.provenance),
    )
