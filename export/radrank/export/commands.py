"""`radrank export` and `radrank demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

export = typer.Typer(no_args_is_help=False, rich_markup_mode="rich")


@export.callback(invoke_without_command=True)
def _export(
    context: typer.Context,
    run: Annotated[Path | None, typer.Option(help="A run directory of `radrank train`; required.")] = None,
    to: Annotated[Path | None, typer.Option(help="The bundle directory to write, required; it must not exist.")] = None,
    name: Annotated[str, typer.Option(help="The bundle's name; its directory's if not given.")] = "",
    default: Annotated[
        str | None, typer.Option(help="Re-ranker for requests that name none; the best on validation if not given.")
    ] = None,
) -> None:
    """Write a bundle: encoders and re-rankers as ONNX, each checked against torch to 1e-4 before the bundle appears.

    The commands below make what a runtime needs from a bundle.

    [dim]Example: radrank export --run runs/openi --to bundles/openi[/dim]
    """
    if context.invoked_subcommand is not None:
        return
    if run is None or to is None:
        raise typer.BadParameter(f"Missing option '{'--run' if run is None else '--to'}'.", context)
    from rich.console import Console

    from radrank.export.bundles import write_bundle
    from radrank.training.runs import Run

    with Console(stderr=True).status("exporting") as status:
        path = write_bundle(
            Run(path=run), to, name=name, default=default, step=lambda label: status.update(f"exporting: {label}")
        )
    typer.echo(
        f"wrote {path}; next: radrank index build --bundle {path} --archive archives/{path.name} --dataset … --root …"
    )


@export.command(epilog="Example: radrank export tensorrt --bundle bundles/openi --compute-capability 8.6")
def tensorrt(
    bundle: Annotated[Path, typer.Option(metavar="DIR", help="Made by `radrank export`.")],
    to: Annotated[
        Path | None, typer.Option(metavar="DIR", help="For the plans; BUNDLE.plans beside it if not given.")
    ] = None,
    flavour: Annotated[
        str, typer.Option(help="tensorrt-rtx builds for any GPU anywhere, tensorrt for and on this machine's.")
    ] = "tensorrt-rtx",
    precision: Annotated[str, typer.Option(help="fp32, fp16 or bf16; norms and softmax are always fp32.")] = "fp16",
    compute_capability: Annotated[
        list[str] | None, typer.Option(help="Of the GPUs that will serve, such as 8.6; again for more. This machine's.")
    ] = None,
    batch: Annotated[str, typer.Option(help="Requests that run as one, as the server's \\[engines] batch.")] = "8",
    model: Annotated[
        list[str] | None, typer.Option(help="Such as image_encoder or reranker_sage; again for more. All if not given.")
    ] = None,
) -> None:
    """Build TensorRT plans of a bundle's encoders and re-rankers, each with a manifest of all that it depends on.

    A plan has a profile for every bucket of its model, and is named by a key over its parts; what is there already
    stays. A server that finds none that fits says what differs.
    """
    from radrank.core.errors import InvalidQuery
    from radrank.export.progress import fraction_bar
    from radrank.export.tensorrt import PlanSettings, build_plans

    batches = batch.replace(" ", "").split(",")
    if not all(each.isdecimal() and int(each) for each in batches):
        raise InvalidQuery("batch", "must be numbers above zero with commas between them, such as 8 or 1,8")
    settings = PlanSettings(
        flavour=flavour,
        precision=precision,
        compute_capabilities=tuple(compute_capability or ()),
        batches=tuple(map(int, batches)),
        names=tuple(model or ()),
    )
    for plan, was_there in build_plans(bundle, to, settings, step=fraction_bar):
        size = int(plan.file["bytes"]) / 1e6
        typer.echo(f"{'was there' if was_there else 'built'}: {plan.path} ({size:,.1f} MB)")


@export.command(epilog="Example: radrank export precision --bundle bundles/openi --precision fp16")
def precision(
    bundle: Annotated[Path, typer.Option(metavar="DIR", help="Made by `radrank export`.")],
    precision: Annotated[str, typer.Option(help="fp16 or bf16 for GPUs, int8 for encoders on CPUs with VNNI.")],
    to: Annotated[
        Path | None, typer.Option(metavar="DIR", help="For the files; BUNDLE.plans beside it if not given.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Whose training studies calibrate int8; the bundle's own if not given.")
    ] = None,
    root: Annotated[Path | None, typer.Option(metavar="PATH", help="That data set's folder (csv: its file).")] = None,
) -> None:
    """Convert a bundle's models for ONNX Runtime; a server takes them up with `\\[engines] precision`.

    They serve where they pass the parity gate: see docs/engines.md.
    """
    from rich.console import Console

    from radrank.export.conversion import INT8, lacks_vnni, write_conversions

    console = Console(stderr=True)
    for path, was_there in write_conversions(
        bundle, to, precision, step=lambda label: console.status(label), dataset=dataset, root=root
    ):
        typer.echo(f"{'was there' if was_there else 'made'}: {path} ({path.stat().st_size / 1e6:,.1f} MB)")
    if precision == INT8 and lacks_vnni():
        typer.echo("int8 pays only on processors with VNNI or AMX, which this one lacks: serve fp32 here", err=True)


@export.command(
    epilog="Example: radrank export triton --bundle bundles/openi --snapshot archives/openi --to triton/openi"
)
def triton(
    bundle: Annotated[Path, typer.Option(metavar="DIR", help="Made by `radrank export`.")],
    snapshot: Annotated[Path, typer.Option(metavar="DIR", help="A snapshot, or an archive's home.")],
    to: Annotated[Path, typer.Option(metavar="DIR", help="For the repository; one that is there is replaced.")],
    backend: Annotated[
        str,
        typer.Option(
            help="Of encoders and re-rankers: tensorrt where there are plans, onnxruntime, or python for Tritons that "
            "have neither. auto: tensorrt where there are plans, else onnxruntime."
        ),
    ] = "auto",
    device: Annotated[
        str | None, typer.Option(help="cpu or gpu; a gpu where plans are used, else a cpu, if not given.")
    ] = None,
    precision: Annotated[str, typer.Option(help="fp16 or fp32 on a GPU; a CPU runs the bundle's own.")] = "fp16",
    plans: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Of `radrank export tensorrt`; BUNDLE.plans if not given.")
    ] = None,
    batch: Annotated[int, typer.Option(help="Requests that run as one.", min=1)] = 8,
    instances: Annotated[
        int, typer.Option(help="Searches, and re-rankers on a CPU, that run side by side.", min=1)
    ] = 2,
    cache: Annotated[
        str, typer.Option(metavar="DIR", help="On Triton's host, for engines that ONNX Runtime's TensorRT builds.")
    ] = "/var/cache/radrank/tensorrt",
) -> None:
    """Write a model repository that NVIDIA Triton serves: the bundle's models, and the whole search as a model.

    It holds all that it needs and can be moved to another host. `radrank_search` runs in Triton's python backend, whose
    Python needs "radrank\\[server,cpu]".
    """
    from rich.console import Console

    from radrank.export.triton import write_repository
    from radrank.export.triton_models import TritonSettings

    settings = TritonSettings(
        backend=backend, device=device, precision=precision, batch=batch, instances=instances, cache=cache
    )
    with Console(stderr=True).status("exporting") as status:
        written = write_repository(
            bundle, snapshot, to, settings, plans=plans, step=lambda label: status.update(f"exporting: {label}")
        )
    for model in written.models:
        note = f" ({model.note})" if model.note else ""
        typer.echo(f"{model.source.name}: {model.runtime.removeprefix('triton ')}, {model.precision}{note}")
    if written.behind:
        cure = f"take them in with: radrank index build --bundle {bundle} --archive {snapshot}"
        typer.echo(f"the archive has {written.behind:,} changes that its snapshot lacks; {cure}", err=True)
    typer.echo(f"wrote {to}; next: tritonserver --model-repository={to.absolute()}")


demo = typer.Typer(help="A made-up archive to try radrank with.", no_args_is_help=True, rich_markup_mode="rich")


@demo.callback()
def _demo() -> None:
    """A made-up archive to try radrank with: procedural phantoms and reports, no patient anywhere."""


@demo.command(epilog="Example: radrank demo build --to .demo")
def build(to: Annotated[Path, typer.Option(help="Directory for the run and the bundle.")] = Path(".demo")) -> None:
    """Train and export a bundle on the demo archive: the whole way, small, in a few minutes."""
    from rich.console import Console

    from radrank.core.graph import GraphSettings
    from radrank.export.bundles import write_bundle
    from radrank.training.heads import HeadSettings
    from radrank.training.listwise import RerankerSettings
    from radrank.training.pipeline import run_heads, run_rerankers
    from radrank.training.progress import RichReporter
    from radrank.training.reranker import SERVED
    from radrank.training.tower import TowerSettings

    reporter = RichReporter()
    run = run_heads(
        to / "run",
        dataset="demo",
        root=None,
        backbone="compact",
        weights=None,
        settings=HeadSettings(projection=96, hidden=256),
        tower=TowerSettings(epochs=0),  # phantoms need no tuning, and it would take longer than all the rest
        reporter=reporter,
    )
    settings = RerankerSettings(candidates=50)
    run_rerankers(run, SERVED, settings=settings, graph=GraphSettings(), reporter=reporter)
    with Console(stderr=True).status("exporting") as status:
        bundle = write_bundle(run, to / "bundle", name="demo", step=lambda label: status.update(f"exporting: {label}"))
    typer.echo(f"wrote {bundle}; next: radrank index build --bundle {bundle} --archive {to / 'archive'} --dataset demo")
