"""A real server in this process on a real channel, with doubles for the engines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from helpers.doubles import DoubleBundle, ExactFactory, study
from radrank.core.studies import Study, View
from radrank.server.app import Server
from radrank.server.home import Home
from radrank.server.importing import encode_studies
from radrank.server.library import Library
from radrank.server.settings import load
from radrank.v1 import archive_pb2, archive_pb2_grpc, retrieval_pb2, retrieval_pb2_grpc

STUDIES = [
    study(
        n,
        images=2 if n % 4 == 0 else 1,
        view=View.LATERAL if n % 5 == 0 else View.PA,
        patient_id=f"P{n // 2}",
        normal=bool(n % 2),
        labels=() if n % 2 else ("opacity",) if n % 3 else ("edema", "opacity"),
        date=date(2020, 1, n + 1),
        impression="seen before" if n % 2 else "",
    )
    for n in range(24)
]
CALL_SECONDS = 20.0


@dataclass
class Running:
    """A server, and stubs that call it."""

    server: Server
    library: Library
    address: str
    channel: grpc.Channel
    retrieval: Any
    archive: Any

    def search(self, **fields: Any) -> retrieval_pb2.SearchResponse:
        return self.retrieval.Search(search_request(**fields), timeout=CALL_SECONDS)

    def upsert(self, *studies: archive_pb2.NewStudy) -> archive_pb2.UpsertResponse:
        requests = (archive_pb2.UpsertRequest(study=one) for one in studies)
        return self.archive.Upsert(requests, timeout=CALL_SECONDS)

    def stats(self) -> archive_pb2.StatsResponse:
        return self.archive.Stats(archive_pb2.StatsRequest(), timeout=CALL_SECONDS)


@contextmanager
def serving(
    home: Path, studies: Iterable[Study] = (), *, bundle: DoubleBundle | None = None, **settings: Any
) -> Iterator[Running]:
    """Serves an archive home on a free port; `studies` are upserted first, settings are given by name."""
    bundle = bundle or DoubleBundle()
    tree = load(**{"listen": "127.0.0.1:0", **settings})
    with Home(home) as opened:
        library = Library(opened, bundle, ExactFactory(), tree.compaction)
        library.upsert(list(encode_studies(studies, bundle.encoder)))
        server = Server(tree)
        address = server.start()
        server.serve(library)
        channel = grpc.insecure_channel(address, [("grpc.max_send_message_length", -1)])
        retrieval: Any = retrieval_pb2_grpc.RetrievalStub(channel)
        archive: Any = archive_pb2_grpc.ArchiveStub(channel)
        try:
            yield Running(server, library, address, channel, retrieval, archive)
        finally:
            channel.close()
            server.stop(0)
            library.close()


def search_request(**fields: Any) -> retrieval_pb2.SearchRequest:
    """A search by words for five, with these fields instead."""
    return retrieval_pb2.SearchRequest(**({"query": {"text": "finding1 sign2"}, "k": 5} | fields))


def new_study(study_id: str = "NEW", **fields: Any) -> archive_pb2.NewStudy:
    """A study to upsert, with these fields instead."""
    return archive_pb2.NewStudy(**({"study_id": study_id, "findings": "wholly new words"} | fields))


def error_of(error: grpc.RpcError) -> tuple[str, str]:
    """(code, message) of a failed call."""
    call: Any = error
    return call.code().name, call.details()


def health(channel: grpc.Channel, name: str = "") -> int:
    """Of a service, or of all; 1: serving."""
    request = health_pb2.HealthCheckRequest(service=name)
    return health_pb2_grpc.HealthStub(channel).Check(request, timeout=10).status
