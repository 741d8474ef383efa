"""The client of a radrank server.

    from radrank.client import Client

    with Client("127.0.0.1:50051") as client:
        for hit in client.search(text="left pleural effusion", k=5).hits:
            print(hit.rank, hit.study_id, hit.score)

The names below load on first use, so that `radrank --help` does not pay for gRPC.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from radrank.client.client import Client
    from radrank.client.errors import (
        ClientError,
        DeadlineExceeded,
        FailedPrecondition,
        InvalidArgument,
        NotFound,
        Overloaded,
        Refused,
        ServerError,
        Unavailable,
    )
    from radrank.client.requests import NewImage, NewStudy, SearchOptions
    from radrank.client.results import (
        DeleteResult,
        Hit,
        Provenance,
        ScreenResult,
        SearchResult,
        StageTimes,
        Stats,
        Study,
        StudyImage,
        UpsertResult,
    )

__all__ = [
    "Client",
    "ClientError",
    "DeadlineExceeded",
    "DeleteResult",
    "FailedPrecondition",
    "Hit",
    "InvalidArgument",
    "NewImage",
    "NewStudy",
    "NotFound",
    "Overloaded",
    "Provenance",
    "Refused",
    "ScreenResult",
    "SearchOptions",
    "SearchResult",
    "ServerError",
    "StageTimes",
    "Stats",
    "Study",
    "StudyImage",
    "Unavailable",
    "UpsertResult",
]

_HOMES = ("errors", "results", "requests", "client")  # lightest first


def __getattr__(name: str) -> Any:
    if name in __all__:
        for home in _HOMES:
            module = import_module(f"{__name__}.{home}")
            if hasattr(module, name):
                return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
