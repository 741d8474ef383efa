from __future__ import annotations

import numpy as np

from helpers.doubles import study
from radrank.core.columns import StudyColumns

STUDIES = [
    study(0, normal=True),
    study(1, normal=False, labels=("edema", "opacity")),
    study(2, normal=None, labels=("opacity",)),
    study(3, normal=False, labels=("gallstones",)),
    study(4, normal=None),
]


def test_findings_are_normal_and_then_the_groups_in_their_order():
    findings = StudyColumns.of(STUDIES).findings(("opacity", "edema"))
    assert findings.dtype == np.uint8
    assert findings.tolist() == [[1, 0, 0], [0, 1, 1], [0, 1, 0], [0, 0, 0], [0, 0, 0]]


def test_a_group_that_no_study_carries_is_all_zero_and_a_label_without_a_group_is_left_out():
    findings = StudyColumns.of(STUDIES).findings(("scar", "edema"))
    assert findings.tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0], [0, 0, 0], [0, 0, 0]]


def test_without_groups_there_is_normal_alone_and_without_studies_nothing():
    assert StudyColumns.of(STUDIES).findings(()).tolist() == [[1], [0], [0], [0], [0]]
    assert StudyColumns.of([]).findings(("edema",)).shape == (0, 2)
