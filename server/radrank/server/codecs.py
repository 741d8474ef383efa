"""From the contract's messages to core's types. Raises InvalidQuery naming the field."""

from __future__ import annotations

import time

import numpy as np

from radrank.core.errors import InvalidQuery
from radrank.core.filters import Filters
from radrank.core.ranking import (
    SCREEN_VOTERS,
    Content,
    ImageQuery,
    SearchQuery,
    StudyQuery,
    TextQuery,
    VectorQuery,
)
from radrank.core.studies import Modality, Study, StudyImage
from radrank.core.timing import Deadline
from radrank.core.vectors import Vector
from radrank.datasets import pixels
from radrank.server.fields import ID_BYTES, MODALITIES, VIEWS, at_most, day, identifier, known, labels, words
from radrank.v1 import archive_pb2, retrieval_pb2, types_pb2

EXCLUDED = 1_000
EMBEDDED = 64
VOTERS = 100
DELETED = 1_000
STUDY_IMAGES = 32
PREVIEWED_HITS = 100  # as many previews as fit into one message
_EMPTY = "must hold an image, a text, an embedding or a study"
_TEXT_LETTERS = 65_536  # far past any token limit: a tokenizer need not read megabytes to cut them


def search_query(request: retrieval_pb2.SearchRequest, *, image_size: int, deadline: Deadline) -> SearchQuery:
    """A search. image_size: side of the pixels that the encoder takes."""
    start = time.perf_counter_ns()
    if request.query.WhichOneof("content") is None:
        raise InvalidQuery("query", _EMPTY)
    at_most(request.exclude_studies, EXCLUDED, "exclude_studies")
    if request.include_preview and request.k > PREVIEWED_HITS:
        raise InvalidQuery("include_preview", f"takes a k of at most {PREVIEWED_HITS}")
    if not request.k:
        raise InvalidQuery("k", "must be given, from 1 to 1,000")
    target = known(MODALITIES, request.target, "target")
    filters = _filters(request.filters)
    content = _content(request.query, image_size)
    return SearchQuery(
        content=content,
        target=target,
        k=request.k,
        candidates=request.candidates,
        reranker=request.reranker if request.HasField("reranker") else None,
        filters=filters,
        exclude=tuple(request.exclude_studies),
        one_per_patient=request.one_per_patient,
        deadline=deadline,
        may_degrade=request.allow_degraded,
        decode_us=(time.perf_counter_ns() - start) // 1_000,
    )


def check_tag(request: retrieval_pb2.SearchStreamRequest) -> None:
    """A stream's tag is at most as long as an id."""
    if len(request.tag.encode()) > ID_BYTES:
        raise InvalidQuery("tag", f"is longer than {ID_BYTES} bytes")


def screen_query(request: retrieval_pb2.ScreenRequest, *, image_size: int) -> tuple[Content, int, int]:
    """(what to screen, studies that vote, microseconds that decoding took)."""
    start = time.perf_counter_ns()
    if request.k > VOTERS:
        raise InvalidQuery("k", f"must be from 1 to {VOTERS}, or 0 for {SCREEN_VOTERS}")
    if request.query.WhichOneof("content") == "embedding":
        raise InvalidQuery("query", "must be an image, a text or a study")
    content = _content(request.query, image_size)
    return content, request.k or SCREEN_VOTERS, (time.perf_counter_ns() - start) // 1_000


def embed_queries(request: retrieval_pb2.EmbedRequest, *, image_size: int) -> list[ImageQuery | TextQuery]:
    """Images and texts to embed."""
    if not 1 <= len(request.queries) <= EMBEDDED:
        raise InvalidQuery("queries", f"must be 1 to {EMBEDDED}")
    contents: list[ImageQuery | TextQuery] = []
    for place, query in enumerate(request.queries):
        field = f"queries[{place}]"
        if query.WhichOneof("content") not in ("image", "text"):
            raise InvalidQuery(field, "must be an image or a text")
        try:
            content = _content(query, image_size)
        except InvalidQuery as error:
            raise InvalidQuery(f"{field}.{error.field}", error.reason) from None
        assert isinstance(content, ImageQuery | TextQuery)
        contents.append(content)
    return contents


def study_id(request: retrieval_pb2.GetStudyRequest) -> str:
    """The id of a study to show."""
    return identifier(request.study_id, "study_id")


def deleted_ids(request: archive_pb2.DeleteRequest) -> list[str]:
    """Ids of studies to delete, each once."""
    if not 1 <= len(request.study_ids) <= DELETED:
        raise InvalidQuery("study_ids", f"must be 1 to {DELETED:,}")
    return list(
        dict.fromkeys(identifier(value, f"study_ids[{place}]") for place, value in enumerate(request.study_ids))
    )


def new_study(request: archive_pb2.UpsertRequest, *, place: int) -> Study:
    """A study to add, its images still as they were sent. place: in the stream, from 0."""
    field, study = f"studies[{place}]", request.study
    at_most(study.images, STUDY_IMAGES, f"{field}.images")
    found = Study(
        study_id=identifier(study.study_id, f"{field}.study_id"),
        patient_id=identifier(study.patient_id, f"{field}.patient_id", required=False),
        images=tuple(_image(image, f"{field}.images[{i}]", i) for i, image in enumerate(study.images)),
        findings=words(study.findings, f"{field}.findings"),
        impression=words(study.impression, f"{field}.impression"),
        labels=labels(study.labels, f"{field}.labels"),
        normal=study.normal if study.HasField("normal") else None,
        date=day(study.date, f"{field}.date") if study.HasField("date") else None,
    )
    if not found.images and not found.report:
        raise InvalidQuery(field, "has neither images nor a report")
    if len({image.image_id for image in found.images}) < len(found.images):
        raise InvalidQuery(f"{field}.images", "have ids that repeat")
    return found


def _image(image: archive_pb2.NewImage, field: str, place: int) -> StudyImage:
    if not image.content:
        raise InvalidQuery(f"{field}.content", "is empty")
    return StudyImage(
        image_id=identifier(image.image_id, f"{field}.image_id", required=False) or str(place),
        content=image.content,
        view=known(VIEWS, image.view, f"{field}.view"),
    )


def _content(query: retrieval_pb2.Query, image_size: int) -> Content:
    match query.WhichOneof("content"):
        case "image":
            if not query.image:
                raise InvalidQuery("image", "is empty")
            return ImageQuery(pixels=pixels.load(query.image, image_size))
        case "text":
            return TextQuery(text=_text(query.text))
        case "embedding":
            modality = known(MODALITIES, query.embedding.modality, "embedding.modality")
            return VectorQuery(vector=_vector(query.embedding.values), modality=modality or Modality.IMAGE)
        case "study":
            return StudyQuery(
                study_id=identifier(query.study.study_id, "study.study_id"),
                modality=known(MODALITIES, query.study.modality, "study.modality"),
            )
        case _:
            raise InvalidQuery("query", _EMPTY)


def _text(text: str) -> str:
    if not text.strip():
        raise InvalidQuery("text", "must hold more than blanks")
    return text if len(text) <= _TEXT_LETTERS else text.strip()[:_TEXT_LETTERS]


def _vector(values: bytes) -> Vector:
    if len(values) % 4:
        raise InvalidQuery("embedding", "must be float32 numbers of 4 bytes each")
    return np.frombuffer(values, dtype="<f4").astype(np.float32, copy=False)


def _filters(filters: retrieval_pb2.Filters) -> Filters:
    since, until = (
        day(getattr(filters, name), f"filters.{name}") if filters.HasField(name) else None for name in ("from", "to")
    )
    if since and until and since > until:
        raise InvalidQuery("filters.from", "must not be later than filters.to")
    for place, view in enumerate(filters.views):
        if view == types_pb2.VIEW_UNSPECIFIED:
            raise InvalidQuery(f"filters.views[{place}]", "must be one of the views")
    return Filters(
        views=frozenset(known(VIEWS, view, f"filters.views[{i}]") for i, view in enumerate(filters.views)),
        labels_any=frozenset(labels(filters.labels_any, "filters.labels_any")),
        labels_all=frozenset(labels(filters.labels_all, "filters.labels_all")),
        normal=filters.normal if filters.HasField("normal") else None,
        since=since,
        until=until,
    )
