"""What costs no training: floors, hubness corrections, expansions and re-ranking by neighbours, tuned on validation.

A query's scores come from that query, the gallery and the banks, so no test query tells another anything: hubs are
measured with training queries. A query's own entry, where source and target are one modality, is never its neighbour;
to other entries it is one like any other.

All take (trial, banks) and return float64 [q, n], higher is better, −inf where the method says nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np

from radrank.core.vectors import Matrix, Rows, exact_neighbours, top_k, unit
from radrank.evaluation.metrics import Scores, per_query, scoped
from radrank.evaluation.neighbourhoods import Found, gnn, k_reciprocal
from radrank.evaluation.results import Scope
from radrank.evaluation.trial import Banks, Trial


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """score: (trial, banks, **parameters) -> float64 [q, n]; grid: the parameters that validation chooses from."""

    score: Callable[..., Found]
    grid: tuple[Mapping[str, float], ...]


def macro_jaccard(trial: Trial, scores: Scores) -> float:
    """What is tuned for: graded, and as much the abnormal queries' as the normal ones'."""
    return scoped(per_query(trial, scores), trial.query_normal)[Scope.MACRO]["Jaccard@10"]


def tune(
    method: Method, trial: Trial, banks: Banks, objective: Callable[[Trial, Scores], float] = macro_jaccard
) -> Mapping[str, float]:
    """The grid's parameters with the highest objective on this (validation) trial, the first of equals."""
    return max(method.grid, key=lambda parameters: objective(trial, method.score(trial, banks, **parameters)))


# Floors


def random(trial: Trial, *, seed: int = 0) -> Found:
    return np.random.default_rng(seed).random(trial.valid.shape)


def normals_first(trial: Trial) -> Found:
    """All normal entries, then the rest, each by cosine: useless, and good at every mean over all queries."""
    return _products(trial.queries, trial.gallery) + np.where(trial.gallery_normal == 1, 3.0, 0.0)


# Hubness: entries near to every query are lowered


def csls(trial: Trial, banks: Banks, *, k: int = 10) -> Found:
    """2·cos(q, g) − r(q) − r(g), r the mean cosine of the k nearest (Conneau et al., ICLR 2018).

    r(q) is taken over the gallery, r(g) over the bank of queries.
    """
    cosines = _products(trial.queries, trial.gallery)
    own = _mean_of_best(np.where(trial.valid, cosines, -np.inf), k)
    return 2.0 * cosines - own[:, None] - _hubness(trial, banks, k)


def nnn(trial: Trial, banks: Banks, *, k: int = 64, alpha: float = 0.5) -> Found:
    """cos(q, g) − α · mean cosine of g's k nearest bank queries (Chowdhury et al., EMNLP 2024)."""
    return _products(trial.queries, trial.gallery) - alpha * _hubness(trial, banks, k)


def qb_norm(trial: Trial, banks: Banks, *, beta: float = 20.0) -> Found:
    """Dynamic inverted softmax: β·cos − log Σ_b exp(β·cos(b, g)), over β (QB-Norm: Bogolin et al., CVPR 2022).

    Only where the query's nearest entry is some bank query's nearest too (the activation set, k = 1); other queries
    keep their cosines. The logarithm keeps the paper's order, and one unit for both kinds of query.
    """
    probes = _products(banks.queries, trial.gallery)
    cosines = _products(trial.queries, trial.gallery)
    normaliser = np.logaddexp.reduce(beta * probes, axis=0) / beta
    activated = np.zeros(len(trial.gallery), dtype=np.bool_)
    activated[probes.argmax(axis=1)] = True
    nearest = np.where(trial.valid, cosines, -np.inf).argmax(axis=1)
    return cosines - np.where(activated[nearest][:, None], normaliser, 0.0)


def sinkhorn(trial: Trial, banks: Banks, *, temperature: float = 0.05, rounds: int = 50) -> Found:
    """cos(q, g) + ε·log v(g), v the gallery's scaling of an entropic transport plan (Cuturi, NeurIPS 2013).

    The plan is between the bank of queries and the gallery, both uniform; the query's own scaling would only add a
    constant to its scores. temperature: ε, in cosines
    """
    kernel = np.exp(_products(banks.queries, trial.gallery) / temperature)
    scaling = np.ones(kernel.shape[1])
    for _ in range(rounds):
        rows = 1.0 / (len(kernel) * (kernel @ scaling))
        scaling = 1.0 / (kernel.shape[1] * (rows @ kernel))
    return _products(trial.queries, trial.gallery) + temperature * np.log(scaling)


# Expansion: vectors move towards their neighbours in gallery and archive


def alpha_qe(trial: Trial, banks: Banks, *, k: int = 10, alpha: float = 3.0) -> Found:
    """cos(q + Σ cosᵅ·x, g) over the k nearest x of the query (Radenović et al., TPAMI 2019).

    Across modalities the query takes on vectors of the other one, as is published.
    """
    database = _database(trial, banks)
    return _products(_expanded_queries(trial, database, k, alpha), trial.gallery)


def dba(trial: Trial, banks: Banks, *, k: int = 10, alpha: float = 3.0) -> Found:
    """Database augmentation: every entry expanded as αQE does a query (Arandjelović & Zisserman, CVPR 2012)."""
    return _products(trial.queries, _augmented(trial.gallery, _database(trial, banks), k, alpha))


def alpha_qe_dba(trial: Trial, banks: Banks, *, k: int = 10, alpha: float = 3.0) -> Found:
    """αQE in the augmented database, archive included (both together as in Gordo et al., IJCV 2017)."""
    database = _database(trial, banks)
    augmented = _augmented(database, database, k, alpha)
    return _products(_expanded_queries(trial, augmented, k, alpha), augmented[: len(trial.gallery)])


# What they share


def _products(left: Matrix, right: Matrix) -> Found:
    """left @ right.T, in float64 so that a query's scores are the same alone and in company."""
    return left.astype(np.float64) @ right.astype(np.float64).T


def _mean_of_best(scores: Scores, k: int) -> Found:
    """Mean [rows] of the k largest of each row, or of as many finite ones as there are."""
    k = min(k, scores.shape[1])
    best = np.partition(scores, -k, axis=1)[:, -k:]
    finite = np.isfinite(best)
    mean: Found = np.where(finite, best, 0.0).sum(axis=1, dtype=np.float64) / np.maximum(finite.sum(axis=1), 1)
    return mean


def _hubness(trial: Trial, banks: Banks, k: int) -> Found:
    """Mean cosine [n] of every entry's k nearest bank queries."""
    return _mean_of_best(trial.gallery @ banks.queries.T, k)


def _database(trial: Trial, banks: Banks) -> Matrix:
    """The gallery, then the archive, float32 [n + a, d]."""
    return np.concatenate([trial.gallery, banks.gallery])


def _expand(vectors: Matrix, database: Matrix, rows: Rows, cosines: Matrix, alpha: float) -> Matrix:
    """Unit vectors [v, d] of vectors plus their neighbours, rows [v, k] of the database, each weighing cosᵅ."""
    weights = np.where(np.isfinite(cosines), np.clip(cosines, 0.0, None) ** alpha, 0.0)
    total = vectors.astype(np.float64)
    for place in range(rows.shape[1]):  # [v, d] at a time rather than [v, k, d]
        total += weights[:, place, None] * database[rows[:, place]]
    return unit(total)


def _expanded_queries(trial: Trial, database: Matrix, k: int, alpha: float) -> Matrix:
    cosines = trial.queries @ database.T
    cosines[:, : len(trial.gallery)][~trial.valid] = -np.inf
    rows = top_k(cosines, k)
    return _expand(trial.queries, database, rows, np.take_along_axis(cosines, rows, axis=1), alpha)


def _augmented(vectors: Matrix, database: Matrix, k: int, alpha: float) -> Matrix:
    """αQE of vectors, which are the database's first rows."""
    rows, cosines = exact_neighbours(vectors, database, k + 1)
    # Of twins, either may come first: the row itself is looked for, and where it is crowded out the last one goes.
    others = np.argsort(rows == np.arange(len(vectors))[:, None], axis=1, kind="stable")[:, : rows.shape[1] - 1]
    rows, cosines = np.take_along_axis(rows, others, axis=1), np.take_along_axis(cosines, others, axis=1)
    return _expand(vectors, database, rows, cosines, alpha)


def _grid(**choices: tuple[float, ...]) -> tuple[Mapping[str, float], ...]:
    return tuple(dict(zip(choices, values, strict=True)) for values in product(*choices.values()))


FLOORS: Mapping[str, Callable[[Trial], Found]] = {"random": random, "normals first": normals_first}

METHODS: Mapping[str, Method] = {
    "CSLS": Method(score=csls, grid=_grid(k=(5, 10, 50))),
    "QB-Norm": Method(score=qb_norm, grid=_grid(beta=(5.0, 10.0, 20.0, 40.0))),
    "NNN": Method(score=nnn, grid=_grid(k=(16, 64, 256), alpha=(0.25, 0.5, 0.75, 1.0))),
    "Sinkhorn": Method(score=sinkhorn, grid=_grid(temperature=(0.02, 0.05, 0.1, 0.2))),
    "αQE": Method(score=alpha_qe, grid=_grid(k=(3, 10, 30), alpha=(0.0, 1.0, 3.0))),
    "DBA": Method(score=dba, grid=_grid(k=(3, 10, 30), alpha=(0.0, 1.0, 3.0))),
    "αQE + DBA": Method(score=alpha_qe_dba, grid=_grid(k=(3, 10, 30), alpha=(0.0, 1.0, 3.0))),
    "k-reciprocal": Method(score=k_reciprocal, grid=_grid(k1=(10, 20, 40), k2=(3, 6), weight=(0.1, 0.3, 0.5))),
    "GNN re-ranking": Method(score=gnn, grid=_grid(k1=(10, 20, 40), k2=(3, 7), alpha=(1.0, 2.0))),
}
