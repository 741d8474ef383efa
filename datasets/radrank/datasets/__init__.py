"""Readers of chest-radiograph collections. All of them yield `radrank.core.studies.Study`, lazily."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from radrank.core.errors import InvalidQuery
from radrank.datasets._reading import Reader

__all__ = ["DATASETS", "Reader", "open_dataset"]


def open_dataset(name: str, root: Path | None, *, strict: bool = False) -> Reader:
    """The reader of the data set of that name, over the folder (or CSV file) `root`; "demo" needs none.

    strict: raise BadStudy at the first broken file or row, instead of skipping and counting it.
    Raises InvalidQuery for an unknown name or no root, NotFound where the root is not laid out as the reader expects.
    """
    if name not in DATASETS:
        raise InvalidQuery("dataset", f"is none of {', '.join(DATASETS)}")
    return DATASETS[name](root, strict)


def _openi(root: Path | None, strict: bool) -> Reader:
    from radrank.datasets.openi import LAYOUT, OpenI

    return OpenI(_given(root, LAYOUT), strict=strict)


def _mimic(root: Path | None, strict: bool) -> Reader:
    from radrank.datasets.mimic import LAYOUT, MimicCXR

    return MimicCXR(_given(root, LAYOUT), strict=strict)


def _csv(root: Path | None, strict: bool) -> Reader:
    from radrank.datasets.table import LAYOUT, Table

    return Table(_given(root, LAYOUT), strict=strict)


def _dicom(root: Path | None, strict: bool) -> Reader:
    from radrank.datasets.dicom import LAYOUT, DicomFolder

    return DicomFolder(_given(root, LAYOUT), strict=strict)


def _demo(_root: Path | None, _strict: bool) -> Reader:
    from radrank.datasets.demo import DemoArchive

    return DemoArchive()


def _given(root: Path | None, layout: str) -> Path:
    if root is None:
        raise InvalidQuery("root", f"this data set needs its folder: {layout}")
    return root


DATASETS: Mapping[str, Callable[[Path | None, bool], Reader]] = {
    "openi": _openi,
    "mimic-cxr": _mimic,
    "mimic-cxr-jpg": _mimic,
    "csv": _csv,
    "dicom": _dicom,
    "demo": _demo,
}
