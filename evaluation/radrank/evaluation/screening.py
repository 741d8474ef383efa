"""Normal or abnormal: by the classifier, by the vote of the entries retrieved, and by always saying the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radrank.core.vectors import top_k
from radrank.evaluation.metrics import Scores, completed
from radrank.evaluation.results import Screened
from radrank.evaluation.trial import Trial

MAJORITY, VOTE, CLASSIFIER = "majority class", "vote of the top 10", "classifier"
BINS = 10

Probabilities = NDArray[np.floating[Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reliability:
    """What a probability of abnormal was worth, by bins of equal width.

    predicted: mean probability and observed: share of abnormal, float64 [bins], NaN in an empty bin
    counts: int64 [bins]
    """

    predicted: NDArray[np.float64]
    observed: NDArray[np.float64]
    counts: NDArray[np.int64]

    @property
    def calibration_error(self) -> float:
        """Expected calibration error (Naeini et al., AAAI 2015), of the probability of abnormal."""
        filled = self.counts > 0
        gaps = np.abs(self.predicted[filled] - self.observed[filled])
        return float(gaps @ self.counts[filled] / self.counts.sum())


def screen(
    probabilities: Probabilities, vote: Probabilities, truth: NDArray[np.int8], *, threshold: float = 0.5
) -> tuple[Screened, ...]:
    """The rows majority class, vote and classifier.

    probabilities and vote: float [q], of abnormal; truth: int8 [q], 1 normal, −1 abnormal, 0 unknown and left out.
    A probability at the threshold calls abnormal. Rates of a class that does not occur are NaN, the ROC AUC None.
    """
    known = truth != 0
    abnormal = truth[known] == -1
    majority = np.full(len(abnormal), abnormal.mean() >= 0.5)
    return (
        _screened(MAJORITY, abnormal, majority),
        _screened(VOTE, abnormal, vote[known] >= threshold, vote[known]),
        _screened(CLASSIFIER, abnormal, probabilities[known] >= threshold, probabilities[known]),
    )


def top_vote(trial: Trial, scores: Scores, k: int = 10) -> NDArray[np.float64]:
    """Share of abnormal among each query's k best entries whose status is known, float64 [q], as the server votes."""
    asked = trial.valid & (trial.gallery_normal != 0)
    placed = np.where(asked, completed(np.where(asked, scores, -np.inf), trial.cosines), -np.inf)
    best = top_k(placed, k)
    voters = np.take_along_axis(asked, best, axis=1)
    votes = voters & (trial.gallery_normal[best] == -1)
    share: NDArray[np.float64] = votes.sum(axis=1) / np.maximum(voters.sum(axis=1), 1)
    return share


def reliability(probabilities: Probabilities, truth: NDArray[np.int8], bins: int = BINS) -> Reliability:
    """For a reliability plot. probabilities: float [q], of abnormal; truth as in `screen`."""
    known = truth != 0
    chances, abnormal = probabilities[known].astype(np.float64), truth[known] == -1
    place = np.searchsorted(np.linspace(0.0, 1.0, bins + 1)[1:-1], chances)
    counts = np.bincount(place, minlength=bins)
    predicted, observed = (
        np.divide(
            np.bincount(place, weights=weights, minlength=bins), counts, out=np.full(bins, np.nan), where=counts > 0
        )
        for weights in (chances, abnormal.astype(np.float64))
    )
    return Reliability(predicted=predicted, observed=observed, counts=counts)


def _screened(
    method: str, abnormal: NDArray[np.bool_], called: NDArray[np.bool_], chances: Probabilities | None = None
) -> Screened:
    from sklearn import metrics

    sensitivity, specificity = (
        float(metrics.recall_score(abnormal, called, pos_label=label, zero_division=np.nan)) for label in (True, False)
    )
    both = 0 < abnormal.sum() < len(abnormal)
    truth = np.where(abnormal, -1, 1).astype(np.int8)
    return Screened(
        method=method,
        accuracy=float(metrics.accuracy_score(abnormal, called)),
        balanced_accuracy=(sensitivity + specificity) / 2.0,
        sensitivity=sensitivity,
        specificity=specificity,
        roc_auc=float(metrics.roc_auc_score(abnormal, chances)) if both and chances is not None else None,
        calibration_error=reliability(chances, truth).calibration_error if chances is not None else None,
    )
