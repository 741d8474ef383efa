"""The peer: this search as a careful user writes it with torch in eager mode, hnswlib and PyG.

Nothing in it is slow on purpose: weights and tables are loaded once, archive features are ready in memory, attention is
torch's fused one, no gradient is kept, torch has its default threads. Texts are padded to the full context, as
open_clip's tokenizer does; the graph of a query is a HeteroData, which HeteroConv passes its messages over.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from typing import Any

import hnswlib
import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from radrank.bench.eager import encoders
from radrank.core.errors import InvalidQuery
from radrank.core.graph import CANDIDATE, DIRECTIONS, QUERY, RELATIONS
from radrank.core.studies import Modality
from radrank.core.view import View
from radrank.training.runs import Run

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # PyG still scripts some of its classes while it is imported
    from torch_geometric.data import HeteroData
    from torch_geometric.nn import GraphConv, HeteroConv

EF = 256  # nodes that a search of the index keeps in view: as the server's default
EDGE_TYPES = {r.name: (r.source, r.name, r.target) for r in RELATIONS}

Found = tuple[Tensor, Tensor]
"""Archive rows int64 [k] and their cosines float32 [k], best first."""


class PygLayer(nn.Module):
    """A trained layer whose messages PyG passes. SAGEConv over weighted edges is its GraphConv with the mean."""

    def __init__(self, layer: Any) -> None:
        """layer: a RelationalLayer of SageRelation."""
        super().__init__()
        convs = {}
        for r in RELATIONS:
            trained = layer.relations[r.name].linear
            conv = GraphConv((trained.in_features,) * 2, trained.out_features, aggr="mean")
            conv.lin_rel.load_state_dict(trained.state_dict())
            nn.init.zeros_(conv.lin_root.weight)  # there is one root a node type, below, not one a relation
            convs[EDGE_TYPES[r.name]] = conv
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "There exist node types", UserWarning)  # archive items hear from nobody
            self.conv = HeteroConv(convs, aggr="sum")
        self.roots, self.norms = layer.roots, layer.norms

    def forward(self, states: Mapping[str, Tensor], arrays: Mapping[str, Any]) -> dict[str, Tensor]:
        data = arrays["data"]
        heard = self.conv(states, data.edge_index_dict, edge_weight_dict=data.collect("edge_weight"))
        new = {t: self.norms[t](states[t] + F.relu(self.roots[t](states[t]) + heard[t])) for t in (QUERY, CANDIDATE)}
        return {**states, **new}


class Careful:
    """Searches a snapshot with the weights of a run. run: with a re-ranker "sage"; view: of the snapshot.

    Raises InvalidQuery where the archive is too small for every item to have all of its neighbours.
    """

    @torch.inference_mode()
    def __init__(self, run: Run, view: View) -> None:
        backbone, heads = run.backbone(), run.heads()
        self.encoders = encoders(run, backbone)
        self.tokenizer = Tokenizer.from_str(backbone.tokenizer_json)
        self.tokenizer.enable_truncation(backbone.max_tokens)
        self.tokenizer.enable_padding(length=backbone.max_tokens, pad_id=backbone.pad_id)
        self.side, self.layout, self.settings = backbone.preprocessing.image_size, heads.layout, view.settings
        self.model = run.reranker("sage")[0]
        self.model.layers = nn.ModuleList(PygLayer(layer) for layer in self.model.layers)
        nodes, degree = view.nodes, view.settings.neighbours
        self.ids = {m: view.ids(nodes[m].study) for m in Modality}
        self.vectors = {m: torch.from_numpy(np.array(nodes[m].vectors.base)) for m in Modality}
        self.facts = {m: torch.from_numpy(np.array(nodes[m].facts.base)) for m in Modality}
        self.tables, self.indexes = {}, {}
        for m in Modality:
            for among, table in ((m, nodes[m].same), (m.other, nodes[m].cross)):
                rows, cosines = np.array(table.rows.base[:, :degree]), np.array(table.cosines.base[:, :degree])
                if (rows < 0).any():
                    raise InvalidQuery(
                        "archive", f"must be larger: some of its items have fewer than {degree} neighbours"
                    )
                self.tables[m, among] = torch.from_numpy(rows.astype(np.int64)), torch.from_numpy(cosines)
            self.indexes[m] = hnswlib.Index(space="ip", dim=self.vectors[m].shape[1])
            self.indexes[m].load_index(str(view.snapshot.path / m.value / "index.bin"))
            self.indexes[m].set_ef(EF)

    @torch.inference_mode()
    def text(self, text: str) -> Tensor:
        """The unit vector [d] of a text."""
        vectors: Tensor = self.encoders[Modality.REPORT](torch.tensor([self.tokenizer.encode(text).ids]))
        return vectors[0]

    @torch.inference_mode()
    def image(self, content: bytes) -> Tensor:
        """The unit vector [d] of an encoded image."""
        image = Image.open(io.BytesIO(content)).convert("L")
        short = min(image.size)
        image = image.resize(
            (image.width * self.side // short, image.height * self.side // short), Image.Resampling.BICUBIC
        )
        left, top = (image.width - self.side) // 2, (image.height - self.side) // 2
        pixels = np.array(image.crop((left, top, left + self.side, top + self.side)))
        vectors: Tensor = self.encoders[Modality.IMAGE](torch.from_numpy(pixels)[None])
        return vectors[0]

    def nearest(self, m: Modality, vector: Tensor, k: int) -> Found:
        rows, distances = self.indexes[m].knn_query(vector.numpy(), k=k)
        return torch.from_numpy(rows[0].astype(np.int64)), torch.from_numpy(1.0 - distances[0])

    @torch.inference_mode()
    def scores(self, vector: Tensor, source: Modality, target: Modality, found: Found, near: Found) -> Tensor:
        """Graph and re-rank: scores [K] of the candidates `found`. near: the query's nearest of the other modality."""
        rows, cosines = found
        count, degree, first = len(rows), self.settings.neighbours, self.settings.query_candidates
        data = HeteroData()
        data[QUERY].x = torch.from_numpy(self.layout.beliefs(vector.numpy()[None]))
        data[CANDIDATE].x = self.facts[target][rows, : self.layout.beliefs_width]
        around = self.settings.query_neighbours
        bridges = {target: (rows[:around], cosines[:around]), target.other: near}
        tables = {}
        for m in Modality:
            heard, similar = self.tables[target, m]
            sources = torch.cat([heard[rows].flatten(), bridges[m][0]])
            every, place = torch.unique(sources, return_inverse=True)
            data[m.value].x = self.facts[m][every]
            tables[f"candidate_{m}"] = place[: count * degree].reshape(count, degree), similar[rows]
            tables[f"query_{m}"] = place[None, count * degree :], bridges[m][1][None]
        among = self.vectors[target][rows] @ self.vectors[target][rows].T
        similar, places = among.fill_diagonal_(-torch.inf).topk(degree)
        tables["candidate_candidate"] = places, similar
        tables["candidate_query"] = torch.zeros(count, 1, dtype=torch.int64), cosines[:, None]
        tables["query_candidate"] = torch.arange(min(first, count))[None], cosines[None, :first]
        arrays: dict[str, Any] = {"data": data, "base": cosines[None], "mask": torch.ones(1, count)}
        arrays["direction"] = torch.tensor([DIRECTIONS.index((source, target))])
        for name, (idx, weight) in tables.items():
            edges, weight = data[EDGE_TYPES[name]], weight.clamp(min=0.0)
            edges.edge_index = torch.stack([idx.flatten(), torch.arange(len(idx)).repeat_interleave(idx.shape[1])])
            edges.edge_weight = weight.flatten()
            arrays |= {f"{name}.idx": idx[None], f"{name}.weight": weight[None]}
        arrays |= {QUERY: data[QUERY].x, CANDIDATE: data[CANDIDATE].x[None]}
        scored: Tensor = self.model(arrays | {m.value: data[m.value].x for m in Modality})
        return scored[0]

    def reranked(self, vector: Tensor, source: Modality, target: Modality, found: Found) -> Tensor:
        """Scores [K] of the candidates `found`."""
        return self.scores(
            vector, source, target, found, self.nearest(target.other, vector, self.settings.query_neighbours)
        )

    def search(self, vector: Tensor, source: Modality, target: Modality, *, k: int, candidates: int) -> list[str]:
        """Ids of the k best studies."""
        found = self.nearest(target, vector, candidates)
        best = self.reranked(vector, source, target, found).topk(k).indices
        return [bytes(found_id).decode() for found_id in self.ids[target][found[0][best].numpy()]]
