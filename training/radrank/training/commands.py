"""`radrank train heads`, `radrank train reranker`, and both in one: `radrank train all`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from radrank.training.listwise import RerankerSettings

train = typer.Typer(
    help="Train projector heads over a frozen backbone, then graph re-rankers over the heads.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


_ALL = "all"

Dataset = Annotated[str, typer.Option(help="openi, mimic-cxr, mimic-cxr-jpg, csv, dicom or demo.")]
Root = Annotated[Path | None, typer.Option(help="The data set's folder (csv: its file). demo needs none.")]
Backbone = Annotated[str, typer.Option(help="compact, or biomedclip.")]
Weights = Annotated[Path | None, typer.Option(help="biomedclip: the folder with its open_clip checkpoint.")]
Out = Annotated[Path, typer.Option(help="The run directory to write.")]
Seed = Annotated[int, typer.Option(help="Equal seeds, equal runs.")]
Strict = Annotated[bool, typer.Option("--strict", help="Stop at the first broken file instead of skipping it.")]


@train.command(epilog="Example: radrank train heads --dataset openi --root ~/openi --out runs/openi")
def heads(
    dataset: Dataset,
    out: Out,
    root: Root = None,
    backbone: Backbone = "compact",
    weights: Weights = None,
    projection: Annotated[int, typer.Option(help="Dimensions of the projected part of a vector.", min=8)] = 256,
    hidden: Annotated[int, typer.Option(help="Width of the MLPs.", min=8)] = 512,
    dropout: Annotated[float, typer.Option(min=0.0, max=0.95)] = 0.5,
    temperature: Annotated[float, typer.Option(help="Of the contrastive terms, at the start.", min=0.005)] = 0.07,
    clip: Annotated[float, typer.Option(help="Weight of the CLIP term.", min=0.0)] = 1.0,
    contrastive: Annotated[
        float, typer.Option(help="Weight of supervised contrast over equal findings.", min=0.0)
    ] = 0.5,
    jaccard: Annotated[float, typer.Option(help="The same, over the overlap of findings.", min=0.0)] = 1.0,
    abnormal: Annotated[float, typer.Option(help="Weight of normal/abnormal cross-entropy.", min=0.0)] = 0.0,
    findings: Annotated[float, typer.Option(help="The same, of every finding group.", min=0.0)] = 0.5,
    beliefs: Annotated[
        float, typer.Option(help="Share of believed findings in a similarity.", min=0.01, max=0.9)
    ] = 0.1,
    epochs: Annotated[int, typer.Option(help="Of the heads.", min=1)] = 15,
    tower_epochs: Annotated[int, typer.Option(help="Of the image tower's last stages; 0 leaves it.", min=0)] = 6,
    batch_size: Annotated[int, typer.Option(min=2)] = 128,
    learning_rate: Annotated[float, typer.Option(min=0.0)] = 1e-3,
    seed: Seed = 0,
    strict: Strict = False,
) -> None:
    """Tune the image tower's last stages, then train the projector heads by the multi-task loss.

    Writes features, weights, a log and curves (PNG) into the run directory. The features come from your data: they stay
    under its licence.
    """
    from radrank.training.heads import HeadSettings, LossWeights
    from radrank.training.pipeline import run_heads
    from radrank.training.progress import RichReporter
    from radrank.training.tower import TowerSettings

    settings = HeadSettings(
        projection=projection,
        hidden=hidden,
        dropout=dropout,
        temperature=temperature,
        epochs=epochs,
        seed=seed,
        batch_size=batch_size,
        learning_rate=learning_rate,
        beliefs=beliefs,
        losses=LossWeights(clip=clip, contrastive=contrastive, jaccard=jaccard, abnormal=abnormal, findings=findings),
    )
    run = run_heads(
        out,
        dataset=dataset,
        root=root,
        backbone=backbone,
        weights=weights,
        settings=settings,
        tower=TowerSettings(epochs=tower_epochs, seed=seed),
        reporter=RichReporter(),
        strict=strict,
    )
    typer.echo(f"wrote {run.path}; next: radrank train reranker all --run {run.path}")


@train.command(epilog="Example: radrank train reranker all --run runs/openi")
def reranker(
    name: Annotated[
        str,
        typer.Argument(
            help="sage, gcn, gat, mlp, a control (mlp_bare, <kind>_shuffled, <kind>_alone), or all that serve."
        ),
    ],
    run: Annotated[Path, typer.Option(help="The run directory of `radrank train heads`.")],
    candidates: Annotated[int, typer.Option(help="Re-ranked per query.", min=2, max=1000)] = 100,
    epochs: Annotated[int, typer.Option(help="At most; validation decides when to stop.", min=1)] = 4,
    sample: Annotated[int, typer.Option(help="Training queries an epoch; 0 for all.", min=0)] = 0,
    folds: Annotated[int, typer.Option(help="Of cross-fitted encoders.", min=2)] = 3,
    width: Annotated[int, typer.Option(help="Of node states; a multiple of 4.", min=4)] = 32,
    layers: Annotated[int, typer.Option(help="Message passes.", min=1, max=8)] = 2,
    learning_rate: Annotated[float, typer.Option(help="Of the networks.", min=0.0)] = 1e-4,
    mixture_rate: Annotated[float, typer.Option(help="Of what weighs fixed comparisons.", min=0.0)] = 1e-2,
    seed: Seed = 0,
) -> None:
    """Train graph re-rankers over the run's frozen heads, listwise, on cross-fitted episodes.

    The first time an encoder is trained for each fold, which takes about twice as long as the run's own; they are kept.
    """
    from radrank.training.listwise import RerankerSettings

    settings = RerankerSettings(
        candidates=candidates,
        epochs=epochs,
        sample=sample,
        folds=folds,
        width=width,
        layers=layers,
        learning_rate=learning_rate,
        mixture_rate=mixture_rate,
        seed=seed,
    )
    _rerankers(run, name, settings)


@train.command("all", epilog="Example: radrank train all --dataset openi --root ~/openi --out runs/openi")
def everything(
    dataset: Dataset,
    out: Out,
    root: Root = None,
    backbone: Backbone = "compact",
    weights: Weights = None,
    seed: Seed = 0,
    strict: Strict = False,
) -> None:
    """Heads, then every re-ranker that serves, all as the best recipe found has them: `heads`, then `reranker all`."""
    from radrank.training.heads import HeadSettings
    from radrank.training.listwise import RerankerSettings
    from radrank.training.pipeline import run_heads
    from radrank.training.progress import RichReporter
    from radrank.training.tower import TowerSettings

    run_heads(
        out,
        dataset=dataset,
        root=root,
        backbone=backbone,
        weights=weights,
        settings=HeadSettings(seed=seed),
        tower=TowerSettings(seed=seed),
        reporter=RichReporter(),
        strict=strict,
    )
    _rerankers(out, _ALL, RerankerSettings(seed=seed))


def _rerankers(run: Path, name: str, settings: RerankerSettings) -> None:
    from radrank.core.graph import GraphSettings
    from radrank.training.pipeline import run_rerankers
    from radrank.training.progress import RichReporter
    from radrank.training.reranker import SERVED
    from radrank.training.runs import Run

    names = SERVED if name == _ALL else (name,)
    run_rerankers(Run(path=run), names, settings=settings, graph=GraphSettings(), reporter=RichReporter())
    typer.echo(f"wrote {run / 'rerankers'}; next: radrank export --run {run} --to bundles/{run.name}")
