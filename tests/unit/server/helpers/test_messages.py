"""What goes through a helper's pipes."""

from __future__ import annotations

import numpy as np

from radrank.core.graph import Candidates
from radrank.core.reranking import Shortlist
from radrank.core.studies import Modality
from radrank.server.helpers.messages import Unpacker, packed, question, shortlist_of


def candidates(*rows: int) -> Candidates:
    return Candidates(rows=np.array(rows), cosines=np.linspace(1, 0, len(rows), dtype=np.float32))


SHORTLIST = Shortlist(
    reranker="sage",
    query=np.arange(4, dtype=np.float32),
    query_modality=Modality.IMAGE,
    target=Modality.REPORT,
    candidates=candidates(3, 1, 2),
    bridges={Modality.IMAGE: candidates(7), Modality.REPORT: candidates()},
    excluded=np.array([5], dtype=np.int32),
)


def test_a_shortlist_arrives_as_it_was():
    (message,) = Unpacker().feed(packed(question(SHORTLIST)))
    found = shortlist_of(message)
    assert (found.reranker, found.query_modality, found.target) == ("sage", Modality.IMAGE, Modality.REPORT)
    sent = [SHORTLIST.candidates, *(SHORTLIST.bridges[m] for m in Modality)]
    came = [found.candidates, *(found.bridges[m] for m in Modality)]
    for one, other in zip(sent, came, strict=True):
        assert np.array_equal(one.rows, other.rows)
        assert np.array_equal(one.cosines, other.cosines)
        assert other.cosines.dtype == np.float32
    assert np.array_equal(found.query, SHORTLIST.query)
    assert np.array_equal(found.excluded, SHORTLIST.excluded)


def test_messages_come_in_pieces_and_several_at_once():
    messages = [None, "hello", {"a": list(range(300))}, b"\x00" * 70_000]
    data = b"".join(map(packed, messages))
    for size in (1, 7, 4_096, len(data)):
        unpacker = Unpacker()
        found = [one for start in range(0, len(data), size) for one in unpacker.feed(data[start : start + size])]
        assert found == messages
