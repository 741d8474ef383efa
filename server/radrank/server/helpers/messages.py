"""What a server and its helpers tell each other: pickled, each after its length. Both run the same code.

The helper begins with Hello. It answers each shortlist, in order, with Scores, or None where it can't.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radrank.core.graph import Candidates
from radrank.core.layout import VectorLayout
from radrank.core.nodes import Nodes
from radrank.core.ports import EngineManifest
from radrank.core.reranking import Shortlist
from radrank.core.studies import Modality
from radrank.core.vectors import Rows

_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True, kw_only=True, slots=True)
class Hello:
    """bundle: its sha256; manifests: of the engines that re-rank, by name."""

    bundle: str
    manifests: Mapping[str, EngineManifest]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """What the shortlists that follow are of. nodes: without those of the snapshot (`Nodes.late`)."""

    snapshot: Path
    layout: VectorLayout
    nodes: Mapping[Modality, Nodes]


Question = tuple[Any, ...]
"""A Shortlist; plain tuples and arrays are pickled several times as fast as its dataclasses."""
Scores = tuple[NDArray[np.float32], int]
"""Of the candidates, and the microseconds that the graph took."""


def question(shortlist: Shortlist) -> Question:
    return (
        shortlist.reranker,
        shortlist.query,
        shortlist.query_modality.value,
        shortlist.target.value,
        _parts(shortlist.candidates),
        tuple(_parts(shortlist.bridges[m]) for m in Modality),
        shortlist.excluded,
    )


def shortlist_of(asked: Question) -> Shortlist:
    reranker, query, modality, target, candidates, bridges, excluded = asked
    return Shortlist(
        reranker=reranker,
        query=query,
        query_modality=Modality(modality),
        target=Modality(target),
        candidates=_candidates(candidates),
        bridges={m: _candidates(parts) for m, parts in zip(Modality, bridges, strict=True)},
        excluded=excluded,
    )


def _parts(candidates: Candidates) -> tuple[Rows, NDArray[np.float32]]:
    return candidates.rows, candidates.cosines


def _candidates(parts: tuple[Rows, NDArray[np.float32]]) -> Candidates:
    return Candidates(rows=parts[0], cosines=parts[1])


def packed(message: object) -> bytes:
    """A message as it is sent."""
    content = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(content)) + content


class Unpacker:
    """Messages from the bytes of a pipe, as they come."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> list[Any]:
        """The messages that have come in full."""
        self._held += data
        messages = []
        while len(self._held) >= _LENGTH.size:
            end = _LENGTH.size + _LENGTH.unpack_from(self._held)[0]
            if len(self._held) < end:
                break
            # Whoever writes to this pipe is the server itself, or a process that it has started.
            messages.append(pickle.loads(memoryview(self._held)[_LENGTH.size : end]))  # noqa: S301
            del self._held[:end]
        return messages
