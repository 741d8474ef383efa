"""One search: encode, candidates, graph, re-rank, order."""

from __future__ import annotations

import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from radrank.core.errors import DeadlineTooShort, InvalidQuery, NotFound, Overloaded, Unavailable
from radrank.core.filters import Filters
from radrank.core.graph import Candidates, bucket
from radrank.core.ports import Encoder, EngineManifest, Reranker
from radrank.core.reranking import Rerank, Reranked, Reranking, Shortlist, at_once
from radrank.core.studies import Modality
from radrank.core.timing import NO_DEADLINE, Deadline, RecentTimes, Stopwatch
from radrank.core.vectors import Vector, unit
from radrank.core.view import View

OFF = "off"
MAX_K = 1_000
DEFAULT_CANDIDATES = 100
SCREEN_VOTERS = 10
_LATE = 0.95  # of the last re-rankings ended within the time that a reply must have left
_SCORE_DECIMALS = 5  # scores closer than rounding noise are ties, and ties are broken by id


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageQuery:
    """pixels: uint8 [S, S], gray, at the encoder's image size."""

    pixels: NDArray[np.uint8] = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class TextQuery:
    text: str = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class VectorQuery:
    """vector: float32 [d], any length; modality: what it is the vector of."""

    vector: Vector = field(repr=False)
    modality: Modality = Modality.IMAGE


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyQuery:
    """A study of the archive; `modality` None asks with its images where it has any, else its report."""

    study_id: str = field(repr=False)
    modality: Modality | None = None


Content = ImageQuery | TextQuery | VectorQuery | StudyQuery


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchQuery:
    """What to search for.

    target: None ranks the other modality than the query's
    candidates: first-stage candidates, 0 for the default; reranker: a name, "off", or None for the default
    deadline: a search that can't meet it is not computed; may_degrade: what can't be re-ranked in time, or whose engine
    does not answer, comes in the encoder's own order
    decode_us: what decoding the request took, to be told in the reply
    """

    content: Content
    target: Modality | None = None
    k: int = 10
    candidates: int = 0
    reranker: str | None = None
    filters: Filters = field(default_factory=Filters)
    exclude: tuple[str, ...] = field(default=(), repr=False)
    one_per_patient: bool = False
    deadline: Deadline = NO_DEADLINE
    may_degrade: bool = False
    decode_us: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Hit:
    """One study found; ranks count from 1. position and view: of the study's primary image, 0 for a report."""

    study_id: str = field(repr=False)
    study: int
    position: int
    view: int
    rank: int
    score: float
    candidate_rank: int
    cosine: float


@dataclass(frozen=True, kw_only=True, slots=True)
class StageTimes:
    """Microseconds."""

    decode: int = 0
    encode: int = 0
    candidates: int = 0
    graph: int = 0
    rerank: int = 0
    order: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranking:
    """The answer to one search, with what it was made from (None where a stage did not run).

    degraded: in the encoder's own order, since there was too little time to re-rank, or no engine
    """

    hits: tuple[Hit, ...]
    query_modality: Modality
    target: Modality
    times: StageTimes
    sequence: int
    reranker: str
    encoder: EngineManifest | None
    reranker_manifest: EngineManifest | None
    degraded: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Screening:
    """abnormal: the classifier's probability; vote: share of abnormal among `voters` retrieved studies."""

    abnormal: float
    vote: float
    voters: int
    times: StageTimes
    sequence: int
    encoder: EngineManifest | None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Encoded:
    vector: Vector
    modality: Modality
    own: int | None
    manifest: EngineManifest | None


class Ranker:
    """Ranks one view of the archive with one bundle's engines. Immutable and thread-safe."""

    def __init__(
        self,
        *,
        encoder: Encoder,
        rerankers: Mapping[str, Reranker],
        default_reranker: str,
        view: View,
        recent: RecentTimes | None = None,
    ) -> None:
        """recent: shared by the rankers that follow one another as the archive changes."""
        self.encoder = encoder
        self.rerankers = rerankers
        self.default_reranker = default_reranker
        self.view = view
        self._recent = recent or RecentTimes()
        snapshot = view.snapshot
        self._reranking = Reranking(
            nodes=view.nodes, layout=snapshot.layout, rerankers=rerankers, snapshot=snapshot.path
        )

    def search(self, query: SearchQuery, *, rerank: Rerank = at_once) -> Ranking:
        """rerank: computes the second stage. Raises InvalidQuery, NotFound and DeadlineTooShort."""
        self._check(query)
        name = self.default_reranker if query.reranker is None else query.reranker
        watch = Stopwatch()
        encoded = self._encode(query.content, query.deadline)
        target = query.target or encoded.modality.other
        encode_us = watch.lap()

        _check_passed(query.deadline)
        view = self.view
        excluded = self._excluded(query.exclude, encoded.own)
        mask = view.mask(target, query.filters, excluded)
        wanted = max(query.k, query.candidates or DEFAULT_CANDIDATES)
        found = view.nearest(target, encoded.vector, wanted, mask, source=encoded.modality)
        candidates_us = watch.lap()

        wants = name != OFF and len(found) > 0
        ranked = self._reranked(name, query, encoded, target, found, excluded, rerank) if wants else None
        second_us = watch.lap() if ranked else 0
        scores = found.cosines if ranked is None else ranked.scores
        hits = self._order(target, found, scores, k=query.k, one_per_patient=query.one_per_patient)
        view.snapshot.files.trim()
        times = StageTimes(
            decode=query.decode_us,
            encode=encode_us,
            candidates=candidates_us,
            graph=ranked.graph_us if ranked else 0,
            rerank=second_us - ranked.graph_us if ranked else 0,
            order=watch.lap(),
        )
        return Ranking(
            hits=hits,
            query_modality=encoded.modality,
            target=target,
            times=times,
            sequence=view.sequence,
            reranker=name,
            encoder=encoded.manifest,
            reranker_manifest=ranked.manifest if ranked else None,
            degraded=wants and ranked is None,
        )

    def screen(
        self, content: Content, *, k: int = SCREEN_VOTERS, deadline: Deadline = NO_DEADLINE, decode_us: int = 0
    ) -> Screening:
        """Normal or abnormal, by the classifier and by the vote of the k nearest reports whose status is known.

        Raises InvalidQuery, NotFound and DeadlineTooShort.
        """
        watch = Stopwatch()
        encoded = self._encode(content, deadline)
        encode_us = watch.lap()
        _check_passed(deadline)
        view = self.view
        nodes = view.nodes[Modality.REPORT]
        known = (nodes.normal != 0) & nodes.alive
        if encoded.own is not None:
            known &= nodes.study != encoded.own
        voters = view.nearest(Modality.REPORT, encoded.vector, k, known, source=encoded.modality)
        votes = nodes.normal[voters.rows] < 0
        view.snapshot.files.trim()
        times = StageTimes(decode=decode_us, encode=encode_us, candidates=watch.lap())
        return Screening(
            abnormal=float(self.encoder.classify(encoded.vector[None, :], encoded.modality)[0]),
            vote=float(votes.mean()) if len(votes) else 0.0,
            voters=len(votes),
            times=times,
            sequence=view.sequence,
            encoder=encoded.manifest,
        )

    def _check(self, query: SearchQuery) -> None:
        if not 1 <= query.k <= MAX_K:
            raise InvalidQuery("k", f"must be from 1 to {MAX_K}")
        if query.candidates and not query.k <= query.candidates <= MAX_K:
            raise InvalidQuery("candidates", f"must be 0, or from k to {MAX_K}")
        name = query.reranker
        if name is not None and name != OFF and name not in self.rerankers:
            raise InvalidQuery("reranker", f"must be one of: {', '.join([*sorted(self.rerankers), OFF])}")

    def _encode(self, content: Content, deadline: Deadline) -> _Encoded:
        if isinstance(content, VectorQuery):
            return _Encoded(vector=self._checked(content.vector), modality=content.modality, own=None, manifest=None)
        if isinstance(content, StudyQuery):
            return self._stored(content)
        modality = Modality.IMAGE if isinstance(content, ImageQuery) else Modality.REPORT
        if isinstance(content, TextQuery) and not content.text.strip():
            raise InvalidQuery("text", "must hold more than blanks")
        self._check_time(deadline, modality)
        start = time.perf_counter()
        if isinstance(content, ImageQuery):
            vector = self.encoder.encode_images(content.pixels[None])[0]
        else:
            vector = self.encoder.encode_texts([content.text])[0]
        self._recent.add(modality, time.perf_counter() - start)
        return _Encoded(vector=vector, modality=modality, own=None, manifest=self.encoder.manifests[modality])

    def _check_time(self, deadline: Deadline, stage: Hashable) -> None:
        """Raises DeadlineTooShort where even the fastest of the last calls would end too late."""
        fastest = self._recent.quantile(stage, 0.0)
        if not deadline.leaves(fastest):
            raise DeadlineTooShort(self._recent.quantile(stage, 0.5))

    def _reranked(
        self,
        name: str,
        query: SearchQuery,
        encoded: _Encoded,
        target: Modality,
        found: Candidates,
        excluded: NDArray[np.int32],
        rerank: Rerank,
    ) -> Reranked | None:
        """None where the query may be degraded, and there is no time or no engine."""
        graph = self.rerankers[name].settings
        stage = (name, bucket(len(found), graph.candidate_buckets))
        if query.may_degrade and not query.deadline.leaves(self._recent.quantile(stage, _LATE)):
            return None
        self._check_time(query.deadline, stage)
        watch = Stopwatch()
        near = graph.query_neighbours
        bridges = self._bridges(near, encoded, target, found, filters=query.filters, excluded=excluded)
        bridges_us = watch.lap()
        shortlist = Shortlist(
            reranker=name,
            query=encoded.vector,
            query_modality=encoded.modality,
            target=target,
            candidates=found,
            bridges=bridges,
            excluded=excluded,
        )
        try:
            ranked = rerank(shortlist, self._reranking)
        except (Unavailable, Overloaded, DeadlineTooShort):  # an engine on another host
            if query.may_degrade and query.deadline.leaves(0.0):
                return None
            raise
        self._recent.add(stage, (bridges_us + watch.lap()) / 1e6)
        return replace(ranked, graph_us=bridges_us + ranked.graph_us)

    def _checked(self, vector: Vector) -> Vector:
        dimensions = self.encoder.layout.dimensions
        if vector.shape != (dimensions,):
            raise InvalidQuery("embedding", f"has {vector.size} numbers, the bundle's space has {dimensions}")
        if not np.isfinite(vector).all():
            raise InvalidQuery("embedding", "holds NaN or infinity")
        if not vector.any():
            raise InvalidQuery("embedding", "is all zeros, which points nowhere")
        return unit(vector)

    def _stored(self, content: StudyQuery) -> _Encoded:
        view = self.view
        own = view.find(content.study_id)
        if own is None:
            raise NotFound("study")
        for modality in (content.modality,) if content.modality else (Modality.IMAGE, Modality.REPORT):
            row = view.item_of(modality, own)
            if row is not None:
                vector = view.nodes[modality].vectors.take(np.array([row]))[0]
                return _Encoded(vector=vector, modality=modality, own=own, manifest=None)
        raise InvalidQuery(
            "study", f"has no {content.modality}" if content.modality else "has neither image nor report"
        )

    def _excluded(self, ids: Sequence[str], own: int | None) -> NDArray[np.int32]:
        rows = {row for row in map(self.view.find, ids) if row is not None}
        if own is not None:
            rows.add(own)
        return np.array(sorted(rows), dtype=np.int32)

    def _bridges(
        self,
        k: int,
        encoded: _Encoded,
        target: Modality,
        found: Candidates,
        *,
        filters: Filters,
        excluded: NDArray[np.int32],
    ) -> dict[Modality, Candidates]:
        """The query's k nearest archive items of both modalities; filters bound hits, not the archive around them."""
        bridges: dict[Modality, Candidates] = {}
        for m in Modality:
            if m is target and not filters and len(found) >= min(k, len(self.view.nodes[m])):
                bridges[m] = Candidates(rows=found.rows[:k], cosines=found.cosines[:k])
            else:
                mask = self.view.mask(m, Filters(), excluded)
                bridges[m] = self.view.nearest(m, encoded.vector, k, mask, source=encoded.modality)
        return bridges

    def _order(
        self, target: Modality, found: Candidates, scores: NDArray[np.float32], *, k: int, one_per_patient: bool
    ) -> tuple[Hit, ...]:
        view = self.view
        studies = view.nodes[target].study[found.rows]
        ids = view.ids(studies)
        rounded = np.round(scores.astype(np.float64), _SCORE_DECIMALS)
        order = np.lexsort((ids, -rounded))
        if one_per_patient:
            order = _first_of_each(order, view.patients(studies))
        hits = []
        for rank, place in enumerate(order[:k], start=1):
            position, code = view.position(target, int(found.rows[place]))
            hits.append(
                Hit(
                    study_id=bytes(ids[place]).decode(),
                    study=int(studies[place]),
                    position=position,
                    view=code,
                    rank=rank,
                    score=float(rounded[place]),
                    candidate_rank=int(place) + 1,
                    cosine=float(found.cosines[place]),
                )
            )
        return tuple(hits)


def _check_passed(deadline: Deadline) -> None:
    """Raises DeadlineTooShort where nobody waits any more."""
    # Not by recent times: what candidates take depends on filters, and who is refused never adds a shorter time.
    if not deadline.leaves(0.0):
        raise DeadlineTooShort(0.0)


def _first_of_each(order: NDArray[np.int64], patients: NDArray[np.int64]) -> NDArray[np.int64]:
    """Keeps the best hit of each patient; a study without a patient (0) stands for itself."""
    seen: set[int] = set()
    kept = []
    for place in order:
        patient = int(patients[place])
        if patient and patient in seen:
            continue
        seen.add(patient)
        kept.append(place)
    return np.array(kept, dtype=np.int64)
