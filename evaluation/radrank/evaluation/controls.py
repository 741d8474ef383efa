"""Which rows are controls: re-rankers that show what a graph re-ranker owes to its graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from radrank.evaluation.results import Family

_KIND = "<kind>"

# By name; <kind> stands for the re-ranker they are twins of.
CONTROLS: Mapping[str, str] = {
    "mlp": "the same inputs without any edge",
    "mlp_bare": "no edges and no archive features",
    "<kind>_shuffled": "its edges shuffled",
    "<kind>_alone": "no messages from the archive",
}


def family(name: str) -> Family:
    """Of the re-ranker of this name."""
    return Family.CONTROL if any(_fits(name, control) for control in CONTROLS) else Family.RERANKER


def controls_of(name: str) -> list[str]:
    """Names of what this re-ranker is to be compared with."""
    return [control.replace(_KIND, name) for control in CONTROLS]


def explained(names: Iterable[str]) -> str:
    """What the controls among these re-rankers are, in a line; nothing without any."""
    known = list(names)
    told = [f"{control}: {words}" for control, words in CONTROLS.items() if any(_fits(name, control) for name in known)]
    return f"Controls, trained as the others: {'; '.join(told)}." if told else ""


def _fits(name: str, control: str) -> bool:
    if control.startswith(_KIND):
        return name.endswith(control.removeprefix(_KIND))
    return name == control
