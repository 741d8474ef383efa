"""`radrank bench gpu`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = (
    "Example: radrank bench gpu --bundle bench/biomedclip/bundle --run bench/biomedclip/run"
    " --archive bench/biomedclip/archive --out results/gpu --minutes 8"
)
_CELLS, _SERVER = "What is measured", "The server under load"


def gpu(
    context: typer.Context,
    bundle: Annotated[Path, typer.Option(metavar="DIR", help="Made by `radrank export` or `bench bundle`.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="For gpu.json, gpu.md and gpu.png.")],
    run: Annotated[
        Path | None, typer.Option(metavar="DIR", help="That the bundle was exported from; torch is left out without.")
    ] = None,
    archive: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Its archive's home; the server is left out without.")
    ] = None,
    plans: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Converted models and TensorRT plans; BUNDLE.plans if not given.")
    ] = None,
    minutes: Annotated[float, typer.Option(help="After which nothing new is begun.", min=0.05)] = 8.0,
    only: Annotated[
        str, typer.Option(metavar="NAMES", help="Some of image,text,sage,gcn,gat.", rich_help_panel=_CELLS)
    ] = "image,text,sage,gcn,gat",
    batches: Annotated[
        str, typer.Option(metavar="NUMBERS", help="Requests at a time.", rich_help_panel=_CELLS)
    ] = "1,8,32",
    candidates: Annotated[
        str, typer.Option(metavar="NUMBERS", help="Of re-rankers.", rich_help_panel=_CELLS)
    ] = "50,100,200",
    load_rate: Annotated[float, typer.Option(help="Requests a second.", min=1.0, rich_help_panel=_SERVER)] = 500.0,
    load_seconds: Annotated[
        float, typer.Option(help="Measured of each kind of query.", min=1.0, rich_help_panel=_SERVER)
    ] = 12.0,
    objective_ms: Annotated[float, typer.Option(help="For p99.", min=0.1, rich_help_panel=_SERVER)] = 8.0,
) -> None:
    """Time a bundle's models on every runtime of a GPU machine, then load the whole server on it.

    torch in eager mode and compiled, ONNX Runtime on CPU and on CUDA with and without graphs, TensorRT: in turn, from
    numpy to numpy, each beside its difference from fp32 on the CPU and the gate's figures. What can't run here is named
    with the reason; without a GPU the CPU's sides still run. Results are written after every cell, so that an
    interrupted run keeps what it has; cells for which no time is left are named too.

    fp16 needs `radrank export precision --precision fp16` first, TensorRT `radrank export tensorrt --batch 1,8,32`.
    """
    from radrank.bench._gpu_report import gpu_markdown, gpu_plot
    from radrank.bench.gpu import Options
    from radrank.bench.gpu import gpu as measured
    from radrank.bench.gpu_found import Found
    from radrank.bench.gpu_serving import Loads
    from radrank.core.files import write_json
    from radrank.datasets.progress import bar
    from radrank.evaluation.commands import said

    options = Options(
        bundle=bundle,
        out=out,
        run=run,
        archive=archive,
        plans=plans,
        minutes=minutes,
        only=[name for name in only.replace(" ", "").split(",") if name],
        batches=_numbers("batches", batches),
        candidates=_numbers("candidates", candidates),
        loads=Loads(rate=load_rate, seconds=load_seconds, objective_ms=objective_ms),
        command=said(context, "radrank", "bench", "gpu"),
    )
    out.mkdir(parents=True, exist_ok=True)

    def keep(found: Found) -> None:
        (out / "gpu.md").write_text(gpu_markdown(found), encoding="utf-8")
        write_json(out / "gpu.json", found.to_json())

    found = measured(options, task=bar, keep=keep)
    keep(found)
    gpu_plot(found, out / "gpu.png")
    typer.echo(gpu_markdown(found))
    typer.echo(f"wrote gpu.json, gpu.md and gpu.png into {out}")


def _numbers(name: str, said: str) -> list[int]:
    from radrank.core.errors import InvalidQuery

    words = [word for word in said.replace(" ", "").split(",") if word]
    if not words or not all(word.isdecimal() and int(word) for word in words):
        raise InvalidQuery(name, "must be numbers above zero with commas between them, such as 1,8,32")
    return list(dict.fromkeys(map(int, words)))
