"""Made-up inputs: golden queries that a bundle carries, and random graphs that check an export."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from radrank.core.graph import Candidates, Graph, GraphBatch, GraphBuilder, GraphSettings
from radrank.core.layout import VectorLayout
from radrank.core.nodes import exact_gallery, exact_nodes
from radrank.core.studies import Modality
from radrank.core.vectors import exact_neighbours, unit
from radrank.datasets import pixels
from radrank.datasets.demo import golden_material
from radrank.training.backbones import Backbone
from radrank.training.features import token_ids
from radrank.training.reranker import GraphReranker

_QUERIES, _ITEMS = 16, 64  # golden queries, and what they rank
_GRAPHS = 16
_ARCHIVE, _GALLERY = 80, 40  # studies of a random world


def random_batch(
    rng: np.random.Generator,
    layout: VectorLayout,
    settings: GraphSettings,
    *,
    graphs: int,
    candidates: int,
    messages: int = 0,
) -> GraphBatch:
    """All of `random_graphs` as one batch. messages: numbers of each candidate's, random too; 0 for none."""
    builder, built = random_graphs(rng, layout, settings, graphs=graphs, candidates=candidates)
    batch = builder.batch(built)
    if not messages:
        return batch
    return batch.told(rng.random((*batch.arrays["base"].shape, messages), dtype=np.float32))


def random_graphs(
    rng: np.random.Generator, layout: VectorLayout, settings: GraphSettings, *, graphs: int, candidates: int
) -> tuple[GraphBuilder, list[Graph]]:
    """Graphs over a random gallery and archive, queries and directions mixed; every fourth archive study lacks a
    report, every fifth is of unknown findings."""

    def vectors(count: int) -> NDArray[np.float32]:
        # A common direction gives cosines the spread that embeddings have.
        return unit(rng.standard_normal((count, layout.dimensions)) + rng.standard_normal(layout.dimensions))

    every = np.arange(_ARCHIVE, dtype=np.int32)
    studies = {Modality.IMAGE: every, Modality.REPORT: every[every % 4 > 0]}
    findings = (rng.random((_ARCHIVE, layout.beliefs_width)) < 0.3).astype(np.uint8)
    findings[every % 5 == 0] = 0
    archive = exact_nodes(
        vectors={m: vectors(len(studies[m])) for m in Modality},
        studies=studies,
        normal={m: np.where(findings[studies[m], 0] > 0, 1, -1).astype(np.int8) for m in Modality},
        findings={m: findings[studies[m]] for m in Modality},
        layout=layout,
        width=settings.table_width,
    )
    own = np.arange(_ARCHIVE, _ARCHIVE + max(_GALLERY, candidates), dtype=np.int32)
    gallery = exact_gallery(
        vectors={m: vectors(len(own)) for m in Modality},
        studies=dict.fromkeys(Modality, own),
        archive=archive,
        layout=layout,
        width=settings.table_width,
    )
    builder = GraphBuilder(gallery=gallery, archive=archive, layout=layout, settings=settings)
    built = []
    for place in range(graphs):
        source, target = list(Modality)[place % 2], list(Modality)[place // 2 % 2]
        query = vectors(1)
        rows, cosines = exact_neighbours(query, gallery[target].vectors.base, candidates)
        bridges = {}
        for m in Modality:
            near = exact_neighbours(query, archive[m].vectors.base, settings.query_neighbours)
            bridges[m] = Candidates(rows=near[0][0], cosines=near[1][0])
        built.append(
            builder.build(
                query=query[0],
                query_modality=source,
                target=target,
                bridges=bridges,
                candidates=Candidates(rows=rows[0], cosines=cosines[0]),
                excluded=[place],
            )
        )
    return builder, built


@torch.inference_mode()
def golden_queries(
    backbone: Backbone,
    encoders: Mapping[Modality, nn.Module],
    layout: VectorLayout,
    rerankers: Mapping[str, GraphReranker],
    settings: GraphSettings,
) -> dict[str, NDArray[Any]]:
    """Made-up radiographs, sentences and graphs, with what the torch modules answer: for a bundle's golden.npz."""
    images, texts = golden_material(_ITEMS)
    size = backbone.preprocessing.image_size
    pictures = torch.from_numpy(np.stack([pixels.load(image, size) for image in images]))
    ids = torch.from_numpy(token_ids(backbone, texts).astype(np.int64))
    vectors = {
        m: torch.cat([encoders[m](part) for part in torch.split(inputs, _QUERIES)]).numpy()
        for m, inputs in ((Modality.IMAGE, pictures), (Modality.REPORT, ids))
    }
    golden: dict[str, NDArray[Any]] = {
        "pixels": pictures[:_QUERIES].numpy(),
        "texts": np.array([text.encode() for text in texts[:_QUERIES]], dtype=np.bytes_),
    }
    golden |= {f"{m}_vectors": vectors[m][:_QUERIES] for m in Modality}
    golden |= {f"gallery/{m}": vectors[m] for m in Modality}
    builder, graphs = random_graphs(np.random.default_rng(0), layout, settings, graphs=_GRAPHS, candidates=40)
    batches = [builder.batch([graph]) for graph in graphs]
    names = sorted({name for model in rerankers.values() for name in model.array_names} | set(batches[0].arrays))
    feeds = [batch.feed(names) for batch in batches]
    golden |= {f"graph/{name}": np.stack([feed[name] for feed in feeds]) for name in names}
    for kind, model in rerankers.items():
        given = [{name: torch.from_numpy(array) for name, array in feed.items()} for feed in feeds]
        golden[f"scores/{kind}"] = torch.cat([model(feed) for feed in given]).numpy()
        if model.shape.variant.apart:
            golden[f"messages/{kind}"] = torch.cat([model.messages(feed) for feed in given]).numpy()
    return golden
