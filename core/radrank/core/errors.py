"""Everything radrank raises on purpose.

RadrankError
├── InvalidQuery(field, reason)       the caller can fix it           → INVALID_ARGUMENT
├── NotFound(kind)                    no such study, bundle, …        → NOT_FOUND
├── Overloaded(retry_after)           try again later                 → RESOURCE_EXHAUSTED
├── DeadlineTooShort(needed)          not computed, it would be late  → DEADLINE_EXCEEDED
├── Unavailable(reason)               shutting down, not ready        → UNAVAILABLE
├── Corrupt(path, expected, found)    a file is not what it was       → FAILED_PRECONDITION
├── Mismatch(what, expected, found)   two parts do not fit together   → FAILED_PRECONDITION
├── BadStudy(where, reason)           a source file or row is broken    (readers: skipped or, when strict, raised)
└── MissingExtra(package, extra)      an optional package is absent     (names the pip install that cures it)

Messages carry field names, kinds and paths; never report text, pixels or study ids.
"""

from __future__ import annotations


class RadrankError(Exception):
    """The root of what radrank raises on purpose. `str(error)` may be shown to a caller."""


class InvalidQuery(RadrankError):
    """`field` is the request's own name for what is wrong, `reason` says what to change."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class NotFound(RadrankError):
    """There is no such thing of this kind; the id itself is not repeated."""

    def __init__(self, kind: str, hint: str = "") -> None:
        super().__init__(f"no such {kind}" + (f"; {hint}" if hint else ""))
        self.kind = kind


class Overloaded(RadrankError):
    """Too much work is in flight; try again after `retry_after` seconds."""

    def __init__(self, retry_after: float) -> None:
        super().__init__(f"too many requests in flight; try again in {retry_after:.3f} s")
        self.retry_after = retry_after


class DeadlineTooShort(RadrankError):
    """The deadline leaves less than the `needed` seconds; 0.0 where it is not known how many these are."""

    def __init__(self, needed: float) -> None:
        about = f": what is left of this request needs about {needed:.3f} s" if needed else ""
        super().__init__(f"the deadline is too short{about}")
        self.needed = needed


class Unavailable(RadrankError):
    """The service can't answer now: it is starting, stopping or switched off."""


class Corrupt(RadrankError):
    """A file does not hold what its manifest says."""

    def __init__(self, path: str, expected: str, found: str) -> None:
        super().__init__(f"{path} is not what its manifest says: expected {expected}, found {found}")
        self.path = path


class Mismatch(RadrankError):
    """Two parts were not made for each other, such as a snapshot and a bundle."""

    def __init__(self, what: str, expected: str, found: str) -> None:
        super().__init__(f"{what}: expected {expected}, found {found}")


class BadStudy(RadrankError):
    """A file or row of a data set can't be read. `where` names it for the person who owns the data set."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"{where}: {reason}")
        self.where = where
        self.reason = reason


class MissingExtra(RadrankError):
    """An optional package is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f'{package} is not installed; run: pip install "radrank[{extra}]"')
        self.extra = extra
