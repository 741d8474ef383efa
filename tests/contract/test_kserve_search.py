"""The search as a model: the same hits, in the same order, with the same scores as `Retrieval.Search`."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.doubles import DIMENSIONS
from helpers.kserve import CLIENTS, client_of, refusal, tensor
from helpers.serving import STUDIES, serving
from radrank.v1 import types_pb2

ONES = np.ones(DIMENSIONS, np.float32)
REPORT = {"modality": types_pb2.MODALITY_REPORT}
ASKED = {
    "text": ({"text": STUDIES[7].report}, {"text": STUDIES[7].report}),
    "image": ({"image": STUDIES[7].images[0].content}, {"image": STUDIES[7].images[0].content}),
    "embedding": ({"embedding": ONES}, {"embedding": {"values": ONES.tobytes()}}),
    "embedding of a report": (
        {"embedding": ONES, "modality": "report"},
        {"embedding": {"values": ONES.tobytes(), **REPORT}},
    ),
    "study": ({"study": "S0007"}, {"study": {"study_id": "S0007"}}),
    "report of a study": ({"study": "S0007", "modality": "report"}, {"study": {"study_id": "S0007", **REPORT}}),
}
OPTIONS = {
    "none": ({}, {"k": 10}),
    "k": ({"k": 3}, {"k": 3}),
    "candidates": ({"k": 3, "candidates": 5}, {"k": 3, "candidates": 5}),
    "reranker": ({"reranker": "plain"}, {"k": 10, "reranker": "plain"}),
    "off": ({"reranker": "off"}, {"k": 10, "reranker": "off"}),
    "target": ({"target": "image"}, {"k": 10, "target": types_pb2.MODALITY_IMAGE}),
    "exclude": ({"exclude_studies": ["S0003", "S0005"]}, {"k": 10, "exclude_studies": ["S0003", "S0005"]}),
}


def inputs(**given):
    """Tensors of Python values."""
    return [tensor(n, np.array([v], np.int32) if isinstance(v, int) else v) for n, v in given.items()]


@pytest.mark.parametrize(("options", "same_options"), OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize(("query", "same_query"), ASKED.values(), ids=ASKED)
def test_it_finds_what_the_search_finds(client, kserve, query, same_query, options, same_options):
    hits = kserve.search(query=same_query, **same_options).hits
    found = client.infer("search", inputs(**query, **options))
    assert [value.decode() for value in found.as_numpy("ids")] == [hit.study_id for hit in hits]
    assert found.as_numpy("scores").tolist() == [hit.score for hit in hits]
    assert found.as_numpy("cosines").tolist() == [hit.cosine for hit in hits]
    assert len(hits) == same_options["k"]


REFUSED = {
    "nothing": ({}, "inputs: must hold one of text, image, embedding, study, and hold none"),
    "two contents": ({"text": "a", "study": "S0001"}, "inputs: .* hold text and study"),
    "only blanks": ({"text": "  "}, "text: "),
    "not UTF-8": ({"text": b"\xff\xfe"}, "text: must be UTF-8"),
    "no image": ({"image": b"no image"}, "image: "),
    "two texts": ({"text": ["a", "b"]}, r"text: has the shape \[2\]"),
    "another dimension": ({"embedding": np.ones(3, np.float32)}, r"embedding: has the shape \[3\]"),
    "another number type": ({"embedding": np.ones(DIMENSIONS)}, "embedding: is FP64, and must be FP32"),
    "an empty vector": ({"embedding": 0 * ONES}, "embedding: "),
    "k of zero": ({"text": "a", "k": 0}, "k: "),
    "k below zero": ({"text": "a", "k": -1}, "k: must not be negative"),
    "k too large": ({"text": "a", "k": 1001}, "k: "),
    "too few candidates": ({"text": "a", "k": 5, "candidates": 3}, "candidates: "),
    "an unknown re-ranker": ({"text": "a", "reranker": "best"}, "reranker: must be one of"),
    "an unknown target": ({"text": "a", "target": "words"}, "target: must be one of: image, report"),
    "a modality of a text": ({"text": "a", "modality": "image"}, "modality: is that of an embedding or a study"),
}


@pytest.mark.parametrize(("given", "message"), REFUSED.values(), ids=REFUSED)
def test_a_fault_is_told_by_the_inputs_name(client, given, message):
    code, told = refusal(lambda: client.infer("search", inputs(**given)))
    assert code == "INVALID_ARGUMENT"
    with pytest.raises(ValueError, match=f"^{message}"):
        raise ValueError(told)


def test_an_unknown_study_is_not_found_and_not_repeated(client):
    code, told = refusal(lambda: client.infer("search", inputs(study="patient-4711")))
    assert (code, "4711" in told) == ("NOT_FOUND", False)


def test_no_log_line_holds_what_was_asked_or_found(client, caplog):
    caplog.set_level("DEBUG")
    client.infer("search", inputs(text="secret words", exclude_studies=["S0003"]))
    refusal(lambda: client.infer("search", inputs(text="secret words", study="S0001")))
    assert "GRPCInferenceService/ModelInfer" in caplog.text
    assert not any(word in caplog.text for word in ("secret", "S00"))


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_study_that_is_added_is_found(tmp_path, kind):
    with serving(tmp_path / "home", STUDIES[:5]) as running, client_of(kind, running.address) as client:
        asked = inputs(text=STUDIES[9].report, target="report", k=20)
        assert len(client.infer("search", asked).as_numpy("ids")) == 5
        running.library.upsert(_records(running, STUDIES[9]))
        found = client.infer("search", asked).as_numpy("ids")
        assert (found[0], len(found)) == (b"S0009", 6)


def _records(running, study):
    from radrank.server.importing import encode_studies

    return list(encode_studies([study], running.library.engines.encoder))
