"""The made-up demo archive: chest phantoms and reports of them, so that radrank can be tried with no data at hand.

Nothing in it is of any patient. A study is a pure function of the archive's seed and the study's index.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from typing import Never

import numpy as np
from numpy.typing import NDArray

from radrank.core.studies import Study, StudyImage, View
from radrank.datasets.demo_findings import Anatomy, Finding, draw_anatomy, draw_findings
from radrank.datasets.demo_lateral import lateral
from radrank.datasets.demo_lesions import LESIONS
from radrank.datasets.demo_phantom import frontal, jpeg
from radrank.datasets.demo_report import written

NORMAL_SHARE = 0.35

# Eight studies in a row are of five patients; which is whose is shuffled in every row.
_ROW, _PATIENTS = (0, 1, 2, 3, 3, 4, 4, 4), 5
# Streams of random numbers, so that a change of the words leaves the pictures as they are.
_PATIENT, _STUDY, _WORDS, _FINDINGS, _SHUFFLE = 11, 12, 13, 14, 15
_FIRST_DAY, _LAST_DAY = date(2015, 1, 1), date(2024, 12, 31)


def phantom(
    seed: int, findings: Sequence[Finding] = (), *, view: View = View.PA, anatomy: Anatomy | None = None
) -> NDArray[np.uint8]:
    """One radiograph of the chest of this seed, with these findings: uint8 [256, 256].

    The same seed gives the same chest, pose, exposure and noise whatever the findings.
    """
    anatomy = anatomy or draw_anatomy(np.random.default_rng([seed, _PATIENT]))
    if view is View.LATERAL:
        return lateral(anatomy, findings, seed=(seed,))
    return frontal(anatomy, findings, seed=(seed,), view=view, lesions=LESIONS)


class DemoArchive:
    """`studies` made-up studies, each made when it is asked for.

    skipped, left_out: always empty, here because every reader has them

    Raises ValueError where `studies` or `seed` is negative, IndexError for an index outside the archive.
    """

    def __init__(self, studies: int = 640, seed: int = 0) -> None:
        if studies < 0 or seed < 0:
            raise ValueError(f"a demo archive needs studies and seed of zero or more, not {studies} and {seed}")
        self._studies = studies
        self._seed = seed
        self.skipped: list[Never] = []
        self.left_out: dict[str, int] = {}

    def __len__(self) -> int:
        return self._studies

    def __iter__(self) -> Iterator[Study]:
        return (self[index] for index in range(self._studies))

    def __getitem__(self, index: int) -> Study:
        if not -self._studies <= index < self._studies:
            raise IndexError(f"the demo archive has {self._studies} studies, none at {index}")
        index %= self._studies
        patient, visit = self._patient_of(index)
        findings = self._findings_of(index)
        rng = np.random.default_rng([self._seed, index, _STUDY])
        view = View.AP if rng.random() < 0.2 else View.PA
        two_views = bool(rng.random() < 0.3)
        of_patient = np.random.default_rng([self._seed, patient, _PATIENT])
        anatomy = draw_anatomy(of_patient)
        pictures = [(view, frontal(anatomy, findings, seed=(self._seed, index), view=view, lesions=LESIONS))]
        if two_views:
            pictures.append((View.LATERAL, lateral(anatomy, findings, seed=(self._seed, index))))
        words = np.random.default_rng([self._seed, index, _WORDS])
        body, impression = written(findings, words, view=view, lateral=two_views, prior=visit > 0)
        study_id = f"DEMO{index + 1:05d}"
        return Study(
            study_id=study_id,
            patient_id=f"P{patient + 1:05d}",
            images=tuple(
                StudyImage(image_id=f"{study_id}-{number}", content=jpeg(pixels), view=seen)
                for number, (seen, pixels) in enumerate(pictures, start=1)
            ),
            findings=body,
            impression=impression,
            labels=tuple(sorted(finding.group for finding in findings)),
            normal=not findings,
            date=_day(of_patient, visit),
        )

    def _patient_of(self, index: int) -> tuple[int, int]:
        """(patient's number, how many of the patient's studies come before this one)."""
        row, place = divmod(index, len(_ROW))
        order = np.random.default_rng([self._seed, row, _SHUFFLE]).permutation(_ROW)
        return row * _PATIENTS + int(order[place]), int(np.count_nonzero(order[:place] == order[place]))

    def _findings_of(self, index: int) -> tuple[Finding, ...]:
        rng = np.random.default_rng([self._seed, index, _FINDINGS])
        return () if rng.random() < NORMAL_SHARE else draw_findings(rng)


def _day(of_patient: np.random.Generator, visit: int) -> date:
    """The day of a patient's visit: the first at random, later ones one to two years after one another."""
    span = (_LAST_DAY - _FIRST_DAY).days - 2 * 700
    start, *gaps = int(of_patient.integers(span)), *(int(gap) for gap in of_patient.integers(30, 700, visit))
    return _FIRST_DAY + timedelta(days=start + sum(gaps))


def golden_material(count: int = 8, *, seed: int = 7) -> tuple[list[bytes], list[str]]:
    """JPEG bytes and report texts of `count` made-up studies that the default archive doesn't hold."""
    # The archive's seed is far from any that a person would choose for a demo.
    studies = list(DemoArchive(count, seed=900_000 + seed))
    return [study.images[0].read() for study in studies], [study.report for study in studies]
