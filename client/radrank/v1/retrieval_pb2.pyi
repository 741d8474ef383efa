from radrank.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StudyQuery(_message.Message):
    __slots__ = ("study_id", "modality")
    STUDY_ID_FIELD_NUMBER: _ClassVar[int]
    MODALITY_FIELD_NUMBER: _ClassVar[int]
    study_id: str
    modality: _types_pb2.Modality
    def __init__(self, study_id: _Optional[str] = ..., modality: _Optional[_Union[_types_pb2.Modality, str]] = ...) -> None: ...

class Vector(_message.Message):
    __slots__ = ("values", "modality")
    VALUES_FIELD_NUMBER: _ClassVar[int]
    MODALITY_FIELD_NUMBER: _ClassVar[int]
    values: bytes
    modality: _types_pb2.Modality
    def __init__(self, values: _Optional[bytes] = ..., modality: _Optional[_Union[_types_pb2.Modality, str]] = ...) -> None: ...

class Query(_message.Message):
    __slots__ = ("image", "text", "embedding", "study")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    STUDY_FIELD_NUMBER: _ClassVar[int]
    image: bytes
    text: str
    embedding: Vector
    study: StudyQuery
    def __init__(self, image: _Optional[bytes] = ..., text: _Optional[str] = ..., embedding: _Optional[_Union[Vector, _Mapping]] = ..., study: _Optional[_Union[StudyQuery, _Mapping]] = ...) -> None: ...

class Filters(_message.Message):
    __slots__ = ("views", "labels_any", "labels_all", "normal", "to")
    VIEWS_FIELD_NUMBER: _ClassVar[int]
    LABELS_ANY_FIELD_NUMBER: _ClassVar[int]
    LABELS_ALL_FIELD_NUMBER: _ClassVar[int]
    NORMAL_FIELD_NUMBER: _ClassVar[int]
    FROM_FIELD_NUMBER: _ClassVar[int]
    TO_FIELD_NUMBER: _ClassVar[int]
    views: _containers.RepeatedScalarFieldContainer[_types_pb2.View]
    labels_any: _containers.RepeatedScalarFieldContainer[str]
    labels_all: _containers.RepeatedScalarFieldContainer[str]
    normal: bool
    to: _types_pb2.Date
    def __init__(self, views: _Optional[_Iterable[_Union[_types_pb2.View, str]]] = ..., labels_any: _Optional[_Iterable[str]] = ..., labels_all: _Optional[_Iterable[str]] = ..., normal: _Optional[bool] = ..., to: _Optional[_Union[_types_pb2.Date, _Mapping]] = ..., **kwargs) -> None: ...

class SearchRequest(_message.Message):
    __slots__ = ("query", "target", "k", "candidates", "reranker", "filters", "exclude_studies", "one_per_patient", "include_report", "include_labels", "include_preview", "allow_degraded")
    QUERY_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    RERANKER_FIELD_NUMBER: _ClassVar[int]
    FILTERS_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_STUDIES_FIELD_NUMBER: _ClassVar[int]
    ONE_PER_PATIENT_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_REPORT_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_LABELS_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_PREVIEW_FIELD_NUMBER: _ClassVar[int]
    ALLOW_DEGRADED_FIELD_NUMBER: _ClassVar[int]
    query: Query
    target: _types_pb2.Modality
    k: int
    candidates: int
    reranker: str
    filters: Filters
    exclude_studies: _containers.RepeatedScalarFieldContainer[str]
    one_per_patient: bool
    include_report: bool
    include_labels: bool
    include_preview: bool
    allow_degraded: bool
    def __init__(self, query: _Optional[_Union[Query, _Mapping]] = ..., target: _Optional[_Union[_types_pb2.Modality, str]] = ..., k: _Optional[int] = ..., candidates: _Optional[int] = ..., reranker: _Optional[str] = ..., filters: _Optional[_Union[Filters, _Mapping]] = ..., exclude_studies: _Optional[_Iterable[str]] = ..., one_per_patient: _Optional[bool] = ..., include_report: _Optional[bool] = ..., include_labels: _Optional[bool] = ..., include_preview: _Optional[bool] = ..., allow_degraded: _Optional[bool] = ...) -> None: ...

class Hit(_message.Message):
    __slots__ = ("study_id", "image_id", "rank", "score", "candidate_rank", "cosine", "report", "labels", "normal", "preview", "view")
    STUDY_ID_FIELD_NUMBER: _ClassVar[int]
    IMAGE_ID_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_RANK_FIELD_NUMBER: _ClassVar[int]
    COSINE_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    NORMAL_FIELD_NUMBER: _ClassVar[int]
    PREVIEW_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    study_id: str
    image_id: str
    rank: int
    score: float
    candidate_rank: int
    cosine: float
    report: str
    labels: _containers.RepeatedScalarFieldContainer[str]
    normal: bool
    preview: bytes
    view: _types_pb2.View
    def __init__(self, study_id: _Optional[str] = ..., image_id: _Optional[str] = ..., rank: _Optional[int] = ..., score: _Optional[float] = ..., candidate_rank: _Optional[int] = ..., cosine: _Optional[float] = ..., report: _Optional[str] = ..., labels: _Optional[_Iterable[str]] = ..., normal: _Optional[bool] = ..., preview: _Optional[bytes] = ..., view: _Optional[_Union[_types_pb2.View, str]] = ...) -> None: ...

class SearchResponse(_message.Message):
    __slots__ = ("hits", "times", "provenance", "query_modality", "target", "degraded")
    HITS_FIELD_NUMBER: _ClassVar[int]
    TIMES_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    QUERY_MODALITY_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    DEGRADED_FIELD_NUMBER: _ClassVar[int]
    hits: _containers.RepeatedCompositeFieldContainer[Hit]
    times: _types_pb2.StageTimes
    provenance: _types_pb2.Provenance
    query_modality: _types_pb2.Modality
    target: _types_pb2.Modality
    degraded: bool
    def __init__(self, hits: _Optional[_Iterable[_Union[Hit, _Mapping]]] = ..., times: _Optional[_Union[_types_pb2.StageTimes, _Mapping]] = ..., provenance: _Optional[_Union[_types_pb2.Provenance, _Mapping]] = ..., query_modality: _Optional[_Union[_types_pb2.Modality, str]] = ..., target: _Optional[_Union[_types_pb2.Modality, str]] = ..., degraded: _Optional[bool] = ...) -> None: ...

class SearchStreamRequest(_message.Message):
    __slots__ = ("tag", "search")
    TAG_FIELD_NUMBER: _ClassVar[int]
    SEARCH_FIELD_NUMBER: _ClassVar[int]
    tag: str
    search: SearchRequest
    def __init__(self, tag: _Optional[str] = ..., search: _Optional[_Union[SearchRequest, _Mapping]] = ...) -> None: ...

class StreamError(_message.Message):
    __slots__ = ("code", "message")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    code: int
    message: str
    def __init__(self, code: _Optional[int] = ..., message: _Optional[str] = ...) -> None: ...

class SearchStreamResponse(_message.Message):
    __slots__ = ("tag", "search", "error")
    TAG_FIELD_NUMBER: _ClassVar[int]
    SEARCH_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    tag: str
    search: SearchResponse
    error: StreamError
    def __init__(self, tag: _Optional[str] = ..., search: _Optional[_Union[SearchResponse, _Mapping]] = ..., error: _Optional[_Union[StreamError, _Mapping]] = ...) -> None: ...

class EmbedRequest(_message.Message):
    __slots__ = ("queries",)
    QUERIES_FIELD_NUMBER: _ClassVar[int]
    queries: _containers.RepeatedCompositeFieldContainer[Query]
    def __init__(self, queries: _Optional[_Iterable[_Union[Query, _Mapping]]] = ...) -> None: ...

class EmbedResponse(_message.Message):
    __slots__ = ("vectors", "dimensions", "provenance")
    VECTORS_FIELD_NUMBER: _ClassVar[int]
    DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    vectors: _containers.RepeatedScalarFieldContainer[bytes]
    dimensions: int
    provenance: _types_pb2.Provenance
    def __init__(self, vectors: _Optional[_Iterable[bytes]] = ..., dimensions: _Optional[int] = ..., provenance: _Optional[_Union[_types_pb2.Provenance, _Mapping]] = ...) -> None: ...

class ScreenRequest(_message.Message):
    __slots__ = ("query", "k")
    QUERY_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    query: Query
    k: int
    def __init__(self, query: _Optional[_Union[Query, _Mapping]] = ..., k: _Optional[int] = ...) -> None: ...

class ScreenResponse(_message.Message):
    __slots__ = ("abnormal_probability", "abnormal_vote", "voters", "times", "provenance")
    ABNORMAL_PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    ABNORMAL_VOTE_FIELD_NUMBER: _ClassVar[int]
    VOTERS_FIELD_NUMBER: _ClassVar[int]
    TIMES_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    abnormal_probability: float
    abnormal_vote: float
    voters: int
    times: _types_pb2.StageTimes
    provenance: _types_pb2.Provenance
    def __init__(self, abnormal_probability: _Optional[float] = ..., abnormal_vote: _Optional[float] = ..., voters: _Optional[int] = ..., times: _Optional[_Union[_types_pb2.StageTimes, _Mapping]] = ..., provenance: _Optional[_Union[_types_pb2.Provenance, _Mapping]] = ...) -> None: ...

class GetStudyRequest(_message.Message):
    __slots__ = ("study_id", "include_previews")
    STUDY_ID_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_PREVIEWS_FIELD_NUMBER: _ClassVar[int]
    study_id: str
    include_previews: bool
    def __init__(self, study_id: _Optional[str] = ..., include_previews: _Optional[bool] = ...) -> None: ...

class StudyImagePreview(_message.Message):
    __slots__ = ("image_id", "view", "preview")
    IMAGE_ID_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    PREVIEW_FIELD_NUMBER: _ClassVar[int]
    image_id: str
    view: _types_pb2.View
    preview: bytes
    def __init__(self, image_id: _Optional[str] = ..., view: _Optional[_Union[_types_pb2.View, str]] = ..., preview: _Optional[bytes] = ...) -> None: ...

class GetStudyResponse(_message.Message):
    __slots__ = ("study_id", "patient_id", "findings", "impression", "labels", "normal", "date", "images")
    STUDY_ID_FIELD_NUMBER: _ClassVar[int]
    PATIENT_ID_FIELD_NUMBER: _ClassVar[int]
    FINDINGS_FIELD_NUMBER: _ClassVar[int]
    IMPRESSION_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    NORMAL_FIELD_NUMBER: _ClassVar[int]
    DATE_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    study_id: str
    patient_id: str
    findings: str
    impression: str
    labels: _containers.RepeatedScalarFieldContainer[str]
    normal: bool
    date: _types_pb2.Date
    images: _containers.RepeatedCompositeFieldContainer[StudyImagePreview]
    def __init__(self, study_id: _Optional[str] = ..., patient_id: _Optional[str] = ..., findings: _Optional[str] = ..., impression: _Optional[str] = ..., labels: _Optional[_Iterable[str]] = ..., normal: _Optional[bool] = ..., date: _Optional[_Union[_types_pb2.Date, _Mapping]] = ..., images: _Optional[_Iterable[_Union[StudyImagePreview, _Mapping]]] = ...) -> None: ...
