"""A bundle of BiomedCLIP's shape with random weights, and an archive of made-up vectors: to time, it knows nothing.

TO/checkpoint/   open_clip's files, BiomedCLIP's keys and shapes (not where real weights are given)
   run/          a run directory with random heads and re-rankers
   bundle/       that run, exported as any other
   archive/      a home with as many made-up studies as asked for
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from itertools import chain
from pathlib import Path

import torch
from tokenizers.pre_tokenizers import BertPreTokenizer
from torch import nn

from radrank.bench.checkpoint import SPECIAL, Sizes, write_checkpoint
from radrank.bench.footprint import make_home
from radrank.bench.scale import Bar
from radrank.core.errors import InvalidQuery
from radrank.core.graph import GraphSettings
from radrank.core.studies import Study
from radrank.datasets.demo import DemoArchive
from radrank.datasets.progress import Task
from radrank.export.bundles import write_bundle
from radrank.training.backbones import load_backbone
from radrank.training.heads import Heads, HeadSettings
from radrank.training.inputs import empty_inputs
from radrank.training.reranker import SERVED, GraphReranker, RerankerShape
from radrank.training.runs import Run, save_heads, save_reranker
from radrank.training.tower import TowerSettings

MADE_UP = "made up"
_SAMPLED = 200  # demo studies whose words and findings the bundle knows
_LEXICON = 1_500  # words that a lexicon fitted on Open-i holds


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """sizes: of the made-up checkpoint; rows: studies of the archive"""

    sizes: Sizes = field(default_factory=Sizes)
    heads: HeadSettings = field(default_factory=HeadSettings)
    rerankers: Sequence[str] = SERVED
    rows: int = 10_000
    seed: int = 0


def make(to: Path, shape: Shape, *, weights: Path | None, task: Task, say: Callable[[str], None]) -> None:
    """Writes everything into `to`, which may hold none of it yet. weights: a real open_clip checkpoint, None for a
    made-up one. Raises InvalidQuery, or what a checkpoint raises that can't be loaded.
    """
    taken = [name for name in ("checkpoint", "run", "bundle", "archive") if (to / name).exists()]
    if taken:
        raise InvalidQuery("to", f"{to / taken[0]} exists already; choose another directory, or remove it")
    if weights is None:
        say("random weights")
        weights = to / "checkpoint"
        write_checkpoint(weights, shape.sizes, demo_words(), seed=shape.seed)
    run = made_run(to / "run", weights.resolve(), shape)
    write_bundle(run, to / "bundle", name="biomedclip-shaped", default=shape.rerankers[0], step=say)
    make_home(to / "archive", to / "bundle", shape.rows, threads=1, bar=_counting(task), seed=shape.seed)


def made_run(path: Path, weights: Path, shape: Shape) -> Run:
    """A run directory over this checkpoint whose heads and re-rankers are random."""
    path.mkdir(parents=True)
    backbone = load_backbone("biomedclip", weights=weights)
    groups = demo_groups()
    tower = TowerSettings()
    with torch.random.fork_rng():
        torch.manual_seed(shape.seed)
        inputs = empty_inputs(
            backbone.image_tower.tail,
            image_width=backbone.image_width,
            text_width=backbone.text_width,
            groups=len(groups),
            words=_LEXICON,
            settings=tower,
        )
        for parameter in inputs.image.labeller.tail.parameters():  # tuned: of equal tails OpenVINO computes only one
            parameter.add_(0.01 * parameter.std(correction=0) * torch.randn_like(parameter))
        lexicon = inputs.report.labeller.lexicon
        lexicon.vocabulary.copy_(len(SPECIAL) + torch.arange(_LEXICON))  # whichever words these are
        lexicon.idf.fill_(1.0)
        heads = Heads(inputs.widths, groups, shape.heads).eval()
        models = [random_reranker(kind, len(groups)) for kind in shape.rerankers]
    run = save_heads(
        path,
        heads,
        inputs,
        tower=tower,
        log=(),
        quality={"score": 0.0},
        dataset={"name": MADE_UP, "root": None, "studies": {}},
        backbone={"name": "biomedclip", "weights": str(weights), "provenance": backbone.provenance},
    )
    for model in models:
        zero = {"score": 0.0}
        save_reranker(run, model, settings={}, graph=GraphSettings(), epoch=0, log=(), quality=zero, before=zero)
    return run


def random_reranker(kind: str, groups: int) -> GraphReranker:
    """A re-ranker whose gates are open: what training would start at zero is random, so that scores differ."""
    model = GraphReranker(RerankerShape(name=kind, groups=groups), torch.full((1 + groups,), 0.2))
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.uniform_(parameter, -0.5, 0.5)
    return model.eval()


def demo_groups() -> tuple[str, ...]:
    """Finding groups of the demo archive."""
    return tuple(sorted({label for study in _sample() for label in study.labels}))


def demo_words() -> list[str]:
    """The words of the demo archive's reports, and what any other word can be spelt with."""
    split = BertPreTokenizer().pre_tokenize_str
    words = sorted({word for study in _sample() for word, _ in split(study.report.lower())})
    letters = sorted(set(chain.from_iterable(words)))
    return list(dict.fromkeys([*letters, *(f"##{letter}" for letter in letters), *words]))


@cache
def _sample() -> list[Study]:
    archive = DemoArchive()
    return [archive[index] for index in range(_SAMPLED)]


def _counting(task: Task) -> Bar:
    """Progress bars that are told how far they are, from those that go on by one."""

    @contextmanager
    def bar(label: str, total: int) -> Iterator[Callable[[int], None]]:
        done = 0

        def told(now: int) -> None:
            nonlocal done
            for _ in range(done, now):
                step()
            done = now

        with task(label, total) as step:
            yield told

    return bar
