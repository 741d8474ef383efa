"""From plain Python types to the contract's messages."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radrank.client.errors import InvalidArgument
from radrank.client.requests import ImageFile, NewStudy
from radrank.v1 import archive_pb2, retrieval_pb2, types_pb2


def content(image: ImageFile) -> bytes:
    """The bytes of an image file; OSError where the path can't be read."""
    return bytes(image) if isinstance(image, bytes | bytearray | memoryview) else Path(image).read_bytes()


def modality(name: str | None, field: str = "modality") -> types_pb2.Modality:
    """From "image", "report" or nothing."""
    number: types_pb2.Modality = _number(types_pb2.Modality, "MODALITY_", name or "", field)
    return number


def view(name: str) -> types_pb2.View:
    """From "pa", "ap", "frontal", "lateral" (in any case) or nothing."""
    number: types_pb2.View = _number(types_pb2.View, "VIEW_", name, "view")
    return number


def _number(enum: Any, prefix: str, name: str, field: str) -> Any:
    try:
        return enum.Value(prefix + (name.upper() or "UNSPECIFIED"))
    except ValueError:
        choices = ", ".join(
            key.removeprefix(prefix).lower() for key in sorted(enum.keys()) if not key.endswith("UNSPECIFIED")
        )
        raise InvalidArgument(f"{field}: must be one of {choices}") from None


def _day(day: date | None) -> types_pb2.Date | None:
    return None if day is None else types_pb2.Date(year=day.year, month=day.month, day=day.day)


def _texts(values: Sequence[str], field: str) -> Sequence[str]:
    # A lone string is a sequence of its letters: nobody means that.
    if isinstance(values, str):
        raise InvalidArgument(f"{field}: must be a list of strings, not one string")
    return values


def vector(embedding: NDArray[np.floating[Any]], of: str | None = None) -> retrieval_pb2.Vector:
    """From [d] of any real dtype; sent as little-endian float32."""
    values = np.asarray(embedding)
    if values.ndim != 1 or values.dtype.kind not in "fiu":
        raise InvalidArgument("embedding: must be a vector of real numbers, of one axis")
    return retrieval_pb2.Vector(values=values.astype("<f4").tobytes(), modality=modality(of))


def query(
    *,
    image: ImageFile | None = None,
    text: str | None = None,
    embedding: NDArray[np.floating[Any]] | None = None,
    study: str | None = None,
    of: str | None = None,
) -> retrieval_pb2.Query:
    """A query from exactly one of its kinds; `of` is the modality of the embedding or of the study's item."""
    if sum(kind is not None for kind in (image, text, embedding, study)) != 1:
        raise InvalidArgument("query: give exactly one of image, text, embedding and study")
    if image is not None:
        return retrieval_pb2.Query(image=content(image))
    if text is not None:
        return retrieval_pb2.Query(text=text)
    if embedding is not None:
        return retrieval_pb2.Query(embedding=vector(embedding, of))
    return retrieval_pb2.Query(study=retrieval_pb2.StudyQuery(study_id=study, modality=modality(of)))


def search_request(
    *,
    image: ImageFile | None = None,
    text: str | None = None,
    embedding: NDArray[np.floating[Any]] | None = None,
    study: str | None = None,
    modality: str | None = None,
    target: str | None = None,
    k: int = 10,
    candidates: int = 0,
    reranker: str | None = None,
    views: Sequence[str] = (),
    labels_any: Sequence[str] = (),
    labels_all: Sequence[str] = (),
    normal: bool | None = None,
    date_from: date | None = None,
    date_to: date | None = None,
    exclude: Sequence[str] = (),
    one_per_patient: bool = False,
    allow_degraded: bool = False,
    include_report: bool = False,
    include_labels: bool = False,
    include_preview: bool = False,
) -> retrieval_pb2.SearchRequest:
    """The message of a search; the keywords are those of `SearchOptions`."""
    for field, number in (("k", k), ("candidates", candidates)):
        if not 0 <= number < 2**32:
            raise InvalidArgument(f"{field}: must be a positive number")
    request = retrieval_pb2.SearchRequest(
        query=query(image=image, text=text, embedding=embedding, study=study, of=modality),
        target=_modality(target, "target"),
        k=k,
        candidates=candidates,
        exclude_studies=_texts(exclude, "exclude"),
        one_per_patient=one_per_patient,
        allow_degraded=allow_degraded,
        include_report=include_report,
        include_labels=include_labels,
        include_preview=include_preview,
        filters=retrieval_pb2.Filters(
            views=[view(name) for name in _texts(views, "views")],
            labels_any=_texts(labels_any, "labels_any"),
            labels_all=_texts(labels_all, "labels_all"),
            normal=normal,
            to=_day(date_to),
        ),
    )
    if date_from is not None:  # `from` is a keyword of Python
        getattr(request.filters, "from").CopyFrom(_day(date_from))
    if reranker is not None:
        request.reranker = reranker
    return request


_modality = modality  # `search_request` has a keyword of this name


def new_study(study: NewStudy) -> archive_pb2.UpsertRequest:
    """The message that adds a study; reads its image files."""
    return archive_pb2.UpsertRequest(
        study=archive_pb2.NewStudy(
            study_id=study.study_id,
            patient_id=study.patient_id,
            images=[
                archive_pb2.NewImage(image_id=image.image_id, content=content(image.content), view=view(image.view))
                for image in study.images
            ],
            findings=study.findings,
            impression=study.impression,
            labels=_texts(study.labels, "labels"),
            normal=study.normal,
            date=_day(study.date),
        )
    )
