"""Which studies a search may find."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from radrank.core.studies import View


@dataclass(frozen=True, kw_only=True, slots=True)
class Filters:
    """All of these must hold; an empty one holds for everything.

    normal: True for normal studies only, False for abnormal only; studies of unknown status pass neither
    since, until: inclusive; studies without a date don't pass
    """

    views: frozenset[View] = frozenset()
    labels_any: frozenset[str] = frozenset()
    labels_all: frozenset[str] = frozenset()
    normal: bool | None = None
    since: date | None = None
    until: date | None = None

    def __bool__(self) -> bool:
        return self != _EVERYTHING


_EVERYTHING = Filters()
