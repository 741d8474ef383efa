"""Trains a graph re-ranker on episodes, listwise; validation decides when to stop."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from radrank.core.studies import Modality
from radrank.training.episodes import DIRECTIONS, Episode
from radrank.training.heads import Epoch, direction_metrics
from radrank.training.losses import approximate_ndcg_loss
from radrank.training.reranker import GraphReranker, RerankerShape


@dataclass(frozen=True, kw_only=True, slots=True)
class RerankerSettings:
    """candidates: re-ranked per query; folds: of cross-fitted encoders; temperature: a clear score difference, to
    begin with; sample: training queries an epoch, 0 for all; patience: epochs without a better validation score.
    """

    candidates: int = 100
    folds: int = 3
    width: int = 64
    layers: int = 2
    dropout: float = 0.5
    temperature: float = 0.02
    epochs: int = 8
    patience: int = 8
    batch_size: int = 16
    sample: int = 1200
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    seed: int = 0


def train_reranker(
    kind: str,
    settings: RerankerSettings,
    *,
    dimensions: int,
    train: Sequence[Episode],
    validation: Sequence[Episode],
    on_epoch: Callable[[Epoch], None],
) -> tuple[GraphReranker, int, dict[str, float]]:
    """Returns the re-ranker at its best epoch, that epoch, and its validation metrics.

    Epoch 0 is the untrained re-ranker, which ranks as the encoder does: one that never beats it is returned as it was.
    """
    torch.manual_seed(settings.seed)
    rng = np.random.default_rng(settings.seed)
    shape = RerankerShape(
        kind=kind, dimensions=dimensions, width=settings.width, layers=settings.layers, dropout=settings.dropout
    )
    model = GraphReranker(shape)
    log_scale = nn.Parameter(torch.tensor(1.0 / settings.temperature).log())
    optimizer = torch.optim.AdamW(
        [*model.parameters(), log_scale], lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    count = min(settings.sample or len(train), len(train))
    weights = _class_weights(train)
    # A group's last batch may be short.
    steps = -(-count // settings.batch_size) + len({_group(episode) for episode in train})
    total = settings.epochs * steps
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, total_steps=total + 1)
    metrics = evaluate(model, validation)
    best_epoch, best_metrics = 0, metrics
    best_state = {name: value.clone() for name, value in model.state_dict().items()}
    on_epoch(Epoch(epoch=0, loss=float("nan"), score=metrics["score"], best=True))
    for epoch in range(1, settings.epochs + 1):
        model.train()
        losses = []
        for batch in _batches(rng, train, count, settings.batch_size):
            arrays, wanted, mask = _tensors(batch, model.array_names)
            scores = model(arrays) * log_scale.exp().clamp(max=200.0)
            losses_of = approximate_ndcg_loss(scores, wanted, _ideal(wanted), mask)
            loss = (losses_of * torch.tensor([weights[e.normal] for e in batch])).mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
        metrics = evaluate(model, validation)
        better = metrics["score"] > best_metrics["score"]
        if better:
            best_epoch, best_metrics = epoch, metrics
            best_state = {name: value.clone() for name, value in model.state_dict().items()}
        on_epoch(Epoch(epoch=epoch, loss=float(np.mean(losses)), score=metrics["score"], best=better))
        if epoch - best_epoch >= settings.patience:
            break
    model.load_state_dict(best_state)
    return model.eval(), best_epoch, best_metrics


def evaluate(model: GraphReranker, queries: Sequence[Episode], *, batch_size: int = 32) -> dict[str, float]:
    """Metrics per direction over re-ranked candidates; `score` as in heads.retrieval_score, over all directions."""
    model.eval()
    found: dict[str, float] = {}
    for source, target in DIRECTIONS:
        some = [e for e in queries if (e.graph.query_modality, e.graph.target) == (source, target)]
        if not some:
            continue
        ranked = np.concatenate(
            [_ranked_gains(model, some[i : i + batch_size]) for i in range(0, len(some), batch_size)]
        )
        ideal = np.stack([e.ideal for e in some])
        normal = np.array([e.normal for e in some], dtype=np.int8)
        found |= direction_metrics(f"{source}→{target}", ranked, ideal, normal)
    found["score"] = float(np.mean([value for name, value in found.items() if name.endswith("macro nDCG@10")]))
    return found


@torch.inference_mode()
def _ranked_gains(model: GraphReranker, batch: Sequence[Episode]) -> NDArray[np.float32]:
    arrays, wanted, mask = _tensors(batch, model.array_names)
    order = model(arrays).masked_fill(~mask, -torch.inf).argsort(dim=1, descending=True, stable=True)
    return wanted.gather(1, order).numpy()


def _ideal(gains: Tensor) -> Tensor:
    """The DCG [B] of gains [B, K] in their best order."""
    ordered = gains.sort(dim=1, descending=True).values
    return (ordered / torch.log2(torch.arange(2.0, ordered.shape[1] + 2.0))).sum(dim=1)


def _class_weights(episodes: Sequence[Episode]) -> dict[int, float]:
    """Query weights by normal status: normal and abnormal queries count alike in sum, whatever their number."""
    counts = Counter(e.normal for e in episodes)
    return {status: len(episodes) / (len(counts) * count) for status, count in counts.items()}


def _tensors(batch: Sequence[Episode], names: Sequence[str]) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Arrays, gains [B, K] and mask [B, K] of episodes of one world."""
    graphs = batch[0].world.builder.batch([e.graph for e in batch])
    arrays = {name: torch.from_numpy(array) for name, array in graphs.feed(names).items()}
    width = arrays["base"].shape[1]
    wanted = torch.zeros(len(batch), width)
    mask = torch.zeros(len(batch), width, dtype=torch.bool)
    for place, episode in enumerate(batch):
        wanted[place, : len(episode.gains)] = torch.from_numpy(episode.gains)
        mask[place, : len(episode.gains)] = True
    return arrays, wanted, mask


def _batches(rng: np.random.Generator, episodes: Sequence[Episode], count: int, size: int) -> Iterator[list[Episode]]:
    """A random `count` of the episodes in random batches, each of one group."""
    groups: dict[tuple[int, Modality], list[Episode]] = {}
    for place in rng.permutation(len(episodes))[:count]:
        groups.setdefault(_group(episodes[place]), []).append(episodes[place])
    batches = [part[i : i + size] for part in groups.values() for i in range(0, len(part), size)]
    for place in rng.permutation(len(batches)):
        yield batches[place]


def _group(episode: Episode) -> tuple[int, Modality]:
    """A batch is gathered by one world's builder; graphs of one target are alike in size, and need little padding."""
    return id(episode.world), episode.graph.target
