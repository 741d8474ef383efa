"""Trains a graph re-ranker on episodes, listwise; validation decides when to stop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from radrank.core.graph import ARCHIVE_RELATIONS, DIRECTIONS
from radrank.training.episodes import Episodes
from radrank.training.heads import Epoch, direction_metrics
from radrank.training.losses import approximate_ndcg_loss
from radrank.training.reranker import GraphReranker, RerankerShape

_HELD = 10  # places among which the share of normal studies is held
_SOFTNESS = 0.2  # of what lies between the first and the last of these: how softly a place is won
_STEPS = 20  # halvings of the interval that the offset is sought in
_FARTHEST = 32.0  # spreads: as far as an offset goes


@dataclass(frozen=True, kw_only=True, slots=True)
class RerankerSettings:
    """candidates: re-ranked per query; folds: of cross-fitted encoders; most: queries a direction and fold, 0 for all;
    temperature: a clear score difference, in spreads; price: how fast moving normals becomes dear; sample: training
    queries an epoch, 0 for all; patience: epochs without a better validation score; learning_rate: of the networks;
    mixture_rate: of the few numbers that weigh fixed comparisons.
    """

    candidates: int = 100
    folds: int = 3
    most: int = 4000
    width: int = 32
    layers: int = 2
    dropout: float = 0.2
    temperature: float = 1.0
    price: float = 2.0
    epochs: int = 4
    patience: int = 4
    batch_size: int = 32
    sample: int = 0
    learning_rate: float = 1e-4
    mixture_rate: float = 1e-2
    weight_decay: float = 1e-2
    seed: int = 0


def train_reranker(
    name: str,
    settings: RerankerSettings,
    *,
    prior: NDArray[np.float32],
    train: Sequence[Episodes],
    validation: Episodes,
    on_epoch: Callable[[Epoch], None],
) -> tuple[GraphReranker, int, dict[str, float]]:
    """Returns the re-ranker at its best epoch, that epoch, and its validation metrics.

    name: of a variant; prior: float32 [1 + groups], how frequent each finding is among the training studies
    Epoch 0 is the untrained re-ranker, which ranks as the encoder does: one that never beats it is returned as it was.
    """
    torch.manual_seed(settings.seed)
    rng = np.random.default_rng(settings.seed)
    shape = RerankerShape(
        name=name, groups=len(prior) - 1, width=settings.width, layers=settings.layers, dropout=settings.dropout
    )
    model = GraphReranker(shape, torch.from_numpy(prior))
    log_scale = nn.Parameter(torch.tensor(1.0 / settings.temperature).log())
    few = [*model.mixers(), log_scale]
    many = [value for value in model.parameters() if all(value is not one for one in few)]
    rates = [settings.mixture_rate, settings.learning_rate]
    optimizer = torch.optim.AdamW(
        [
            {"params": few, "lr": rates[0], "weight_decay": 0.0},
            {"params": many, "lr": rates[1], "weight_decay": settings.weight_decay},
        ]
    )
    worlds, judged = [_Tensors(one, model) for one in train], _Tensors(validation, model)
    count = sum(len(one) for one in train)
    drawn = min(settings.sample or count, count)
    weights = _class_weights(train)
    # A world's last batch of a direction may be short.
    total = settings.epochs * (drawn // settings.batch_size + len(worlds) * len(DIRECTIONS))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=total + 1)
    metrics = _evaluated(model, judged)
    best_epoch, best_metrics = 0, metrics
    best_state = {key: value.clone() for key, value in model.state_dict().items()}
    on_epoch(Epoch(epoch=0, loss=float("nan"), score=metrics["score"], best=True))
    prices = [0.0] * len(DIRECTIONS)  # of moving normals: multipliers that rise as long as their share does
    nn.init.ones_(model.gate)  # from the fixed mixture on
    for epoch in range(1, settings.epochs + 1):
        for world in worlds:
            world.offset = normals_offset(model, world)  # by each world's encoder: their beliefs differ a little
        model.train()
        losses = []
        for world, rows in _batches(rng, worlds, drawn, settings.batch_size):
            arrays = world.arrays(rows)
            moved, spread = model.scored(arrays)
            place = int(arrays["direction"][0])
            scores = arrays["base"] / spread + moved + world.offset[place] * arrays["candidate"][:, :, 0]
            wanted, mask = world.wanted[rows], arrays["mask"] > 0
            losses_of = approximate_ndcg_loss(scores * log_scale.exp().clamp(max=20.0), wanted, _ideal(wanted), mask)
            moved_up = _normals_moved(scores, arrays["base"], world.shown[rows], arrays["mask"])
            loss = (losses_of * weights[world.normal[rows] + 1]).mean() + prices[place] * moved_up
            prices[place] += settings.price * float(moved_up.detach())
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
        # As it will serve: by the encoder that serves, on studies it has not seen.
        model.offset.copy_(normals_offset(model, judged))
        metrics = _evaluated(model, judged)
        better = metrics["score"] > best_metrics["score"]
        if better:
            best_epoch, best_metrics = epoch, metrics
            best_state = {key: value.clone() for key, value in model.state_dict().items()}
        on_epoch(Epoch(epoch=epoch, loss=float(np.mean(losses)), score=metrics["score"], best=better))
        if epoch - best_epoch >= settings.patience:
            break
    model.load_state_dict(best_state)
    return model.eval(), best_epoch, best_metrics


def evaluate(model: GraphReranker, episodes: Episodes) -> dict[str, float]:
    """Metrics per direction over re-ranked candidates; `score` as in heads.retrieval_score, over all directions."""
    return _evaluated(model, _Tensors(episodes, model))


@torch.inference_mode()
def _evaluated(model: GraphReranker, world: _Tensors) -> dict[str, float]:
    model.eval()
    episodes = world.episodes
    ranked = np.zeros_like(episodes.gains)
    for rows in world.parts():
        arrays = world.arrays(rows)
        order = model(arrays).masked_fill(arrays["mask"] == 0, -torch.inf).argsort(dim=1, descending=True, stable=True)
        ranked[rows.numpy()] = np.take_along_axis(episodes.gains[rows.numpy()], order.numpy(), axis=1)
    found: dict[str, float] = {}
    for place, (source, target) in enumerate(DIRECTIONS):
        some = episodes.direction == place
        if some.any():
            found |= direction_metrics(f"{source}→{target}", ranked[some], episodes.ideal[some], episodes.normal[some])
    found["score"] = float(np.mean([value for name, value in found.items() if name.endswith("macro nDCG@10")]))
    return found


@torch.inference_mode()
def normals_offset(model: GraphReranker, world: _Tensors) -> Tensor:
    """For every direction what p(normal) must weigh, in spreads, so that the share of normal studies among the first
    places is that of the encoder's own order, over all these queries together. float32 [4]"""
    model.eval()
    found: dict[int, list[_Scored]] = {}
    for rows in world.parts():
        arrays = world.arrays(rows)
        moved, spread = model.scored(arrays)
        absent = arrays["mask"] == 0
        scores = (arrays["base"] / spread + moved).masked_fill(absent, -torch.inf)
        base = arrays["base"].masked_fill(absent, -torch.inf)
        for place in set(arrays["direction"].tolist()):
            some = arrays["direction"] == place
            found.setdefault(place, []).append(
                (scores[some], base[some], arrays["candidate"][some, :, 0], world.shown[rows][some])
            )
    offset = torch.zeros(len(DIRECTIONS))
    for place, parts in found.items():
        offset[place] = _offset(parts)
    return offset


_Scored = tuple[Tensor, Tensor, Tensor, Tensor]
"""Scores, base, belief in normal, and whether it is normal, each [b, K]."""


def _offset(parts: Sequence[_Scored]) -> float:
    def share(scores: Sequence[Tensor]) -> float:
        tops = [found.topk(min(_HELD, found.shape[1]), dim=1).indices for found in scores]
        shares = [shown.gather(1, top).float().mean(1) for top, (*_, shown) in zip(tops, parts, strict=True)]
        return float(torch.cat(shares).mean())

    wanted = share([base for _, base, _, _ in parts])
    low, high = -_FARTHEST, _FARTHEST
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if share([scores + middle * normal for scores, _, normal, _ in parts]) < wanted:
            low = middle
        else:
            high = middle
    return (low + high) / 2


class _Tensors:
    """Episodes as tensors: the arrays that a model reads, rows to be taken, and what is wanted of their order."""

    def __init__(self, episodes: Episodes, model: GraphReranker) -> None:
        feed = episodes.batch.feed([*model.array_names, "candidate"])
        self._arrays = {name: torch.from_numpy(array) for name, array in feed.items()}
        self.episodes = episodes
        self.direction = torch.from_numpy(episodes.direction)
        self.normal = torch.from_numpy(episodes.normal.astype(np.int64))
        self.shown = torch.from_numpy(episodes.shown)
        self.wanted = torch.from_numpy(episodes.overlap)
        self.offset = torch.zeros(len(DIRECTIONS))

    def __len__(self) -> int:
        return len(self.episodes)

    def arrays(self, rows: Tensor) -> dict[str, Tensor]:
        """Of these queries; archive items belong to all of them."""
        return {name: array if name in _SHARED else array[rows] for name, array in self._arrays.items()}

    def parts(self, size: int = 64) -> Iterator[Tensor]:
        """All rows, some at a time."""
        return (torch.arange(start, min(start + size, len(self))) for start in range(0, len(self), size))


_SHARED = {relation.source for relation in ARCHIVE_RELATIONS}


def _normals_moved(scores: Tensor, base: Tensor, shown: Tensor, mask: Tensor) -> Tensor:
    """Change of the share of normal studies among the first places, over these queries together; softly, so that it has
    a gradient. scores, base [B, K], shown: bool [B, K]."""
    shares = []
    for found in (scores, base):
        found = found.masked_fill(mask == 0, -1e9)
        edge = found.detach().topk(min(_HELD, found.shape[1]), dim=1).values
        inside = torch.sigmoid((found - edge[:, -1:]) / (_SOFTNESS * (edge[:, :1] - edge[:, -1:])).clamp(min=1e-6))
        shares.append(((inside * shown).sum(dim=1) / inside.sum(dim=1)).mean())
    return shares[0] - shares[1]


def _ideal(gains: Tensor) -> Tensor:
    """The DCG [B] of gains [B, K] in their best order."""
    ordered = gains.sort(dim=1, descending=True).values
    return (ordered / torch.log2(torch.arange(2.0, ordered.shape[1] + 2.0))).sum(dim=1)


def _class_weights(worlds: Sequence[Episodes]) -> Tensor:
    """Query weights by normal status, −1, 0, 1: each counts alike in sum, whatever its number."""
    counts = sum(np.bincount(one.normal.astype(np.int64) + 1, minlength=3) for one in worlds)
    present = np.maximum(np.asarray(counts, dtype=np.float32), 1.0)
    return torch.from_numpy(present.sum() / (np.count_nonzero(counts) * present))


def _batches(
    rng: np.random.Generator, worlds: Sequence[_Tensors], count: int, size: int
) -> Iterator[tuple[_Tensors, Tensor]]:
    """A random `count` of all queries in random batches, each of one world and direction."""
    owners = np.repeat(np.arange(len(worlds)), [len(one) for one in worlds])
    places = np.concatenate([np.arange(len(one)) for one in worlds])
    drawn = rng.permutation(len(owners))[:count]
    batches: list[tuple[_Tensors, Tensor]] = []
    for number, world in enumerate(worlds):
        own = torch.from_numpy(places[drawn[owners[drawn] == number]])
        for direction in range(len(DIRECTIONS)):
            some = own[world.direction[own] == direction]
            batches += [(world, some[start : start + size]) for start in range(0, len(some), size)]
    for place in rng.permutation(len(batches)):
        yield batches[place]
