"""What the words of a report say: a bag of words beside the frozen text tower, and the findings it tells.

A sentence encoder blurs which findings a report names; a linear classifier over the words it holds does not.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

_BATCH = 64  # texts compared with every word at once


class Lexicon(nn.Module):
    """Token ids int64 [B, T] → which words stand in each text, tf-idf of presence, unit length: float32 [B, V].

    vocabulary: int64 [V], the token ids that count; idf: float32 [V]
    """

    vocabulary: Tensor
    idf: Tensor

    def __init__(self, vocabulary: Tensor, idf: Tensor) -> None:
        super().__init__()
        self.register_buffer("vocabulary", vocabulary)
        self.register_buffer("idf", idf)

    @classmethod
    def fit(cls, tokens: NDArray[np.int32], *, pad_id: int, least: int = 3) -> Lexicon:
        """The words that at least `least` of the texts hold. tokens: [n, T], padded with pad_id."""
        present = np.zeros((len(tokens), int(tokens.max(initial=pad_id)) + 1), dtype=np.bool_)
        present[np.arange(len(tokens))[:, None], tokens] = True
        present[:, pad_id] = False
        texts = present.sum(axis=0)
        chosen = np.flatnonzero(texts >= least)
        idf = np.log((1 + len(tokens)) / (1 + texts[chosen])) + 1.0
        return cls(torch.from_numpy(chosen), torch.from_numpy(idf.astype(np.float32)))

    def forward(self, ids: Tensor) -> Tensor:
        # A comparison with every word needs no scatter, which few engines run.
        present = (ids.unsqueeze(2) == self.vocabulary).any(dim=1)
        return F.normalize(present.to(self.idf.dtype) * self.idf, dim=-1)


class TextLabeller(nn.Module):
    """Token ids → the lexicon's words [B, V], and logits [B, 1 + groups] of normal and of each finding group."""

    def __init__(self, lexicon: Lexicon, groups: int) -> None:
        super().__init__()
        self.lexicon = lexicon
        self.findings = nn.Linear(len(lexicon.vocabulary), 1 + groups)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        words = self.lexicon(ids)
        return words, self.findings(words)


def fit_text_labeller(
    tokens: NDArray[np.int32], labels: NDArray[np.bool_], *, pad_id: int, strength: float = 10.0
) -> TextLabeller:
    """Logistic regressions over the words of training reports, one a finding, by L-BFGS.

    tokens: [n, T]; labels: bool [n, 1 + groups]; strength: the inverse of the L2 penalty, as scikit-learn's C.
    """
    labeller = TextLabeller(Lexicon.fit(tokens, pad_id=pad_id), labels.shape[1] - 1)
    with torch.no_grad():
        ids = torch.from_numpy(tokens.astype(np.int64))
        words = torch.cat([labeller.lexicon(ids[i : i + _BATCH]) for i in range(0, len(ids), _BATCH)])
    truth = torch.from_numpy(labels.astype(np.float32))
    layer = labeller.findings
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)  # a random start would end a little elsewhere, seed or no seed
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        total = F.binary_cross_entropy_with_logits(layer(words), truth, reduction="sum") * strength
        total = (total + layer.weight.square().sum() / 2) / len(words)
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return labeller.eval().requires_grad_(False)
