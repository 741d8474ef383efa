"""`radrank train heads` and `radrank train reranker`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

train = typer.Typer(
    help="Train projector heads over a frozen backbone, then graph re-rankers over the heads.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


class Kind(StrEnum):
    SAGE = "sage"
    GCN = "gcn"
    GAT = "gat"
    ALL = "all"


Dataset = Annotated[str, typer.Option(help="openi, mimic-cxr, mimic-cxr-jpg, csv, dicom or demo.")]
Root = Annotated[Path | None, typer.Option(help="The data set's folder (csv: its file). demo needs none.")]
Out = Annotated[Path, typer.Option(help="The run directory to write.")]
Strict = Annotated[bool, typer.Option("--strict", help="Stop at the first broken file instead of skipping it.")]


@train.command(epilog="Example: radrank train heads --dataset openi --root ~/openi --out runs/openi")
def heads(
    dataset: Dataset,
    out: Out,
    root: Root = None,
    backbone: Annotated[str, typer.Option(help="compact, or biomedclip.")] = "compact",
    weights: Annotated[Path | None, typer.Option(help="biomedclip: the folder with its open_clip checkpoint.")] = None,
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
    seed: Annotated[int, typer.Option(help="Equal seeds, equal runs.")] = 0,
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
    kind: Annotated[Kind, typer.Argument(help="Which graph network; all trains the three.")],
    run: Annotated[Path, typer.Option(help="The run directory of `radrank train heads`.")],
    candidates: Annotated[int, typer.Option(help="Re-ranked per query.", min=2, max=1000)] = 100,
    epochs: Annotated[int, typer.Option(help="At most; validation decides when to stop.", min=1)] = 8,
    sample: Annotated[int, typer.Option(help="Training queries an epoch; 0 for all.", min=0)] = 1200,
    folds: Annotated[int, typer.Option(help="Of cross-fitted encoders.", min=2)] = 3,
    width: Annotated[int, typer.Option(help="Of node states; a multiple of 4.", min=4)] = 64,
    layers: Annotated[int, typer.Option(help="Message passes.", min=1, max=8)] = 2,
    learning_rate: Annotated[float, typer.Option(min=0.0)] = 1e-3,
    seed: Annotated[int, typer.Option(help="Equal seeds, equal runs.")] = 0,
) -> None:
    """Train graph re-rankers over the run's frozen heads, listwise, on cross-fitted episodes."""
    from radrank.core.graph import GraphSettings
    from radrank.training.layers import KINDS
    from radrank.training.listwise import RerankerSettings
    from radrank.training.pipeline import run_rerankers
    from radrank.training.progress import RichReporter
    from radrank.training.runs import Run

    settings = RerankerSettings(
        candidates=candidates,
        epochs=epochs,
        sample=sample,
        folds=folds,
        width=width,
        layers=layers,
        learning_rate=learning_rate,
        seed=seed,
    )
    kinds = list(KINDS) if kind is Kind.ALL else [kind.value]
    run_rerankers(Run(path=run), kinds, settings=settings, graph=GraphSettings(), reporter=RichReporter())
    typer.echo(f"wrote {run / 'rerankers'}; next: radrank export --run {run} --to bundles/{run.name}")
