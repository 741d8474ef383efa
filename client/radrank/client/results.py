"""What the server answers, in plain Python types.

Views are "pa", "ap", "frontal", "lateral" or "" (unknown). Modalities are "image", "report" or "". `normal` is None
where the archive does not know.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """Files and numbers that made a reply. Equal provenance and equal request: equal reply."""

    snapshot_sha256: str
    bundle_sha256: str
    encoder_sha256: str
    reranker_sha256: str
    reranker: str  # its name; empty where none ran
    precision: str
    runtime: str
    archive_sequence: int


@dataclass(frozen=True, kw_only=True, slots=True)
class StageTimes:
    """Where the time went on the server, in microseconds."""

    decode_us: int
    encode_us: int
    candidates_us: int
    graph_us: int
    rerank_us: int
    order_us: int
    total_us: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Hit:
    """One found study.

    rank, candidate_rank: from 1, after re-ranking and in the encoder's own order
    score: after re-ranking; comparable within one reply only
    cosine: with the query, -1 to 1
    image_id, view: of the found study's primary image; empty for a report
    report, labels, normal, preview: where the search asked for them; the preview is a JPEG
    """

    study_id: str
    image_id: str
    view: str
    rank: int
    candidate_rank: int
    score: float
    cosine: float
    report: str
    labels: tuple[str, ...]
    normal: bool | None
    preview: bytes

    @property
    def moved(self) -> int:
        """Places that re-ranking moved it up; negative: down."""
        return self.candidate_rank - self.rank


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchResult:
    """The hits, best first; ties by study id. degraded: there was no time to re-rank them, see `allow_degraded`."""

    hits: tuple[Hit, ...]
    times: StageTimes
    provenance: Provenance
    query_modality: str
    target: str
    degraded: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class ScreenResult:
    """Normal or abnormal, by the bundle's classifier and by the vote of what a search retrieves.

    abnormal_probability: 0 to 1
    abnormal_vote: share of abnormal studies among the voters, 0 to 1; None where nobody votes
    voters: retrieved reports whose status is known
    """

    abnormal_probability: float
    abnormal_vote: float | None
    voters: int
    times: StageTimes
    provenance: Provenance


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyImage:
    """An image of a study; the preview is a JPEG where it was asked for, else empty."""

    image_id: str
    view: str
    preview: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """A study as the archive holds it."""

    study_id: str
    patient_id: str
    findings: str
    impression: str
    labels: tuple[str, ...]
    normal: bool | None
    date: date | None
    images: tuple[StudyImage, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class UpsertResult:
    """`sequence` numbers the archive's last change."""

    added: int
    replaced: int
    sequence: int


@dataclass(frozen=True, kw_only=True, slots=True)
class DeleteResult:
    """`unknown` counts the ids that the archive did not hold; `sequence` numbers its last change."""

    deleted: int
    unknown: int
    sequence: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Stats:
    """What the archive holds, in studies unless named otherwise.

    labels: studies by label, most frequent first
    unindexed_studies: changed since the snapshot was built; searched exactly
    dimensions: of the bundle's space
    """

    studies: int
    images: int
    reports: int
    normal: int
    abnormal: int
    labels: dict[str, int]
    sequence: int
    unindexed_studies: int
    dimensions: int
    rerankers: tuple[str, ...]
    default_reranker: str
    provenance: Provenance
