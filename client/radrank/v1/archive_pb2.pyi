from radrank.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class NewImage(_message.Message):
    __slots__ = ("image_id", "content", "view")
    IMAGE_ID_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    image_id: str
    content: bytes
    view: _types_pb2.View
    def __init__(self, image_id: _Optional[str] = ..., content: _Optional[bytes] = ..., view: _Optional[_Union[_types_pb2.View, str]] = ...) -> None: ...

class NewStudy(_message.Message):
    __slots__ = ("study_id", "patient_id", "images", "findings", "impression", "labels", "normal", "date")
    STUDY_ID_FIELD_NUMBER: _ClassVar[int]
    PATIENT_ID_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    FINDINGS_FIELD_NUMBER: _ClassVar[int]
    IMPRESSION_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    NORMAL_FIELD_NUMBER: _ClassVar[int]
    DATE_FIELD_NUMBER: _ClassVar[int]
    study_id: str
    patient_id: str
    images: _containers.RepeatedCompositeFieldContainer[NewImage]
    findings: str
    impression: str
    labels: _containers.RepeatedScalarFieldContainer[str]
    normal: bool
    date: _types_pb2.Date
    def __init__(self, study_id: _Optional[str] = ..., patient_id: _Optional[str] = ..., images: _Optional[_Iterable[_Union[NewImage, _Mapping]]] = ..., findings: _Optional[str] = ..., impression: _Optional[str] = ..., labels: _Optional[_Iterable[str]] = ..., normal: _Optional[bool] = ..., date: _Optional[_Union[_types_pb2.Date, _Mapping]] = ...) -> None: ...

class UpsertRequest(_message.Message):
    __slots__ = ("study",)
    STUDY_FIELD_NUMBER: _ClassVar[int]
    study: NewStudy
    def __init__(self, study: _Optional[_Union[NewStudy, _Mapping]] = ...) -> None: ...

class UpsertResponse(_message.Message):
    __slots__ = ("added", "replaced", "sequence")
    ADDED_FIELD_NUMBER: _ClassVar[int]
    REPLACED_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    added: int
    replaced: int
    sequence: int
    def __init__(self, added: _Optional[int] = ..., replaced: _Optional[int] = ..., sequence: _Optional[int] = ...) -> None: ...

class DeleteRequest(_message.Message):
    __slots__ = ("study_ids",)
    STUDY_IDS_FIELD_NUMBER: _ClassVar[int]
    study_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, study_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class DeleteResponse(_message.Message):
    __slots__ = ("deleted", "unknown", "sequence")
    DELETED_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    deleted: int
    unknown: int
    sequence: int
    def __init__(self, deleted: _Optional[int] = ..., unknown: _Optional[int] = ..., sequence: _Optional[int] = ...) -> None: ...

class StatsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class LabelCount(_message.Message):
    __slots__ = ("label", "studies")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    STUDIES_FIELD_NUMBER: _ClassVar[int]
    label: str
    studies: int
    def __init__(self, label: _Optional[str] = ..., studies: _Optional[int] = ...) -> None: ...

class StatsResponse(_message.Message):
    __slots__ = ("studies", "images", "reports", "normal", "abnormal", "labels", "sequence", "unindexed_studies", "dimensions", "rerankers", "default_reranker", "provenance")
    STUDIES_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    REPORTS_FIELD_NUMBER: _ClassVar[int]
    NORMAL_FIELD_NUMBER: _ClassVar[int]
    ABNORMAL_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    UNINDEXED_STUDIES_FIELD_NUMBER: _ClassVar[int]
    DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    RERANKERS_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_RERANKER_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    studies: int
    images: int
    reports: int
    normal: int
    abnormal: int
    labels: _containers.RepeatedCompositeFieldContainer[LabelCount]
    sequence: int
    unindexed_studies: int
    dimensions: int
    rerankers: _containers.RepeatedScalarFieldContainer[str]
    default_reranker: str
    provenance: _types_pb2.Provenance
    def __init__(self, studies: _Optional[int] = ..., images: _Optional[int] = ..., reports: _Optional[int] = ..., normal: _Optional[int] = ..., abnormal: _Optional[int] = ..., labels: _Optional[_Iterable[_Union[LabelCount, _Mapping]]] = ..., sequence: _Optional[int] = ..., unindexed_studies: _Optional[int] = ..., dimensions: _Optional[int] = ..., rerankers: _Optional[_Iterable[str]] = ..., default_reranker: _Optional[str] = ..., provenance: _Optional[_Union[_types_pb2.Provenance, _Mapping]] = ...) -> None: ...
