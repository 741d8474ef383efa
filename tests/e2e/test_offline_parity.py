"""A whole Search through the server ranks as the same models do offline: torch, an exact scan, the graph builder."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from helpers.process import started
from radrank.client.client import Client
from radrank.core.graph import Candidates, GraphBuilder, GraphSettings
from radrank.core.nodes import exact_nodes
from radrank.core.snapshot import Snapshot, current, open_snapshot
from radrank.core.studies import Modality, Study
from radrank.core.vectors import Matrix, exact_neighbours
from radrank.datasets import pixels
from radrank.datasets.demo import DemoArchive, golden_material
from radrank.engines.index import index_factory
from radrank.training.backbones import Backbone
from radrank.training.features import FeatureSet, token_ids
from radrank.training.heads import Heads, study_vectors
from radrank.training.inputs import HeadInputs
from radrank.training.runs import Run

K = 50


@dataclass
class Offline:
    """Everything the server has, without the server. vectors, study: one item of each modality a study.

    served: vectors as the snapshot holds them, by ONNX: where two neighbours are all but equally near, the last bits of
    a vector decide which of them a table takes
    """

    run: Run
    backbone: Backbone
    inputs: HeadInputs
    heads: Heads
    features: FeatureSet
    study: dict[Modality, NDArray[np.int32]]
    vectors: dict[Modality, Matrix]
    served: dict[Modality, Matrix]

    @classmethod
    def of(cls, run: Run, snapshot: Snapshot) -> Offline:
        backbone, heads, features = run.backbone(), run.heads(), run.features
        inputs = run.inputs(backbone)
        vectors = heads.vectors(inputs.of(features))
        every = np.arange(len(features.study_ids))
        items = {m: study_vectors(vectors, features, every, m) for m in Modality}
        study, fused = {m: items[m][0] for m in Modality}, {m: items[m][1] for m in Modality}
        place = {study_id: row for row, study_id in enumerate(features.study_ids)}
        served: dict[Modality, Matrix] = {}
        for m, held in snapshot.items.items():
            owners = [place[bytes(study_id).decode()] for study_id in snapshot.columns.ids[held.study]]
            order = np.argsort(owners)
            assert np.array_equal(np.array(owners)[order], study[m])
            served[m] = np.asarray(held.vectors)[order]
        return cls(run, backbone, inputs, heads, features, study, fused, served)

    def embed(self, image: bytes | None, text: str | None) -> Matrix:
        backbone = self.backbone
        with torch.inference_mode():
            if image is not None:
                decoded = torch.from_numpy(pixels.load(image, backbone.preprocessing.image_size)[None].copy())
                read = self.inputs.image(backbone.image_tower(decoded), backbone.image_tower.stem(decoded))
            else:
                assert text is not None
                ids = torch.from_numpy(token_ids(backbone, [text]).astype(np.int64))
                read = self.inputs.report(backbone.text_tower(ids), ids)
            vectors: Matrix = self.heads(*read, Modality.IMAGE if image else Modality.REPORT).numpy()
        return vectors

    def ranking(self, query: Matrix, source: Modality, target: Modality, kind: str) -> dict[str, float]:
        """Scores by study id of the K best studies."""
        model, _ = self.run.reranker(kind)
        settings, layout = GraphSettings(), self.heads.layout
        study = self.study
        findings = self.features.labels.astype(np.uint8)
        nodes = exact_nodes(
            vectors=self.served,
            studies=study,
            normal={m: self.features.normal[study[m]] for m in Modality},
            findings={m: findings[study[m]] for m in Modality},
            layout=layout,
            width=settings.table_width,
        )
        builder = GraphBuilder(gallery=nodes, archive=nodes, layout=layout, settings=settings)
        near = {m: _nearest(query, self.served[m]) for m in Modality}
        bridges = {m: _first(near[m], settings.query_neighbours) for m in Modality}
        found = _first(near[target], K)
        graph = builder.build(query=query[0], query_modality=source, target=target, candidates=found, bridges=bridges)
        arrays = builder.batch([graph]).feed(model.array_names)
        with torch.inference_mode():
            scores = model({name: torch.from_numpy(array) for name, array in arrays.items()})[0, :K].numpy()
        ids = [self.features.study_ids[s] for s in study[target][found.rows]]
        return dict(zip(ids, scores.tolist(), strict=True))

    def nearest(self, query: Matrix, m: Modality) -> Candidates:
        return _nearest(query, self.vectors[m])


def _nearest(query: Matrix, vectors: Matrix) -> Candidates:
    rows, cosines = exact_neighbours(query, vectors, len(vectors))
    return Candidates(rows=rows[0], cosines=cosines[0])


def _first(candidates: Candidates, k: int) -> Candidates:
    return Candidates(rows=candidates.rows[:k], cosines=candidates.cosines[:k])


@pytest.fixture(scope="module")
def offline(demo_run: Path, demo_home: Path) -> Offline:
    return Offline.of(Run(path=demo_run), open_snapshot(current(demo_home / "snapshots"), factory=index_factory()))


@pytest.fixture(scope="module")
def client(demo_bundle: Path, demo_home: Path):
    with started(demo_bundle, demo_home) as server, Client(server.address, timeout=60) as client:
        yield client


IMAGES, TEXTS = golden_material(4, seed=21)
QUERIES = [*({"image": image} for image in IMAGES), *({"text": text} for text in TEXTS)]


@pytest.mark.parametrize(("kind", "target"), [*product(("sage", "gcn", "gat"), Modality)])
def test_the_server_ranks_as_the_models_do_offline(offline, client, kind, target):
    for query in QUERIES:
        reply = client.search(**query, target=target.value, k=K, candidates=K, reranker=kind)
        source = Modality.IMAGE if "image" in query else Modality.REPORT
        vector = offline.embed(query.get("image"), query.get("text"))
        expected = offline.ranking(vector, source, target, kind)
        assert {hit.study_id for hit in reply.hits} == set(expected)
        for hit in reply.hits:
            assert hit.score == pytest.approx(expected[hit.study_id], abs=2e-4)


@pytest.mark.parametrize("m", list(Modality))
def test_the_snapshot_holds_what_the_models_make_of_every_study(offline, m):
    np.testing.assert_allclose(offline.served[m], offline.vectors[m], atol=2e-4)


def test_without_a_reranker_the_order_is_the_exact_scans(offline, client):
    vector = offline.embed(IMAGES[0], None)
    expected = _first(offline.nearest(vector, Modality.REPORT), 10)
    reply = client.search(image=IMAGES[0], k=10, reranker="off")
    assert [hit.study_id for hit in reply.hits] == [
        offline.features.study_ids[s] for s in offline.study[Modality.REPORT][expected.rows]
    ]


def test_a_study_of_several_views_is_ranked_by_all_of_them(offline, client):
    owners = offline.features.study[Modality.IMAGE]
    several = np.flatnonzero(np.bincount(owners) > 1)
    assert len(several) > 20
    vector = offline.embed(IMAGES[0], None)
    near = offline.nearest(vector, Modality.IMAGE)
    expected = dict(zip(offline.study[Modality.IMAGE][near.rows], near.cosines, strict=True))
    hits = client.search(image=IMAGES[0], target="image", k=len(near), reranker="off").hits
    assert len({hit.study_id for hit in hits}) == len(hits) == len(near)
    row_of = {study_id: row for row, study_id in enumerate(offline.features.study_ids)}
    for hit in hits:
        assert hit.cosine == pytest.approx(expected[row_of[hit.study_id]], abs=2e-4)


def test_the_demo_archive_is_what_the_features_were_made_of(offline):
    first: Study = DemoArchive()[0]
    assert offline.features.study_ids[0] == first.study_id
