"""`bench quality` over tiny runs: what is trained already is used, what is missing is trained, all of it is judged."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from helpers.made_up import feature_set, tiny_backbone, tiny_run
from radrank.bench import quality as bench
from radrank.bench.quality import PROJECTION, Options, quality
from radrank.bench.recipes import BELIEFS, BOTH_VIEWS, CLIP_ALONE, FROZEN, LEXICON, LOSSES, TUNED, Recipes
from radrank.bench.spaces import About, collection
from radrank.core.studies import Modality, Study, StudyImage, View
from radrank.core.vectors import fused
from radrank.evaluation import subject
from radrank.evaluation.results import Scope
from radrank.training import pipeline, runs

FEATURES = feature_set()
LATERAL = FEATURES.study_ids[3]


class Silent:
    @contextmanager
    def task(self, label, total):
        yield lambda: None

    def say(self, text):
        pass


class Reader(list):
    """The studies that the made-up features are of."""


def studies() -> Reader:
    return Reader(
        Study(
            study_id=study_id,
            patient_id=f"P{row // 2}",
            images=(StudyImage(image_id="I", content=b"", view=View.LATERAL if study_id == LATERAL else View.PA),),
            uncertain=("edema",) if row == 5 else (),
            date=date(2026, 1, 1),
        )
        for row, study_id in enumerate(FEATURES.study_ids)
    )


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    out = tmp_path_factory.mktemp("quality")
    for seed in range(2):
        tiny_run(out / f"seed-{seed}", ("sage",))
    with pytest.MonkeyPatch.context() as patch:
        for module in (runs, pipeline):
            patch.setattr(module, "load_backbone", lambda name, weights: tiny_backbone())
        patch.setattr(bench, "open_dataset", lambda name, root: studies())
        patch.setattr(subject, "LEAST_TUNING", 10)
        yield Options(
            dataset="made up", root=None, out=out, seeds=2, rerankers=("sage", "mlp"), draws=20, candidates=10
        )


@pytest.fixture(scope="module")
def found(options):
    return quality(options, reporter=Silent())


def test_every_recipe_is_a_row_matched_and_as_it_is_in_both_directions_of_the_mission(found):
    directions = [table.direction for table in found.heads.tables]
    assert directions == ["image→report", "report→image"] * 2
    assert [table.reference for table in found.heads.tables] == [CLIP_ALONE] * 2 + [FROZEN] * 2
    for table in found.heads.tables:
        assert {row.method for row in table.rows} == {*LOSSES, BOTH_VIEWS, TUNED, LEXICON, BELIEFS}
        assert all(row.seeds == 2 for row in table.rows)
        assert sum(row.matched for row in table.rows) == len(table.rows) / 2


def test_rerankers_stand_beside_their_encoder_s_projection_and_the_clip_loss_alone_for_every_seed(found):
    table = found.findings.report.tables[1]
    seeds = {row.method: row.seeds for row in table.rows}
    assert {name: seeds[name] for name in ("sage", "mlp", PROJECTION, CLIP_ALONE)} == dict.fromkeys(
        ("sage", "mlp", PROJECTION, CLIP_ALONE), 2
    )
    against = {(one.method, one.against) for one in table.comparisons}
    assert {("sage", "mlp"), ("sage", PROJECTION), ("sage", CLIP_ALONE)} <= against
    assert all(found.findings.report.leaks.values())


def test_matched_rows_have_the_reference_s_share_of_normals(found):
    for table in found.heads.tables:
        rows = {(row.method, row.matched): row.metrics[Scope.ALL]["normals@10"].mean for row in table.rows}
        for method in LOSSES:
            apart = [abs(rows[method, matched] - rows[table.reference, False]) for matched in (False, True)]
            assert apart[1] <= max(apart[0], 0.1), method


def test_what_is_missing_is_trained_and_what_is_there_is_not(options, found, monkeypatch):
    assert sorted(path.name for path in (options.out / "seed-1" / "rerankers").iterdir()) == ["mlp", "sage"]
    monkeypatch.setattr(bench, "run_heads", None)
    monkeypatch.setattr(bench, "run_rerankers", None)
    monkeypatch.setattr(Recipes, "spaces", lambda self, heads, step: {})
    assert set(bench._trained(options, 1, Silent()).rerankers) == {"sage", "mlp"}


def test_every_reranker_has_a_cost(found):
    assert list(found.costs) == ["sage", "mlp"]
    for graph, rerank in found.costs.values():
        assert 0 < graph < 1000
        assert 0 < rerank < 1000


def test_a_collection_of_a_run_fuses_the_views_of_a_study_and_knows_laterals_and_the_uncertain(options):
    run = runs.Run(path=options.out / "seed-0")
    vectors = run.heads().vectors(run.inputs(tiny_backbone()).of(FEATURES))
    made = collection(FEATURES, vectors, About.of(studies()), layout=run.heads().layout, beliefs=vectors)
    own = FEATURES.study[Modality.IMAGE]
    np.testing.assert_allclose(made.vectors[Modality.IMAGE][0], fused(vectors[Modality.IMAGE][own == 0]), atol=1e-6)
    assert np.flatnonzero(~made.frontal).tolist() == [FEATURES.study_ids.index(LATERAL)]
    assert np.flatnonzero(made.uncertain).tolist() == [5]
    assert made.patients[4] == made.patients[5] == "P2"
    believed = made.layout.beliefs(made.vectors[Modality.REPORT])[:, 0]
    np.testing.assert_allclose(made.abnormal[Modality.REPORT], 1.0 - believed, atol=1e-6)


def test_another_seed_s_features_are_lent_not_made(tmp_path):
    lent = tiny_run(tmp_path / "one").lend_features(Path(tmp_path))
    np.testing.assert_array_equal(lent.features[Modality.IMAGE], FEATURES.features[Modality.IMAGE])
    np.testing.assert_array_equal(np.asarray(lent.maps), np.asarray(FEATURES.maps))
