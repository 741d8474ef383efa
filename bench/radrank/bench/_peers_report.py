"""Table and plot of `radrank bench peers`."""

from __future__ import annotations

from pathlib import Path

from radrank.bench.contest import CAREFUL, OURS, RERANKER, SERVER
from radrank.bench.peers import SAME, SIDES, TARGETS, Part, Peers
from radrank.bench.throughput import WANTED
from radrank.bench.turns import COUNTED
from radrank.evaluation._canvas import BLUE, GREEN, GREY, PALE, headline, panels, save

_SHOWN = ("image_encoder", "text_encoder", f"reranker_{RERANKER}")
_COLOURS = {CAREFUL: GREY, OURS: BLUE, SERVER: GREEN}


def peers_markdown(found: Peers) -> str:
    """What was measured, on what, and whether both sides agree."""
    lines = [
        "# The same search by torch + PyG, by our pipeline and by our server",
        "",
        f"`{found.command}`",
        "",
        f"Bundle {found.bundle}, {found.studies:,} studies, {found.candidates} candidates, re-ranker {RERANKER}. Every"
        f" side had {found.rounds} turns with each question, after one another in rounds; a turn is the median of"
        f" {COUNTED} calls in a row after one to warm up. Milliseconds are medians over questions of medians over"
        " rounds. A ratio is torch + PyG over the other, with the interval that 95 % of bootstrap draws over questions"
        ' fall into; under "fastest rounds" it is over ours, from each question\'s fastest round alone. On a machine'
        " with other work only the ratios mean anything, and where these two differ much, not even they.",
        "",
        f"| query | questions | {CAREFUL} ms | {OURS} ms | {SERVER} ms | over ours | fastest rounds | over the"
        " server | at least |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        *map(_row, found.parts),
        "",
        f"- {CAREFUL}, in `bench/radrank/bench/careful.py`: torch in eager mode, hnswlib, a HeteroData and PyG's"
        " HeteroConv for every query, texts padded to the full context as open_clip does.",
        f"- {OURS}: the server's pipeline, called in this process. {SERVER}: `radrank serve` in a process of its own,"
        " asked over loopback by the Python client; graph + re-rank as its reply tells.",
    ]
    lines += [
        f"- {name}: {one.tokens:g} tokens, padded to {one.ours:g} by us and to {one.theirs:g} by {CAREFUL} (medians)."
        for name, one in found.lengths.items()
    ]
    lines += [f"- {name}: {engine}." for name, engine in found.engines.items() if name in _SHOWN]
    apart = ", ".join(f"{name} {difference:.1e}" for name, difference in found.vectors.items())
    lines += [
        f"- Largest difference between {CAREFUL} and ours: re-ranked scores of the same candidates {found.scores:.1e}"
        f" ({'held' if found.scores <= SAME else '**failed**'}: at most {SAME:g}); vectors: {apart} (we decode"
        " JPEGs smaller that are at least twice as large as the encoder's input).",
        f"- The server and the pipeline in process gave {'the same' if found.same_hits else '**different**'} hits.",
        "",
        f"| a second | {OURS} | {SERVER} | share | refused | at least |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        *(
            f"| {one.kind} | {one.ours:.1f} | {one.server:.1f} | {one.share:.2f} | {one.refused} | {WANTED:g} |"
            for one in found.throughput
        ),
        "",
        f"- Throughput: the pipeline on {found.throughput[0].threads} threads, then the server with"
        f" {found.throughput[0].clients} clients that wait for their answers, on the same cores; medians over rounds.",
        f"- Machine: {', '.join(f'{name} {value}' for name, value in found.machine.items())}.",
    ]
    return "\n".join(lines) + "\n"


def peers_plot(found: Peers, path: Path) -> None:
    """Saves a PNG: milliseconds of the three sides by kind of query, and the ratios beside what was asked."""
    figure, grid = panels(1, 2, (12.0, 4.8))
    bars, ratios = grid[0]
    names = [part.name for part in found.parts]
    for place, side in enumerate(SIDES):
        at = [row + 0.27 * (place - 1) for row in range(len(names))]
        drawn = bars.barh(at, [part.medians[side] for part in found.parts], 0.25, color=_COLOURS[side], label=side)
        bars.bar_label(drawn, fmt="%.3g", fontsize=7, padding=2)
    bars.set(xscale="log", xlabel="milliseconds, median")
    for row, part in enumerate(found.parts):
        for ratio, colour, shift in ((part.ours, BLUE, -0.12), (part.served, GREEN, 0.12)):
            ratios.plot([ratio.low, ratio.high], [row + shift] * 2, color=colour, linewidth=2)
            ratios.plot(ratio.value, row + shift, "o", color=colour)
        if part.name in TARGETS:
            ratios.plot([TARGETS[part.name]] * 2, [row - 0.35, row + 0.35], "--", color=GREY)
    ratios.axvline(1.0, color=PALE)
    ratios.set(xscale="log", xlabel=f"{CAREFUL} over ours (blue), over our server (green); dashed: asked for")
    for axes in (bars, ratios):
        axes.set_yticks(range(len(names)), names if axes is bars else [""] * len(names))
        axes.invert_yaxis()
        axes.xaxis.set_major_formatter("{x:g}")
    bars.legend(frameon=False, fontsize=8)
    headline(figure, f"The same weights, the same queries: {found.bundle}")
    save(figure, path)


def _row(part: Part) -> str:
    times = " | ".join(f"{part.medians[side]:.2f}" for side in SIDES)
    target = TARGETS.get(part.name)
    wanted = "" if target is None else f"{target:g} ×"
    return f"| {part.name} | {part.questions} | {times} | {part.ours} | {part.fastest:.2f} | {part.served} | {wanted} |"
