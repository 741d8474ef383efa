"""A helper's process: reads from its standard input, answers on its standard output, ends when the server does.

Started by the server as: python -m radrank.server.helpers.helper BUNDLE LOG_STYLE
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from threadpoolctl import threadpool_limits

from radrank.core.errors import RadrankError
from radrank.core.nodes import Nodes
from radrank.core.pages import MappedFiles
from radrank.core.ports import Reranker
from radrank.core.reranking import Reranking
from radrank.core.snapshot import open_nodes
from radrank.core.studies import Modality
from radrank.engines.bundle import open_rerankers
from radrank.server import logs
from radrank.server.helpers.messages import Hello, Question, Scene, Scores, Unpacker, packed, shortlist_of
from radrank.server.statuses import trace

_READ_BYTES = 1 << 20

_log = logging.getLogger("radrank.server.helpers.helper")  # not __name__: this is run as the main module


class Helper:
    """Computes the second stage of searches over the last scene that it was shown."""

    def __init__(self, rerankers: Mapping[str, Reranker]) -> None:
        self._rerankers = rerankers
        self._snapshot: Path | None = None
        self._base: Mapping[Modality, Nodes] = {}
        self._files = MappedFiles()
        self._reranking: Reranking | None = None

    def show(self, scene: Scene) -> None:
        self._reranking = None  # until this one stands: shortlists of it must not be taken for the last one's
        if scene.snapshot != self._snapshot:
            self._files = MappedFiles()
            self._base = open_nodes(scene.snapshot, self._files)
            self._snapshot = scene.snapshot
        nodes = {m: late.after(self._base[m]) for m, late in scene.nodes.items()}
        self._reranking = Reranking(
            nodes=nodes, layout=scene.layout, rerankers=self._rerankers, snapshot=scene.snapshot
        )

    def rerank(self, asked: Question) -> Scores | None:
        """None where the scene could not be shown."""
        if self._reranking is None:
            return None
        ranked = self._reranking(shortlist_of(asked))
        self._files.trim()
        return ranked.scores, ranked.graph_us


def main() -> None:
    bundle, style = sys.argv[1:]
    logs.set_up(style, "warning")
    try:
        with suppress(BrokenPipeError):  # the server is gone
            _run(Path(bundle))
    except RadrankError as error:
        _log.error("no helper from %s: %s", bundle, error)
        sys.exit(1)


def _run(bundle: Path) -> None:
    # A signal for the whole group is for the server: it ends us when its last call has been answered.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    answers = os.dup(1)
    os.dup2(2, 1)  # whatever a library prints must not get between the answers
    threadpool_limits(limits=1, user_api="blas")
    rerankers, sha256 = open_rerankers(bundle)
    _send(answers, Hello(bundle=sha256, manifests={name: one.manifest for name, one in rerankers.items()}))
    helper, unpacker = Helper(rerankers), Unpacker()
    while data := os.read(0, _READ_BYTES):
        for message in unpacker.feed(data):
            try:
                if isinstance(message, Scene):
                    helper.show(message)
                else:
                    _send(answers, helper.rerank(message))
            except BrokenPipeError:
                raise
            except Exception as error:  # noqa: BLE001 - the server computes what we can't
                _log.warning("not computed: %s", trace(error))
                if not isinstance(message, Scene):
                    _send(answers, None)


def _send(answers: int, message: object) -> None:
    data = memoryview(packed(message))
    while data:
        data = data[os.write(answers, data) :]


if __name__ == "__main__":
    main()
