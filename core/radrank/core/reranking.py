"""The second stage of a search: the graph around its candidates, read by a re-ranker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from radrank.core.graph import Candidates, GraphBuilder
from radrank.core.layout import VectorLayout
from radrank.core.messages import MessageTables
from radrank.core.nodes import Nodes
from radrank.core.ports import EngineManifest, Reranker
from radrank.core.studies import Modality
from radrank.core.timing import Stopwatch
from radrank.core.vectors import Vector


@dataclass(frozen=True, kw_only=True, slots=True)
class Shortlist:
    """What the first stage hands to the second. All rows are those of one view.

    reranker: its name; query: float32 [d], unit
    bridges: the query's nearest archive items of each modality
    excluded: int32, studies that contribute no archive node
    """

    reranker: str
    query: Vector = field(repr=False)
    query_modality: Modality
    target: Modality
    candidates: Candidates
    bridges: Mapping[Modality, Candidates]
    excluded: NDArray[np.int32]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reranked:
    """scores: float32 [K], of the candidates in their order; graph_us: what building the graph took of it."""

    scores: NDArray[np.float32]
    manifest: EngineManifest
    graph_us: int


class Rerank(Protocol):
    """Has the second stage computed, here or elsewhere."""

    def __call__(self, shortlist: Shortlist, reranking: Reranking, /) -> Reranked:
        """reranking: computes it in the thread that asks. Raises what it raises."""
        ...


class Reranking:
    """The second stage over the items of one view. Immutable and thread-safe.

    snapshot: the directory that the nodes' bases come from
    """

    def __init__(
        self,
        *,
        nodes: Mapping[Modality, Nodes],
        layout: VectorLayout,
        rerankers: Mapping[str, Reranker],
        snapshot: Path,
    ) -> None:
        self.nodes = nodes
        self.layout = layout
        self.snapshot = snapshot
        self._rerankers = rerankers
        self._builders = {
            name: GraphBuilder(
                gallery=nodes,
                archive=nodes,
                layout=layout,
                settings=reranker.settings,
                relations=reranker.relations,
            )
            for name, reranker in rerankers.items()
        }
        self._messages = {
            name: MessageTables(nodes, self._builders[name], reranker.messages)
            for name, reranker in rerankers.items()
            if reranker.messages is not None
        }

    def __call__(self, shortlist: Shortlist) -> Reranked:
        """Raises Unavailable, Overloaded and DeadlineTooShort of an engine on another host."""
        reranker, builder = self._rerankers[shortlist.reranker], self._builders[shortlist.reranker]
        messages = self._messages.get(shortlist.reranker)
        watch = Stopwatch()
        graph = builder.build(
            query=shortlist.query,
            query_modality=shortlist.query_modality,
            target=shortlist.target,
            candidates=shortlist.candidates,
            bridges=shortlist.bridges,
            excluded=shortlist.excluded,
            messages=messages(shortlist.target, shortlist.candidates.rows, shortlist.excluded) if messages else None,
        )
        batch = builder.batch([graph])
        graph_us = watch.lap()
        scores = reranker.score(batch)[0, : len(shortlist.candidates)]
        return Reranked(scores=scores, manifest=reranker.manifest, graph_us=graph_us)


def at_once(shortlist: Shortlist, reranking: Reranking, /) -> Reranked:
    """A Rerank: in the thread that asks."""
    return reranking(shortlist)
