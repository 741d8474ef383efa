from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class Modality(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODALITY_UNSPECIFIED: _ClassVar[Modality]
    MODALITY_IMAGE: _ClassVar[Modality]
    MODALITY_REPORT: _ClassVar[Modality]

class View(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VIEW_UNSPECIFIED: _ClassVar[View]
    VIEW_PA: _ClassVar[View]
    VIEW_AP: _ClassVar[View]
    VIEW_FRONTAL: _ClassVar[View]
    VIEW_LATERAL: _ClassVar[View]
MODALITY_UNSPECIFIED: Modality
MODALITY_IMAGE: Modality
MODALITY_REPORT: Modality
VIEW_UNSPECIFIED: View
VIEW_PA: View
VIEW_AP: View
VIEW_FRONTAL: View
VIEW_LATERAL: View

class Date(_message.Message):
    __slots__ = ("year", "month", "day")
    YEAR_FIELD_NUMBER: _ClassVar[int]
    MONTH_FIELD_NUMBER: _ClassVar[int]
    DAY_FIELD_NUMBER: _ClassVar[int]
    year: int
    month: int
    day: int
    def __init__(self, year: _Optional[int] = ..., month: _Optional[int] = ..., day: _Optional[int] = ...) -> None: ...

class Provenance(_message.Message):
    __slots__ = ("snapshot_sha256", "bundle_sha256", "encoder_sha256", "reranker_sha256", "reranker", "precision", "runtime", "archive_sequence")
    SNAPSHOT_SHA256_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_SHA256_FIELD_NUMBER: _ClassVar[int]
    ENCODER_SHA256_FIELD_NUMBER: _ClassVar[int]
    RERANKER_SHA256_FIELD_NUMBER: _ClassVar[int]
    RERANKER_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_FIELD_NUMBER: _ClassVar[int]
    ARCHIVE_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    snapshot_sha256: str
    bundle_sha256: str
    encoder_sha256: str
    reranker_sha256: str
    reranker: str
    precision: str
    runtime: str
    archive_sequence: int
    def __init__(self, snapshot_sha256: _Optional[str] = ..., bundle_sha256: _Optional[str] = ..., encoder_sha256: _Optional[str] = ..., reranker_sha256: _Optional[str] = ..., reranker: _Optional[str] = ..., precision: _Optional[str] = ..., runtime: _Optional[str] = ..., archive_sequence: _Optional[int] = ...) -> None: ...

class StageTimes(_message.Message):
    __slots__ = ("decode_us", "encode_us", "candidates_us", "graph_us", "rerank_us", "order_us", "total_us")
    DECODE_US_FIELD_NUMBER: _ClassVar[int]
    ENCODE_US_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_US_FIELD_NUMBER: _ClassVar[int]
    GRAPH_US_FIELD_NUMBER: _ClassVar[int]
    RERANK_US_FIELD_NUMBER: _ClassVar[int]
    ORDER_US_FIELD_NUMBER: _ClassVar[int]
    TOTAL_US_FIELD_NUMBER: _ClassVar[int]
    decode_us: int
    encode_us: int
    candidates_us: int
    graph_us: int
    rerank_us: int
    order_us: int
    total_us: int
    def __init__(self, decode_us: _Optional[int] = ..., encode_us: _Optional[int] = ..., candidates_us: _Optional[int] = ..., graph_us: _Optional[int] = ..., rerank_us: _Optional[int] = ..., order_us: _Optional[int] = ..., total_us: _Optional[int] = ...) -> None: ...
