"""The search in Triton's python backend: core's Ranker over a snapshot, its engines the models of the same Triton."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from radrank.core.ranking import Ranker, Ranking
from radrank.core.snapshot import open_snapshot
from radrank.core.timing import Deadline
from radrank.core.view import View
from radrank.engines.bundle import rerankers_of
from radrank.engines.encoder import BundleEncoder
from radrank.engines.engine import Engine
from radrank.engines.kserve.exported import BUNDLE, MODELS, SNAPSHOT, read_models
from radrank.engines.manifest import read_manifest
from radrank.engines.parity import Golden, read_golden
from radrank.server import codecs
from radrank.server.building import factory_of
from radrank.server.kserve.search import SearchModel
from radrank.server.triton.answering import Feed, responses
from radrank.server.triton.bls import GatedEngine
from radrank.server.tuning import tuned
from radrank.v1 import retrieval_pb2


class TritonPythonModel:
    """What the python backend makes of `radrank_search`, one for each instance."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Raises RadrankError where a part of the repository is not what was exported. args: the backend's."""
        import triton_python_backend_utils as backend
        from threadpoolctl import threadpool_limits

        logging.basicConfig(format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")
        logging.getLogger("radrank").setLevel(logging.INFO)
        # Instances run side by side: more BLAS threads would only make them wait for one another.
        threadpool_limits(limits=1, user_api="blas")
        self._backend = backend
        self._search = RepositorySearch(backend, Path(args["model_repository"]) / args["model_version"])

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        return responses(self._backend, requests, self._search)


class RepositorySearch:
    """The search over what an exported repository holds of a bundle and a snapshot.

    sha256: of the bundle's manifest; encoder, rerankers: on the models of this Triton
    """

    def __init__(self, backend: Any, folder: Path) -> None:
        """Raises NotFound, Corrupt or Mismatch. folder: the model's version."""
        manifest, self.sha256 = read_manifest(folder / BUNDLE, models=False)
        golden: dict[str, Golden] = {}
        engines: dict[str, Engine] = {
            name: GatedEngine(backend, name, model, golden) for name, model in read_models(folder / MODELS).items()
        }
        self.encoder = BundleEncoder(folder / BUNDLE, manifest, engines)
        tokens = self.encoder.tokens
        golden.update(read_golden(folder / BUNDLE / manifest.golden, lambda text: tokens.padded(tokens([text]))))
        self.rerankers = rerankers_of(manifest, engines)
        self.default_reranker = manifest.default_reranker
        factory = tuned(factory_of(folder / SNAPSHOT), folder)
        snapshot = open_snapshot(folder / SNAPSHOT, factory=factory, encoder=manifest.encoder_id)
        self._ranker = Ranker(
            encoder=self.encoder,
            rerankers=self.rerankers,
            default_reranker=self.default_reranker,
            view=View.of(snapshot, manifest.graph),
        )
        self._model: SearchModel[Deadline] = SearchModel(self._rank, self)

    def __call__(self, feed: Feed, deadline: Deadline) -> Feed:
        """Outputs by name. Raises InvalidQuery, NotFound, DeadlineTooShort, Unavailable, Mismatch."""
        self._model.check({name: array.shape for name, array in feed.items()})
        return self._model.run(feed, deadline)

    def _rank(self, request: retrieval_pb2.SearchRequest, deadline: Deadline) -> Ranking:
        query = codecs.search_query(request, image_size=self.encoder.image_size, deadline=deadline)
        return self._ranker.search(query)
