"""What every reader shares: laziness, order, and an account of what was not yielded."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from radrank.core.errors import BadStudy, NotFound
from radrank.core.studies import Study

Source = TypeVar("Source")


class Reader(Protocol):
    """A collection of studies, read lazily and always in the same order.

    `skipped` and `left_out` speak of the latest iteration so far; every `iter()` starts them afresh.
    """

    @property
    def skipped(self) -> Sequence[BadStudy]:
        """Files and rows that are broken, each with its reason."""
        ...

    @property
    def left_out(self) -> Mapping[str, int]:
        """What a rule keeps out although nothing is broken: reason → count."""
        ...

    def __len__(self) -> int:
        """How many studies to expect, for progress bars; those left out or skipped may still be among them."""
        ...

    def __iter__(self) -> Iterator[Study]: ...


@dataclass(kw_only=True)
class Tally:
    """The account of one iteration. A strict one raises what it would otherwise count as skipped."""

    strict: bool = False
    skipped: list[BadStudy] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def skip(self, bad: BadStudy) -> None:
        if self.strict:
            raise bad
        self.skipped.append(bad)

    def leave_out(self, reason: str) -> None:
        self.left_out[reason] += 1

    def add(self, other: Tally) -> None:
        for bad in other.skipped:
            self.skip(bad)
        self.left_out.update(other.left_out)


class StudyReader(ABC, Generic[Source]):
    """A Reader that first finds its sources (file names, index rows), then reads one at a time.

    strict: raise BadStudy where a source is broken, instead of skipping and counting it.
    """

    def __init__(self, *, strict: bool = False) -> None:
        self._strict = strict
        self._tally = Tally()

    @abstractmethod
    def _find(self, tally: Tally) -> Sequence[Source]:
        """The sources in their order, one a study; called once, at the first `len()` or `iter()`."""

    @abstractmethod
    def _read(self, source: Source, tally: Tally) -> Study | None:
        """One study, or None where the tally was told why it is left out. Raises BadStudy or OSError."""

    @property
    def skipped(self) -> list[BadStudy]:
        return self._tally.skipped

    @property
    def left_out(self) -> dict[str, int]:
        return self._tally.left_out

    @cached_property
    def _found(self) -> tuple[Sequence[Source], Tally]:
        tally = Tally()
        return self._find(tally), tally

    def __len__(self) -> int:
        return len(self._found[0])

    def __iter__(self) -> Iterator[Study]:
        # Each iteration fills its own tally: an older, half-read iterator can't disturb the account of this one.
        self._tally = Tally(strict=self._strict)
        return self._studies(self._tally)

    def _studies(self, tally: Tally) -> Iterator[Study]:
        sources, found = self._found
        tally.add(found)
        seen: set[str] = set()
        for source in sources:
            try:
                study = self._read(source, tally)
            except BadStudy as bad:
                tally.skip(bad)
            except OSError as error:
                tally.skip(BadStudy(str(error.filename), error.strerror or "can't be read"))
            else:
                if study is None:
                    continue
                if study.study_id in seen:
                    tally.skip(BadStudy(str(source), "repeats the id of an earlier study"))
                    continue
                seen.add(study.study_id)
                yield study


def require(path: Path, *, kind: str, layout: str) -> Path:
    """The path, where it exists. Raises NotFound that names it and says what the layout must be."""
    if not path.exists():
        raise NotFound(kind, f"{path} is missing; expected {layout}")
    return path
