"""Open-i: Indiana University's chest radiographs (Demner-Fushman et al., JAMIA 2016;23(2):304-310).

    root/
    ├── ecgen-radiology/*.xml      one report a file
    ├── images/<parentImage id>.jpg (or .png)
    └── projections.csv            uid, filename, projection (Kaggle's indiana_projections.csv is the same)

Labels are the finding groups of `groups.toml` over the report's MeSH `major` terms.
"""

from __future__ import annotations

import tomllib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from xml.etree import ElementTree as ET

from radrank.core.errors import BadStudy
from radrank.core.studies import Study, StudyImage, View
from radrank.datasets._cells import natural, rows, view_of
from radrank.datasets._reading import StudyReader, Tally, require

LAYOUT = "ecgen-radiology/*.xml, images/*.jpg and projections.csv in one folder"
OTHER = "other"

_NO_INDEXING = "no indexing"
_NO_FINDINGS = {"normal", "technical quality of image unsatisfactory"}


class OpenI(StudyReader[Path]):
    """The studies of an Open-i folder, by number. A study's id is its uId, such as "CXR1"; it has no date.

    Reports without MeSH indexing are left out, and so are those with neither text nor image. Images that a report
    names and the folder lacks are counted in `left_out`.
    """

    def __init__(self, root: Path, *, strict: bool = False) -> None:
        super().__init__(strict=strict)
        self._reports = require(root / "ecgen-radiology", kind="Open-i folder", layout=LAYOUT)
        self._images = require(root / "images", kind="Open-i folder", layout=LAYOUT)
        self._views: dict[str, View] = {}  # parentImage id → view, filled by _find
        kaggle = root / "indiana_projections.csv"
        self._projections = (
            kaggle if kaggle.exists() else require(root / "projections.csv", kind="Open-i folder", layout=LAYOUT)
        )

    def _find(self, tally: Tally) -> Sequence[Path]:
        for where, row in rows(self._projections, ("uid", "filename", "projection"), tally):
            view = view_of(row["projection"])
            if view is View.UNKNOWN:
                tally.skip(BadStudy(where, "the projection is neither Frontal nor Lateral"))
            stem = row["filename"].partition(".")[0]
            # Kaggle drops the "CXR", and with it "CXR1_" where the stem repeats the number.
            self._views.update(dict.fromkeys((stem, f"CXR{stem}", f"CXR{row['uid']}_{stem}"), view))
        return sorted(self._reports.glob("*.xml"), key=lambda path: natural(path.name))

    def _read(self, source: Path, tally: Tally) -> Study | None:
        try:
            root = ET.fromstring(source.read_bytes())  # noqa: S314 - local files, and expat ≥ 2.4.1 bounds entities
        except ET.ParseError as error:
            raise BadStudy(source.name, f"is not well-formed XML (line {error.position[0]})") from None
        study_id = _attribute(root.find("uId"), "id")
        if not study_id:
            raise BadStudy(source.name, "has no uId")
        terms = [" ".join((term.text or "").lower().split()) for term in root.iterfind("MeSH/major")]
        if _NO_INDEXING in terms:
            tally.leave_out("no indexing")
            return None
        sections = {
            _attribute(part, "Label").upper(): "".join(part.itertext()).strip() for part in root.iter("AbstractText")
        }
        labels = groups_of(terms)
        study = Study(
            study_id=study_id,
            patient_id=study_id,
            images=tuple(self._images_of(root, tally)),
            findings=sections.get("FINDINGS", ""),
            impression=sections.get("IMPRESSION", ""),
            labels=labels,
            normal=False if labels else True if "normal" in terms else None,
        )
        if not study.report and not study.images:
            tally.leave_out("neither report nor image")
            return None
        return study

    def _images_of(self, root: ET.Element, tally: Tally) -> Iterable[StudyImage]:
        # A report may name one image twice.
        for image_id in dict.fromkeys(_attribute(element, "id") for element in root.iter("parentImage")):
            paths = (self._images / f"{image_id}{suffix}" for suffix in (".jpg", ".png"))
            if path := next((path for path in paths if path.is_file()), None):
                yield StudyImage(image_id=image_id, content=path, view=self._views.get(image_id, View.UNKNOWN))
            else:
                tally.leave_out("image file is missing")


def groups_of(terms: Iterable[str]) -> tuple[str, ...]:
    """Finding groups of MeSH terms ("Opacity/lung/upper lobe"), sorted; "other" for a heading that no group names."""
    groups: set[str] = set()
    for term in terms:
        heading, *qualifiers = (part.strip() for part in " ".join(term.lower().split()).split("/"))
        if heading and heading not in _NO_FINDINGS:
            qualified = _groups().get("/".join([heading, *qualifiers[:1]]), ())
            groups.update({*_groups().get(heading, ()), *qualified} or {OTHER})
    return tuple(sorted(groups))


@cache
def _groups() -> Mapping[str, tuple[str, ...]]:
    """Heading, or heading/first qualifier → its groups."""
    table = tomllib.loads(files("radrank.datasets").joinpath("groups.toml").read_text(encoding="utf-8"))
    groups: defaultdict[str, tuple[str, ...]] = defaultdict(tuple)
    for group, headings in table.items():
        for heading in headings:
            groups[heading] += (group,)
    return dict(groups)


def _attribute(element: ET.Element | None, name: str) -> str:
    # Some files pad their attributes with blanks.
    return "" if element is None else element.get(name, "").strip()
