import io
import re
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from radrank.core.studies import View
from radrank.datasets.demo import DemoArchive, golden_material, phantom
from radrank.datasets.demo_findings import KINDS, Finding, draw_findings
from radrank.datasets.demo_report import written

SEEDS = (1, 4, 9)

# How a report names a group. A sentence that holds one of these, and no denial, claims the group.
NAMES = {
    "cardiomegaly": r"cardiomegaly|enlarged (heart|cardi)|(heart|silhouette) is \w+ enlarged|cardiac enlarge"
    r"|heart size is \w+ increased",
    "opacity": r"opacity|consolidation|infiltrate|airspace|pneumonia",
    "pleural_effusion": r"effusion|pleural fluid|blunt",
    "pneumothorax": r"pneumothorax",
    "edema": r"edema|congestion|interstitial",
    "atelectasis": r"atelecta",
    "nodule": r"nodul",
    "granuloma": r"granuloma",
    "emphysema": r"emphysema|hyperinfl|hyperexp|copd",
    "hypoinflation": r"low lung volumes|lung volumes are \w+ low|shallow inspiration|hypoinflated",
    "device": r"pacemaker|catheter|central line|venous line|port\b|sternotomy|device",
    "fracture": r"fracture",
    "aorta": r"tortuous|aortic (ectasia|tortuosity|atherosclerosis)|atherosclero|ectatic",
    "spine": r"scoliosis|curvature",
}
DENIAL = re.compile(r"\b(no|without evidence|negative for|not seen|without (?!(lung|mediastinal)))\b|^without", re.I)


def claimed(report: str) -> set[str]:
    sentences = [text for text in re.split(r"(?<=\.)\s+", report) if not DENIAL.search(text)]
    return {group for group, names in NAMES.items() if any(re.search(names, text, re.I) for text in sentences)}


def change(seed: int, finding: Finding, view: View = View.PA) -> np.ndarray:
    """What the finding adds to this seed's chest, float [256, 256]."""
    return phantom(seed, [finding], view=view).astype(float) - phantom(seed, view=view).astype(float)


def example(group: str, **fields) -> Finding:
    kind = KINDS[group]
    return Finding(**{"group": group, "side": kind.sides[0], "zone": kind.zones[0], "kind": kind.kinds[0]} | fields)


@pytest.fixture(scope="module")
def studies():
    return list(DemoArchive(400))


def test_a_study_made_alone_is_the_study_of_the_iteration(studies):
    archive = DemoArchive(400)
    assert [archive[index] for index in (0, 7, 123, -1)] == [studies[index] for index in (0, 7, 123, 399)]
    assert list(DemoArchive(3)) == studies[:3]


def test_another_seed_makes_another_archive(studies):
    other = DemoArchive(4, seed=1)[0]
    assert other.images[0].read() != studies[0].images[0].read()


def test_it_has_the_shape_of_a_reader():
    archive = DemoArchive()
    assert (len(archive), archive.skipped, archive.left_out) == (640, [], {})
    assert len(list(DemoArchive(5))) == 5
    assert list(DemoArchive(0)) == []


def test_what_is_out_of_range_is_told():
    with pytest.raises(IndexError, match="2 studies, none at 2"):
        DemoArchive(2)[2]
    with pytest.raises(ValueError, match="zero or more"):
        DemoArchive(-1)


def test_ids_are_unique_and_some_patients_come_again_later(studies):
    assert studies[0].study_id == "DEMO00001"
    assert len({study.study_id for study in studies}) == len(studies)
    assert all(re.fullmatch(r"P\d{5}", study.patient_id) for study in studies)
    visits = Counter(study.patient_id for study in studies)
    assert set(visits.values()) == {1, 2, 3}
    for patient in visits:
        days = [study.date for study in studies if study.patient_id == patient]
        assert days == sorted(set(days))
        assert all(2015 <= day.year <= 2024 for day in days)


def test_about_a_third_are_normal_and_the_others_have_one_to_three_findings(studies):
    assert 0.28 < np.mean([study.normal for study in studies]) < 0.42
    assert all(study.normal == (not study.labels) for study in studies)
    assert {len(study.labels) for study in studies} == {0, 1, 2, 3}
    assert all(list(study.labels) == sorted(set(study.labels)) for study in studies)
    assert set().union(*(study.labels for study in studies)) == set(KINDS) == set(NAMES)


def test_pictures_are_gray_jpegs_frontal_first(studies):
    for study in studies[:40]:
        for image in study.images:
            picture = Image.open(io.BytesIO(image.read()))
            assert (picture.format, picture.mode, picture.size) == ("JPEG", "L", (256, 256))
    assert all(study.images[0].view in (View.PA, View.AP) for study in studies)
    assert 0.12 < np.mean([study.images[0].view is View.AP for study in studies]) < 0.28
    seconds = [study.images[1].view for study in studies if len(study.images) > 1]
    assert set(seconds) == {View.LATERAL}
    assert 0.2 < len(seconds) / len(studies) < 0.4


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("group", [group for group in KINDS if group not in ("emphysema", "hypoinflation")])
@pytest.mark.parametrize("severity", [0, 2])
def test_every_finding_is_visible_and_leaves_the_rest_alone(group, severity, seed):
    difference = np.abs(change(seed, example(group, severity=severity)))
    assert difference.max() > 20
    assert (difference > 8).sum() > 15
    assert (difference < 1).mean() > 0.4


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("group", ["opacity", "pleural_effusion", "pneumothorax", "nodule", "granuloma", "fracture"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_finding_shows_on_its_side(group, side, seed):
    difference = np.abs(change(seed, example(group, side=side)))
    right, left = difference[:, :118].sum(), difference[:, 138:].sum()
    here, there = (left, right) if side == "left" else (right, left)
    assert here > 20 * there


@pytest.mark.parametrize("group", ["opacity", "nodule", "granuloma"])
def test_zones_lie_above_one_another(group):
    heights = []
    for zone in ("upper", "mid", "lower"):
        difference = np.abs(change(4, example(group, zone=zone)))
        heights.append((difference.sum(axis=1) * np.arange(256)).sum() / difference.sum())
    assert heights[0] + 20 < heights[1] < heights[2] - 20


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_graver_shows_more(seed):
    for group in ("opacity", "pleural_effusion", "pneumothorax", "edema", "nodule", "cardiomegaly"):
        mild, severe = (np.abs(change(seed, example(group, severity=severity))).sum() for severity in (0, 2))
        assert severe > 1.15 * mild, group


@pytest.mark.parametrize("seed", SEEDS)
def test_the_large_heart_is_wider(seed):
    brighter = change(seed, example("cardiomegaly"))[100:220]
    columns = np.flatnonzero((brighter > 12).sum(axis=0) > 8)
    assert columns.size > 12
    assert columns.min() > 40
    assert columns.max() < 240


@pytest.mark.parametrize("seed", SEEDS)
def test_a_pneumothorax_darkens_the_apex_and_an_effusion_brightens_the_base(seed):
    apex = change(seed, example("pneumothorax", side="right", severity=2))[20:100, :128]
    assert apex[apex < -6].size > 300
    base = change(seed, example("pleural_effusion", side="left"))
    assert base[130:, 138:].mean() > 5
    assert np.abs(base[:90]).max() < 1


@pytest.mark.parametrize("seed", SEEDS)
def test_lungs_grow_dark_in_emphysema_and_small_in_hypoinflation(seed):
    whole = slice(40, 220)
    assert change(seed, example("emphysema"))[whole].mean() < -3
    assert change(seed, example("hypoinflation"))[whole].mean() > 3


@pytest.mark.parametrize("group", [group for group in KINDS if group not in ("pneumothorax", "fracture")])
def test_most_findings_show_in_the_lateral(group):
    assert np.abs(change(4, example(group), View.LATERAL)).max() > 15


def test_ap_differs_from_pa_and_every_chest_from_the_next():
    assert np.abs(phantom(1).astype(int) - phantom(1, view=View.AP)).mean() > 1
    assert np.abs(phantom(1).astype(int) - phantom(2)).mean() > 5


def test_reports_name_what_is_there_and_deny_the_rest():
    rng = np.random.default_rng(0)
    for _ in range(1500):
        findings = draw_findings(rng) if rng.random() < 0.8 else ()
        text = "\n".join(written(findings, rng, lateral=bool(rng.random() < 0.5), prior=bool(rng.random() < 0.5)))
        assert claimed(text) == {finding.group for finding in findings}, text
        assert "{" not in text
        assert "  " not in text


def test_reports_tell_the_side_that_is_drawn():
    rng = np.random.default_rng(1)
    for group in ("pneumothorax", "opacity", "fracture", "pleural_effusion"):
        for side, other in (("left", "right"), ("right", "left")):
            for _ in range(20):
                text = " ".join(written([example(group, side=side)], rng)).lower()
                assert re.search(rf"\b{side}\b", text)
                assert not re.search(rf"\b{other}\b", text)


def test_reports_are_worded_in_many_ways(studies):
    reports = [study.report for study in studies]
    assert all(reports)
    assert len(set(reports)) > 0.93 * len(reports)
    lengths = [len(report.split()) for report in reports]
    assert min(lengths) < 6
    assert max(lengths) > 50


def test_golden_material_is_repeatable_and_not_of_the_default_archive(studies):
    pictures, reports = golden_material(5)
    assert (pictures, reports) == golden_material(5)
    assert (len(pictures), len(reports)) == (5, 5)
    assert all(reports)
    assert not set(pictures) & {image.read() for study in studies for image in study.images}
    assert golden_material(2, seed=8)[0] != pictures[:2]
