"""What stands in the cells of index files: rows, views, dates, labels."""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections.abc import Collection, Iterator
from datetime import date
from pathlib import Path
from typing import TextIO

from radrank.core.errors import BadStudy
from radrank.core.studies import View
from radrank.datasets._reading import Tally

# LL, RL: left and right lateral, DICOM PS3.3 C.8.11.1. Obliques and decubitus views are none of ours: UNKNOWN.
_VIEWS = {
    "PA": View.PA,
    "AP": View.AP,
    "AP SUPINE": View.AP,
    "AP ERECT": View.AP,
    "AP PORTABLE": View.AP,
    "FRONTAL": View.FRONTAL,
    "LATERAL": View.LATERAL,
    "LAT": View.LATERAL,
    "L": View.LATERAL,
    "LL": View.LATERAL,
    "RL": View.LATERAL,
    "XTABLE LATERAL": View.LATERAL,
}


def view_of(text: str) -> View:
    """The view that a source spells so; UNKNOWN for an empty or a foreign spelling."""
    return _VIEWS.get(" ".join(text.upper().split()), View.UNKNOWN)


def natural(text: str) -> list[str | int]:
    """A sort key by which CXR2 stands before CXR10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"([0-9]+)", text)]


def snake(label: str) -> str:
    """Lower snake case: "Pleural Effusion" and "pleural-effusion" are both "pleural_effusion"."""
    return re.sub(r"[^0-9a-z]+", "_", label.lower()).strip("_")


def date_of(text: str, where: str) -> date | None:
    """A date from 2180-05-06 or DICOM's 21800506; None where empty. Raises BadStudy."""
    if not text:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise BadStudy(where, "the date is neither YYYY-MM-DD nor YYYYMMDD") from None


def normality(labels: Collection[str], *, stated: bool) -> bool | None:
    """False where a finding stands, else True where the source states so, else None.

    Support devices are no finding: CheXpert's "No Finding" may stand beside them.
    """
    if any(label != "support_devices" for label in labels):
        return False
    return True if stated else None


def rows(path: Path, columns: Collection[str], tally: Tally) -> Iterator[tuple[str, dict[str, str]]]:
    """The rows of a CSV file (gzip by its suffix) as (where, cells), names lower-cased, cells stripped.

    A broken row goes to the tally. Raises BadStudy where the file itself is broken or lacks one of the columns.
    """
    with _open(path) as lines:
        reader = csv.reader(lines)
        try:
            names = [name.strip().lower() for name in next(reader, [])]
            if missing := [column for column in columns if column not in names]:
                raise BadStudy(path.name, f"lacks the column {', '.join(missing)}")
            while True:
                try:
                    cells = next(reader)
                except StopIteration:
                    return
                except csv.Error as error:
                    tally.skip(BadStudy(f"{path.name}, line {reader.line_num}", str(error)))
                    continue
                where = f"{path.name}, line {reader.line_num}"
                if not any(cells):
                    continue
                if reason := _fault(cells, expected=len(names)):
                    tally.skip(BadStudy(where, reason))
                    continue
                yield where, {name: cell.strip() for name, cell in zip(names, cells, strict=True)}
        except (EOFError, gzip.BadGzipFile, zlib.error):
            raise BadStudy(path.name, "is not a whole gzip file") from None


def _open(path: Path) -> TextIO:
    # surrogateescape: one byte that is not UTF-8 costs its row, not the file.
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", errors="surrogateescape", newline="")
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")


def _fault(cells: list[str], *, expected: int) -> str:
    if len(cells) != expected:
        return f"has {len(cells)} cells, the header {expected}"
    try:
        "".join(cells).encode()
    except UnicodeEncodeError:
        return "is not UTF-8"
    return ""
