"""The shapes that graphs have as arrays, by name: what engines of fixed shapes are built for."""

from __future__ import annotations

from radrank.core.graph import MESSAGES, QUERY, RELATIONS, TOLD_RELATIONS, GraphSettings
from radrank.core.layout import VectorLayout
from radrank.core.studies import Modality


def batch_shapes(
    layout: VectorLayout, settings: GraphSettings, *, graphs: int, candidates: int
) -> dict[str, tuple[int, ...]]:
    """Shapes of all arrays of a GraphBatch of this many graphs, padded to this many candidates; norms too."""
    near, first = settings.query_neighbours, settings.query_candidates
    degree = settings.neighbours
    degrees = {
        "candidate_image": degree,
        "candidate_report": degree,
        "candidate_candidate": degree,
        "candidate_query": 1,
        "query_image": near,
        "query_report": near,
        "query_candidate": first,
    }
    shapes = _node_shapes(layout, graphs, candidates)
    for m in Modality:
        shapes[m.value] = (graphs * (candidates * degree + near), 3 * layout.beliefs_width)
    for r in RELATIONS:
        table = (graphs, 1 if r.target == QUERY else candidates, degrees[r.name])
        shapes |= {f"{r.name}.{kind}": table for kind in ("idx", "weight", "norm")}
    return shapes


def told_shapes(
    layout: VectorLayout, settings: GraphSettings, *, graphs: int, candidates: int, messages: int
) -> dict[str, tuple[int, ...]]:
    """The same of a batch with messages of this width."""
    near = settings.query_neighbours
    shapes = _node_shapes(layout, graphs, candidates) | {MESSAGES: (graphs, candidates, messages)}
    for m in Modality:
        shapes[m.value] = (graphs * near, 3 * layout.beliefs_width)
        shapes |= {f"query_{m}.{kind}": (graphs, 1, near) for kind in ("weight", "mean")}
    return shapes | {
        "candidate_query.weight": (graphs, candidates, 1),
        "candidate_candidate.dense": (graphs, candidates, candidates),
        "query_candidate.dense": (graphs, 1, candidates),
    }


def around_shapes(
    layout: VectorLayout, settings: GraphSettings, *, graphs: int, candidates: int
) -> dict[str, tuple[int, ...]]:
    """Shapes of what messages are made of."""
    whole = batch_shapes(layout, settings, graphs=graphs, candidates=candidates)
    shapes = {f"{r.name}.{kind}": whole[f"{r.name}.{kind}"] for r in TOLD_RELATIONS for kind in ("idx", "weight")}
    for m in Modality:
        shapes[m.value] = (graphs * candidates * settings.neighbours, 3 * layout.beliefs_width)
    return shapes


def _node_shapes(layout: VectorLayout, graphs: int, candidates: int) -> dict[str, tuple[int, ...]]:
    return {
        "direction": (graphs,),
        "query": (graphs, layout.beliefs_width),
        "candidate": (graphs, candidates, layout.beliefs_width),
        "base": (graphs, candidates),
        "mask": (graphs, candidates),
    }
