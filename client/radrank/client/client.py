"""One channel to a radrank server, with plain Python types on this side of it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias, Unpack

import grpc
import numpy as np
from numpy.typing import NDArray

from radrank.client import _decode, _encode
from radrank.client._feed import Feed, batches
from radrank.client._status import from_status, translated
from radrank.client.errors import ClientError, InvalidArgument, Refused, Unavailable
from radrank.client.requests import ImageFile, NewStudy, QueryOptions, SearchOptions
from radrank.client.results import DeleteResult, ScreenResult, SearchResult, Stats, Study, UpsertResult
from radrank.v1 import archive_pb2, archive_pb2_grpc, retrieval_pb2, retrieval_pb2_grpc

MESSAGE_BYTES = 64 * 2**20
EMBED_BYTES = MESSAGE_BYTES // 2
EMBED_QUERIES = 64
_SERVING = b"\x08\x01"  # grpc.health.v1.HealthCheckResponse: field 1, a varint, is 1
_LOOPBACK = ("127.", "localhost", "[::1]", "ipv4:127.", "unix:")

StreamQuery: TypeAlias = SearchOptions | retrieval_pb2.SearchRequest


class Client:
    """Calls radrank.v1 at `target` ("host:port"). Thread-safe; close it, or use it as a context manager.

    token: sent as `authorization: Bearer …` with every call
    ca: the PEM file of the authority that signed the server's certificate; without it the channel is not encrypted
    timeout: seconds that a call may take, unless the call names its own

    Every call raises a `ClientError` (see `radrank.client.errors`) when it gets no answer; an image path that can't
    be read raises OSError.
    """

    def __init__(
        self,
        target: str = "127.0.0.1:50051",
        *,
        token: str | None = None,
        ca: PathLike[str] | str | None = None,
        timeout: float = 10.0,
    ) -> None:
        self.target = target
        self.timeout = timeout
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self._channel = _channel(target, ca)
        retrieval: Any = retrieval_pb2_grpc.RetrievalStub(self._channel)  # type: ignore[no-untyped-call]
        archive: Any = archive_pb2_grpc.ArchiveStub(self._channel)  # type: ignore[no-untyped-call]
        self._retrieval = retrieval
        self._archive = archive
        self._health = self._channel.unary_unary("/grpc.health.v1.Health/Check", None, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self.target!r})"

    def close(self) -> None:
        """Cancels what is in flight and closes the channel."""
        self._channel.close()

    def search(self, *, timeout: float | None = None, **query: Unpack[SearchOptions]) -> SearchResult:
        """The studies that fit the query, best first.

        Exactly one of `image` (bytes or a path), `text`, `embedding` ([d]) and `study` (an id of the archive) asks;
        the other keywords are those of `SearchOptions`. Reports, labels and previews come with `include_report`,
        `include_labels` and `include_preview`.
        """
        return _decode.search(self._call(self._retrieval.Search, _encode.search_request(**query), timeout))

    def search_stream(
        self, queries: Iterable[tuple[str, StreamQuery]], *, timeout: float | None = None
    ) -> Iterator[tuple[str, SearchResult | ClientError]]:
        """Many searches over one stream; a reply for each tag, in the order of the queries.

        `queries` is read from another thread, as far ahead as the server takes. A bad request yields its ClientError
        in its place and the stream goes on; what `queries` itself raises is raised here, after the replies to all
        before it. `timeout` (seconds) is for the whole stream; there is none unless given.
        """
        feed = Feed(queries, _stream_request)
        call = self._retrieval.SearchStream(feed, timeout=timeout, metadata=self._metadata)
        try:
            with translated(self.target):
                for reply in call:
                    if reply.HasField("error"):
                        yield reply.tag, from_status(reply.error.code, reply.error.message, target=self.target)
                    else:
                        yield reply.tag, _decode.search(reply.search)
        finally:
            call.cancel()
        feed.check()

    def embed(
        self,
        *,
        images: Sequence[ImageFile] | None = None,
        texts: Sequence[str] | None = None,
        timeout: float | None = None,
    ) -> NDArray[np.float32]:
        """Unit vectors in the bundle's space, float32 [n, d]; one for each image or each text.

        More than a call may carry goes in several calls, each with its own timeout.
        """
        if (images is None) == (texts is None):
            raise InvalidArgument("embed: give either images or texts")
        if isinstance(images, str | bytes | PathLike) or isinstance(texts, str):
            raise InvalidArgument("embed: give a list, even of one")
        asked: Iterator[retrieval_pb2.Query]
        if images is not None:
            asked = (_encode.query(image=image) for image in images)
        else:
            asked = (_encode.query(text=text) for text in texts or ())
        parts = [
            _decode.vectors(self._call(self._retrieval.Embed, retrieval_pb2.EmbedRequest(queries=batch), timeout))
            for batch in batches(asked, count=EMBED_QUERIES, size=EMBED_BYTES, measure=lambda query: query.ByteSize())
        ]
        if not parts:
            raise InvalidArgument("embed: nothing to embed")
        return np.concatenate(parts)

    def screen(self, *, k: int = 0, timeout: float | None = None, **query: Unpack[QueryOptions]) -> ScreenResult:
        """Normal or abnormal, for an `image`, a `text` or a `study`; `k` (1 to 100) studies vote, 0: 10."""
        request = retrieval_pb2.ScreenRequest(query=_encode.query(**query), k=k)
        return _decode.screen(self._call(self._retrieval.Screen, request, timeout))

    def get_study(self, study_id: str, *, previews: bool = False, timeout: float | None = None) -> Study:
        """One study of the archive, with JPEG previews of its images where asked."""
        request = retrieval_pb2.GetStudyRequest(study_id=study_id, include_previews=previews)
        return _decode.study(self._call(self._retrieval.GetStudy, request, timeout))

    def upsert(self, studies: Iterable[NewStudy], *, timeout: float | None = None) -> UpsertResult:
        """Adds studies or replaces those whose ids exist, all or nothing; at most 1,000.

        When it returns, the change is on disk and searches see it. What `studies` raises is raised here, and the
        archive is unchanged.
        """
        feed = Feed(studies, _encode.new_study, aborts=True)
        call = self._archive.Upsert.future(feed, timeout=timeout or self.timeout, metadata=self._metadata)
        feed.call = call
        try:
            with translated(self.target):
                reply = call.result()
        except (ClientError, grpc.FutureCancelledError):
            feed.check()
            raise
        finally:
            call.cancel()
        return UpsertResult(added=reply.added, replaced=reply.replaced, sequence=reply.sequence)

    def delete(self, study_ids: Iterable[str], *, timeout: float | None = None) -> DeleteResult:
        """Removes studies; unknown ids are counted, not an error. 1 to 1,000 ids."""
        ids = [study_ids] if isinstance(study_ids, str) else list(study_ids)
        reply = self._call(self._archive.Delete, archive_pb2.DeleteRequest(study_ids=ids), timeout)
        return DeleteResult(deleted=reply.deleted, unknown=reply.unknown, sequence=reply.sequence)

    def stats(self, *, timeout: float | None = None) -> Stats:
        """What the archive holds, and what serves it."""
        return _decode.stats(self._call(self._archive.Stats, archive_pb2.StatsRequest(), timeout))

    def wait_until_serving(self, timeout: float = 60.0) -> None:
        """Returns once grpc.health.v1 says SERVING; `Unavailable` when it has not after `timeout` seconds."""
        end = time.monotonic() + timeout
        last: ClientError | None = None
        while (left := end - time.monotonic()) > 0:
            try:
                if self._call(self._health, b"", min(left, 5.0)) == _SERVING:
                    return
                last = None
            except ClientError as error:
                if error.code == "UNIMPLEMENTED" or isinstance(error, Refused):
                    raise
                last = error
            time.sleep(min(0.05, left))
        why = "it is up but not serving yet" if last is None else str(last)
        raise Unavailable(f"not serving after {timeout:g} s: {why}", code="UNAVAILABLE") from last

    def _call(self, method: Any, request: Any, timeout: float | None) -> Any:
        with translated(self.target):
            return method(request, timeout=self.timeout if timeout is None else timeout, metadata=self._metadata)


def _channel(target: str, ca: PathLike[str] | str | None) -> grpc.Channel:
    options: list[tuple[str, int]] = [
        ("grpc.max_send_message_length", MESSAGE_BYTES),
        ("grpc.max_receive_message_length", MESSAGE_BYTES),
        # gRPC waits a second, then up to two minutes, before it knocks again: too long for a server that is starting.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2000),
    ]
    if target.startswith(_LOOPBACK):
        options.append(("grpc.enable_http_proxy", 0))  # a hospital's proxy can't reach this machine's own ports
    if ca is None:
        return grpc.insecure_channel(target, options)
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(Path(ca).read_bytes()), options)


def _stream_request(tagged: tuple[str, StreamQuery]) -> retrieval_pb2.SearchStreamRequest:
    tag, query = tagged
    search = query if isinstance(query, retrieval_pb2.SearchRequest) else _encode.search_request(**query)
    return retrieval_pb2.SearchStreamRequest(tag=tag, search=search)
