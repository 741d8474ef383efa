"""radrank.v1 over a Library: decode, call, encode. Errors are mapped by the interceptor."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence

import grpc
import numpy as np

from radrank.core.errors import InvalidQuery, Unavailable
from radrank.core.ports import Encoder
from radrank.core.ranking import ImageQuery, TextQuery
from radrank.core.studies import Modality, Study
from radrank.core.timing import Deadline
from radrank.core.vectors import Matrix
from radrank.server import codecs, replies
from radrank.server.admission import Admission
from radrank.server.gate import Gate
from radrank.server.importing import encode_studies
from radrank.server.statuses import status_of
from radrank.v1 import archive_pb2, archive_pb2_grpc, retrieval_pb2, retrieval_pb2_grpc

UPSERTED = 1_000
UPSERT_BYTES = 2**30  # what one upsert may hold in memory until it is written


class RetrievalServicer(retrieval_pb2_grpc.RetrievalServicer):
    """Searches."""

    def __init__(self, gate: Gate, admission: Admission) -> None:
        self._gate = gate
        self._admission = admission

    def Search(  # noqa: N802 - the contract's name
        self, request: retrieval_pb2.SearchRequest, context: grpc.ServicerContext
    ) -> retrieval_pb2.SearchResponse:
        return self._search(request, Deadline(context.time_remaining()))

    def SearchStream(  # noqa: N802
        self, requests: Iterator[retrieval_pb2.SearchStreamRequest], context: grpc.ServicerContext
    ) -> Iterator[retrieval_pb2.SearchStreamResponse]:
        deadline = Deadline(context.time_remaining())
        with self._gate.stream(context) as stream:
            for request in requests:
                with stream.busy():
                    yield self._tagged(request, deadline)
                if stream.ending:
                    return

    def Embed(  # noqa: N802
        self, request: retrieval_pb2.EmbedRequest, _context: grpc.ServicerContext
    ) -> retrieval_pb2.EmbedResponse:
        with self._gate.library.lease() as edition:
            encoder = edition.ranker.encoder
            contents = codecs.embed_queries(request, image_size=encoder.image_size)
            first = Modality.IMAGE if isinstance(contents[0], ImageQuery) else Modality.REPORT
            return replies.embed_response(_embedded(contents, encoder), edition, encoder.manifests[first])

    def Screen(  # noqa: N802
        self, request: retrieval_pb2.ScreenRequest, context: grpc.ServicerContext
    ) -> retrieval_pb2.ScreenResponse:
        start = time.perf_counter_ns()
        with self._gate.library.lease() as edition:
            ranker = edition.ranker
            content, k, decode_us = codecs.screen_query(request, image_size=ranker.encoder.image_size)
            deadline = Deadline(context.time_remaining())
            screening = ranker.screen(content, k=k, deadline=deadline, decode_us=decode_us)
            return replies.screen_response(screening, edition=edition, start_ns=start)

    def GetStudy(  # noqa: N802
        self, request: retrieval_pb2.GetStudyRequest, _context: grpc.ServicerContext
    ) -> retrieval_pb2.GetStudyResponse:
        study_id = codecs.study_id(request)
        record = self._gate.library.archive.record(study_id, previews=request.include_previews)
        return replies.study_response(record, previews=request.include_previews)

    def _search(self, request: retrieval_pb2.SearchRequest, deadline: Deadline) -> retrieval_pb2.SearchResponse:
        start = time.perf_counter_ns()
        library = self._gate.library
        with library.lease() as edition:
            ranker = edition.ranker
            query = codecs.search_query(request, image_size=ranker.encoder.image_size, deadline=deadline)
            ranking = ranker.search(query)
            return replies.search_response(request, ranking, edition=edition, archive=library.archive, start_ns=start)

    def _tagged(
        self, request: retrieval_pb2.SearchStreamRequest, deadline: Deadline
    ) -> retrieval_pb2.SearchStreamResponse:
        try:
            codecs.check_tag(request)
            with self._admission.turn(deadline):
                return retrieval_pb2.SearchStreamResponse(
                    tag=request.tag, search=self._search(request.search, deadline)
                )
        except Exception as error:  # noqa: BLE001 - one request's fault is its own reply, not the stream's end
            status = status_of(error)
            told = retrieval_pb2.StreamError(code=status.number, message=status.message)
            return retrieval_pb2.SearchStreamResponse(tag=request.tag, error=told)


class ArchiveServicer(archive_pb2_grpc.ArchiveServicer):
    """Changes the archive."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def Upsert(  # noqa: N802
        self, requests: Iterator[archive_pb2.UpsertRequest], context: grpc.ServicerContext
    ) -> archive_pb2.UpsertResponse:
        deadline = Deadline(context.time_remaining())
        with self._gate.stream(context) as stream, stream.busy(), deadline.running():
            library = self._gate.library
            records = list(encode_studies(_studies(requests), library.engines.encoder))
            if not context.is_active():
                raise Unavailable("the caller has gone")  # and does not expect that anything was changed
            added, replaced, sequence = library.upsert(records)
            return archive_pb2.UpsertResponse(added=added, replaced=replaced, sequence=sequence)

    def Delete(  # noqa: N802
        self, request: archive_pb2.DeleteRequest, _context: grpc.ServicerContext
    ) -> archive_pb2.DeleteResponse:
        study_ids = codecs.deleted_ids(request)
        deleted, sequence = self._gate.library.delete(study_ids)
        return archive_pb2.DeleteResponse(deleted=deleted, unknown=len(study_ids) - deleted, sequence=sequence)

    def Stats(  # noqa: N802
        self, _request: archive_pb2.StatsRequest, _context: grpc.ServicerContext
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
