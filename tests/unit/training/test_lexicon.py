"""The bag of words and its findings, against scikit-learn's."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from helpers.made_up import feature_set, reports_of
from radrank.core.studies import Modality
from radrank.training.lexicon import Lexicon, TextLabeller, fit_text_labeller

FEATURES = feature_set()
TOKENS, LABELS = FEATURES.tokens[:-2], FEATURES.labels[:-2]  # the last two studies have no label


def tokens(*texts: list[int]) -> np.ndarray:
    """Padded with 0."""
    return np.array([text + [0] * (max(map(len, texts)) - len(text)) for text in texts], dtype=np.int32)


def ids(found: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(found.astype(np.int64))


def sentences(found: np.ndarray) -> list[str]:
    return [" ".join(f"w{word:03d}" for word in text if word) for text in found]


def tfidf(least: int = 3) -> TfidfVectorizer:
    return TfidfVectorizer(binary=True, norm="l2", min_df=least, lowercase=False)


@pytest.fixture(scope="module")
def labeller() -> TextLabeller:
    return fit_text_labeller(TOKENS, LABELS, pad_id=0)


def test_a_lexicon_is_scikit_learns_tfidf_of_presence():
    expected = tfidf().fit(sentences(TOKENS))
    lexicon = Lexicon.fit(TOKENS, pad_id=0)
    assert [f"w{word:03d}" for word in lexicon.vocabulary] == expected.get_feature_names_out().tolist()
    np.testing.assert_allclose(lexicon.idf, expected.idf_, rtol=1e-6)
    others = reports_of(np.arange(40) % 4, seed=7)
    np.testing.assert_allclose(lexicon(ids(others)), expected.transform(sentences(others)).toarray(), atol=1e-6)


def test_a_word_that_too_few_texts_hold_is_none():
    texts = tokens([5, 6], [5, 6], [5, 7, 7, 7, 7])  # 7 stands often, but in one text
    assert Lexicon.fit(texts, pad_id=0, least=1).vocabulary.tolist() == [5, 6, 7]
    assert Lexicon.fit(texts, pad_id=0, least=2).vocabulary.tolist() == [5, 6]
    assert Lexicon.fit(texts, pad_id=0, least=3).vocabulary.tolist() == [5]


def test_how_often_and_in_what_order_words_stand_changes_nothing():
    lexicon = Lexicon.fit(TOKENS, pad_id=0)
    once, often = lexicon(ids(tokens([5, 3, 2, 0], [3, 5, 2, 5])))
    assert torch.equal(once, often)


@pytest.mark.parametrize("pad_id", [0, 1, 40])
def test_padding_is_no_word(pad_id):
    texts = np.where(TOKENS == 0, pad_id, np.where(pad_id == TOKENS, 2, TOKENS)).astype(np.int32)
    lexicon = Lexicon.fit(texts, pad_id=pad_id)
    assert pad_id not in lexicon.vocabulary
    longer = np.pad(texts, ((0, 0), (0, 5)), constant_values=pad_id)
    assert torch.equal(lexicon(ids(longer)), lexicon(ids(texts)))


def test_padding_is_no_word_even_where_no_text_is_padded():
    """And where its id is beyond all words'."""
    assert Lexicon.fit(tokens([5, 6]), pad_id=9, least=1).vocabulary.tolist() == [5, 6]


def test_words_have_unit_length_and_a_text_of_no_known_word_has_none():
    words = Lexicon.fit(TOKENS, pad_id=0)(ids(tokens([5, 6, 3], [900, 901])))
    assert words.norm(dim=1).tolist() == pytest.approx([1.0, 0.0])


def test_findings_are_scikit_learns_logistic_regressions(labeller):
    found = tfidf().fit_transform(sentences(TOKENS))
    others = reports_of(np.arange(40) % 4, seed=7)
    words, logits = labeller(ids(others))
    assert (words.shape, logits.shape) == ((40, found.shape[1]), (40, LABELS.shape[1]))
    for column in range(LABELS.shape[1]):
        expected = LogisticRegression(C=10.0, tol=1e-8, max_iter=1000).fit(found, LABELS[:, column])
        np.testing.assert_allclose(labeller.findings.weight[column], expected.coef_[0], atol=2e-2)
        chance = expected.predict_proba(tfidf().fit(sentences(TOKENS)).transform(sentences(others)))[:, 1]
        np.testing.assert_allclose(logits[:, column].sigmoid(), chance, atol=3e-3)


def test_it_tells_findings_of_reports_that_it_has_not_read(labeller):
    kind = np.arange(80) % 4
    said = labeller(ids(reports_of(kind, seed=7, unreliable=0.0)))[1].argmax(dim=1).numpy()
    assert (said == kind).mean() > 0.9


def test_a_penalty_that_counts_keeps_the_weights_small(labeller):
    weak = fit_text_labeller(TOKENS, LABELS, pad_id=0, strength=0.1)
    assert weak.findings.weight.norm() < 0.3 * labeller.findings.weight.norm()


def test_a_finding_that_no_report_has_is_believed_of_none():
    labels = np.concatenate([LABELS, np.zeros((len(LABELS), 1), dtype=np.bool_)], axis=1)
    _, logits = fit_text_labeller(TOKENS, labels, pad_id=0)(ids(TOKENS))
    assert torch.isfinite(logits).all()
    assert logits[:, -1].sigmoid().max() < 0.01


def test_fitting_repeats_itself_and_asks_for_no_gradient(labeller):
    again = fit_text_labeller(TOKENS, LABELS, pad_id=0)
    assert torch.equal(again.findings.weight, labeller.findings.weight)
    assert not again.training
    assert not any(parameter.requires_grad for parameter in again.parameters())


def test_it_exports_without_scatter_and_answers_alike(labeller, tmp_path):
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    from radrank.export.onnx import _export

    class Both(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.labeller = labeller

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return torch.cat(self.labeller(ids), dim=1)

    path = tmp_path / "labeller.onnx"
    shapes = {"ids": {0: torch.export.Dim("batch", min=1, max=64), 1: torch.export.Dim("tokens", min=2, max=32)}}
    gc.disable()
    try:
        _export(Both(), (torch.ones(2, 16, dtype=torch.int64),), path, inputs=["ids"], output="all", shapes=shapes)
    finally:
        gc.enable()
    operators = {node.op_type for node in onnx.load(path).graph.node}
    assert not {name for name in operators if "Scatter" in name or name in ("NonZero", "OneHot", "Loop")}
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for texts in (TOKENS[:1], TOKENS[:9], np.pad(TOKENS[:5], ((0, 0), (0, 20)))):
        found = session.run(None, {"ids": texts.astype(np.int64)})[0]
        np.testing.assert_allclose(found, Both()(ids(texts)), atol=1e-5)


def test_the_made_up_reports_are_read_by_study():
    """What the other tests rest on: a class's word stands in most of its reports."""
    assert len(FEATURES.tokens) == len(FEATURES.features[Modality.REPORT])
    assert np.array_equal(FEATURES.tokens[0], FEATURES.tokens[1])
