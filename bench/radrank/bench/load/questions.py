"""Requests made before a run, so that a run only sends bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radrank.core.errors import InvalidQuery, NotFound

if TYPE_CHECKING:
    from radrank.client.client import Client

MADE_UP = 64
"""Made-up studies that lend their images and sentences; the demo archive holds none of them."""

Source = Callable[["Client", Path | None], list[dict[str, Any]]]


def texts(_: Client, file: Path | None) -> list[dict[str, Any]]:
    """Sentences, one a line of `file`; without it, the sentences of made-up reports."""
    return [{"text": sentence} for sentence in _sentences(file)]


def embeddings(client: Client, file: Path | None) -> list[dict[str, Any]]:
    """The server's own vectors of the sentences."""
    return [{"embedding": vector, "modality": "report"} for vector in client.embed(texts=_sentences(file))]


def images(_: Client, __: Path | None) -> list[dict[str, Any]]:
    """JPEGs of made-up chests."""
    from radrank.datasets.demo import golden_material

    return [{"image": jpeg} for jpeg in golden_material(MADE_UP)[0]]


def studies(client: Client, file: Path | None) -> list[dict[str, Any]]:
    """Studies of the archive: those that the sentences find."""
    found = {hit.study_id: None for text in _sentences(file)[:MADE_UP] for hit in client.search(text=text, k=10).hits}
    return [{"study": study_id} for study_id in found]


KINDS: Mapping[str, Source] = {"text": texts, "image": images, "embedding": embeddings, "study": studies}


def serialised(
    client: Client, kind: str, file: Path | None, *, allow_degraded: bool = False, **options: Any
) -> list[bytes]:
    """Search requests of this kind, all with these keywords of SearchOptions. Raises InvalidQuery and NotFound."""
    from radrank.client._encode import search_request

    if kind not in KINDS:
        raise InvalidQuery("kind", f"must be one of {', '.join(KINDS)}")
    if kind == "image" and file is not None:
        raise InvalidQuery("queries", "holds sentences: it goes with the kinds text, embedding and study")
    queries = KINDS[kind](client, file)
    if not queries:
        raise NotFound("study", "the archive is empty: add studies to it first")
    requests = [search_request(**query, **options) for query in queries]
    for request in requests:
        request.allow_degraded = allow_degraded
    return [request.SerializeToString() for request in requests]


def _sentences(file: Path | None) -> list[str]:
    if file is not None:
        lines = [line.strip() for line in file.read_text("utf-8").splitlines()]
        if not any(lines):
            raise InvalidQuery("queries", "must hold a sentence a line")
        return [line for line in lines if line]
    from radrank.datasets.demo import golden_material

    reports = golden_material(MADE_UP)[1]
    sentences = (part.strip(" .") for report in reports for part in report.replace("\n", " ").split(". "))
    return list(dict.fromkeys(f"{sentence}." for sentence in sentences if sentence))
