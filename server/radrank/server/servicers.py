"""radrank.v1 over a Library: decode, call, encode. What they raise, the front turns into statuses."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from radrank.core.errors import InvalidQuery, Unavailable
from radrank.core.ports import Encoder
from radrank.core.ranking import ImageQuery, Ranker, Ranking, TextQuery
from radrank.core.reranking import Rerank, at_once
from radrank.core.studies import Modality, Study
from radrank.core.vectors import Matrix
from radrank.engines.runtimes import computes_in_caller
from radrank.server import codecs, replies
from radrank.server.calls import Caller
from radrank.server.gate import Gate
from radrank.server.importing import encode_studies
from radrank.server.statuses import status_of
from radrank.v1 import archive_pb2, archive_pb2_grpc, retrieval_pb2, retrieval_pb2_grpc

UPSERTED = 1_000
UPSERT_BYTES = 2**30  # what one upsert may hold in memory until it is written


class RetrievalServicer(retrieval_pb2_grpc.RetrievalServicer):
    """Searches. rerank: computes their second stage."""

    def __init__(self, gate: Gate, rerank: Rerank = at_once) -> None:
        self._gate = gate
        self._rerank = rerank

    def Search(  # noqa: N802 - the contract's name
        self, request: retrieval_pb2.SearchRequest, caller: Caller
    ) -> retrieval_pb2.SearchResponse:
        start = time.perf_counter_ns()
        library = self._gate.library
        with library.lease() as edition:
            ranking = self._ranking(request, edition.ranker, caller)
            return replies.search_response(request, ranking, edition=edition, archive=library.archive, start_ns=start)

    def SearchStream(  # noqa: N802
        self, request: retrieval_pb2.SearchStreamRequest, caller: Caller
    ) -> retrieval_pb2.SearchStreamResponse:
        """The reply to one request of the stream. One request's fault is its own reply, not the stream's end."""
        try:
            codecs.check_tag(request)
            return retrieval_pb2.SearchStreamResponse(tag=request.tag, search=self.Search(request.search, caller))
        except Exception as error:  # noqa: BLE001 - whatever it was
            status = status_of(error)
            told = retrieval_pb2.StreamError(code=status.number, message=status.message)
            return retrieval_pb2.SearchStreamResponse(tag=request.tag, error=told)

    def Embed(  # noqa: N802
        self, request: retrieval_pb2.EmbedRequest, _caller: Caller
    ) -> retrieval_pb2.EmbedResponse:
        with self._gate.library.lease() as edition:
            encoder = edition.ranker.encoder
            contents = codecs.embed_queries(request, image_size=encoder.image_size)
            first = Modality.IMAGE if isinstance(contents[0], ImageQuery) else Modality.REPORT
            return replies.embed_response(_embedded(contents, encoder), edition, encoder.manifests[first])

    def Screen(  # noqa: N802
        self, request: retrieval_pb2.ScreenRequest, caller: Caller
    ) -> retrieval_pb2.ScreenResponse:
        start = time.perf_counter_ns()
        with self._gate.library.lease() as edition:
            ranker = edition.ranker
            content, k, decode_us = codecs.screen_query(request, image_size=ranker.encoder.image_size)
            screening = ranker.screen(content, k=k, deadline=caller.deadline, decode_us=decode_us)
            return replies.screen_response(screening, edition=edition, start_ns=start)

    def GetStudy(  # noqa: N802
        self, request: retrieval_pb2.GetStudyRequest, _caller: Caller
    ) -> retrieval_pb2.GetStudyResponse:
        study_id = codecs.study_id(request)
        record = self._gate.library.archive.record(study_id, previews=request.include_previews)
        return replies.study_response(record, previews=request.include_previews)

    def rank(self, request: retrieval_pb2.SearchRequest, caller: Caller) -> Ranking:
        """As Search, without what only its reply holds."""
        with self._gate.library.lease() as edition:
            return self._ranking(request, edition.ranker, caller)

    def is_short(self, request: object) -> bool:
        """Whether a request is a search that encodes nothing, and looks nothing up beside what it finds."""
        search = request.search if isinstance(request, retrieval_pb2.SearchStreamRequest) else request
        return (
            isinstance(search, retrieval_pb2.SearchRequest)
            and (search.query.HasField("embedding") or search.query.HasField("study"))
            and not (search.include_report or search.include_labels or search.include_preview)
            and self.reranks_here()
        )

    def reranks_here(self) -> bool:
        """Whether re-rankers compute in the thread that asks them, and wait for nobody; not while there are none."""
        try:
            rerankers = self._gate.library.engines.rerankers.values()
        except Unavailable:  # which the request itself is told
            return False
        return all(computes_in_caller(reranker.manifest) for reranker in rerankers)

    def _ranking(self, request: retrieval_pb2.SearchRequest, ranker: Ranker, caller: Caller) -> Ranking:
        query = codecs.search_query(request, image_size=ranker.encoder.image_size, deadline=caller.deadline)
        return ranker.search(query, rerank=self._rerank)


class ArchiveServicer(archive_pb2_grpc.ArchiveServicer):
    """Changes the archive."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def Upsert(  # noqa: N802
        self, requests: Iterator[archive_pb2.UpsertRequest], caller: Caller
    ) -> archive_pb2.UpsertResponse:
        library = self._gate.library
        records = list(encode_studies(_studies(requests), library.engines.encoder))
        if not caller.waits:
            raise Unavailable("the caller has gone")  # and does not expect that anything was changed
        added, replaced, sequence = library.upsert(records)
        return archive_pb2.UpsertResponse(added=added, replaced=replaced, sequence=sequence)

    def Delete(  # noqa: N802
        self, request: archive_pb2.DeleteRequest, _caller: Caller
    ) -> archive_pb2.DeleteResponse:
        study_ids = codecs.deleted_ids(request)
        deleted, sequence = self._gate.library.delete(study_ids)
        return archive_pb2.DeleteResponse(deleted=deleted, unknown=len(study_ids) - deleted, sequence=sequence)

    def Stats(  # noqa: N802
        self, _request: archive_pb2.StatsRequest, _caller: Caller
    ) -> archive_pb2.StatsResponse:
        library = self._gate.library
        with library.lease() as edition:
            return replies.stats_response(library.archive.counts(), edition)


def _studies(requests: Iterable[archive_pb2.UpsertRequest]) -> Iterator[Study]:
    held = 0
    for place, request in enumerate(requests):
        if place >= UPSERTED:
            raise InvalidQuery("studies", f"a stream holds at most {UPSERTED:,}")
        held += request.ByteSize()
        if held > UPSERT_BYTES:
            raise InvalidQuery("studies", "hold more than 1 GiB together; send them in several streams")
        yield codecs.new_study(request, place=place)


def _embedded(contents: Sequence[ImageQuery | TextQuery], encoder: Encoder) -> Matrix:
    """Vectors [n, d] of images and texts, in their order. One by one: a batch rounds otherwise than its parts alone."""
    return np.concatenate(
        [
            encoder.encode_images(content.pixels[None])
            if isinstance(content, ImageQuery)
            else encoder.encode_texts([content.text])
            for content in contents
        ]
    )
