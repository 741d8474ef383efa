"""Tables and the plot of `radrank bench scale` and `radrank bench footprint`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from radrank.bench.footprint import Footprint
from radrank.bench.scale import Size

_MIB, _GB = 2**20, 1e9


def scale_markdown(sizes: Sequence[Size], command: str) -> str:
    """Both tables, and how the latency grows from one size to the next."""
    one = sizes[0]
    lines = [
        "# Candidate search by archive size",
        "",
        f"`{command}`",
        "",
        f"Made-up vectors of {one.dimensions} dimensions, clustered, with a shift between modalities like that of our"
        f" heads on Open-i; hnswlib with m = {one.m}, ef_construction = {one.ef_construction}. {one.queries:,} queries"
        f" a direction, of studies that the gallery does not hold. ef is tuned for recall@{one.k} ≥ {one.wanted:g}"
        " against the exact scan; searches take one thread, and include the exact cosines of what was found.",
        "",
        f"| rows | direction | ef | recall@{one.k} | p50 ms | p99 ms | exact p50 ms | untuned ef, recall, p50 ms |",
        "| ---: | --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    lines += [
        f"| {size.rows:,} | {by.source} → {by.target} | {by.ef:,} | {by.recall:.4f} | {by.p50 / 1e3:.3f} |"
        f" {by.p99 / 1e3:.3f} | {by.exact_p50 / 1e3:.2f} | {by.default_ef}, {by.default_recall:.4f},"
        f" {by.default_p50 / 1e3:.3f} |"
        for size in sizes
        for by in size.searched
    ]
    lines += [
        "",
        "| rows | build s | threads | load s | index file MiB | index in memory MiB | vectors.npy MiB |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {size.rows:,} | {size.build_seconds:,.1f} | {size.threads} | {size.load_seconds:.2f} |"
        f" {size.index_bytes / _MIB:,.1f} | {size.memory_bytes / _MIB:,.1f} | {size.vectors_bytes / _MIB:,.1f} |"
        for size in sizes
    ]
    lines += ["", "The index in memory holds a copy of the vectors. A build with several threads links in an order of"]
    lines += ["chance: two of them differ a little in what they find. `radrank index build` uses one.", ""]
    lines += growth(sizes)
    return "\n".join(lines) + "\n"


def growth(sizes: Sequence[Size]) -> list[str]:
    """A sentence for every step in size and direction."""
    return [
        f"- {before.rows:,} → {after.rows:,} rows, {b.source} → {b.target}: p50 × {a.p50 / b.p50:.2f}"
        for before, after in pairwise(sizes)
        for b, a in zip(before.searched, after.searched, strict=True)
    ]


def reached(sizes: Sequence[Size]) -> bool:
    """Whether every direction of every size has the recall that was asked for."""
    return all(by.recall >= size.wanted for size in sizes for by in size.searched)


def scale_plot(sizes: Sequence[Size], path: Path) -> None:
    """Saves latency by size, beside the exact scan's, and ef by size."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 3.8), layout="constrained")
    latency, width = figure.subplots(1, 2)
    rows = [size.rows for size in sizes]
    for place, colour in enumerate(("#0072B2", "#D55E00")):
        searched = [size.searched[place] for size in sizes]
        name = f"{searched[0].source} → {searched[0].target}"
        latency.plot(rows, [by.p50 / 1e3 for by in searched], "o-", color=colour, label=f"{name}, p50")
        latency.plot(rows, [by.p99 / 1e3 for by in searched], ":", color=colour, label=f"{name}, p99")
        width.plot(rows, [by.ef for by in searched], "o-", color=colour, label=name)
    scans = [sum(by.exact_p50 for by in size.searched) / len(size.searched) / 1e3 for size in sizes]
    latency.plot(rows, scans, "s--", color="#8A8A8A", label="exact scan, p50")
    latency.set(xscale="log", yscale="log", xlabel="rows", ylabel="ms a query, one thread")
    width.set(xscale="log", xlabel="rows", ylabel=f"ef for recall@{sizes[0].k} ≥ {sizes[0].wanted:g}", ylim=(0, None))
    for axes in (latency, width):
        axes.grid(color="#E8E8E8", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)


def footprint_markdown(found: Footprint, command: str) -> str:
    """What the served archive takes."""
    lines = [
        "# A served archive: start and memory",
        "",
        f"`{command}`",
        "",
        f"{found.studies:,} made-up studies with an image and a report each: {found.vectors:,} vectors of"
        f" {found.dimensions} dimensions. Bundle {found.bundle_bytes / _MIB:,.0f} MiB, snapshot"
        f" {found.snapshot_bytes / _MIB:,.0f} MiB, database {found.database_bytes / _MIB:,.0f} MiB. Starting checks the"
        " hash of every file of bundle and snapshot.",
        "",
        "| when | s to SERVING | RSS GB | its own GB | mapped files GB | peak GB |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    states = [(f"started, disk {start.disk}", f"{start.seconds:.2f}", start.memory) for start in found.starts]
    for name, seconds, memory in [*states, (f"after {found.searches:,} searches", "", found.after)]:
        numbers = (memory.resident, memory.anonymous, memory.file, memory.peak)
        lines.append(f"| {name} | {seconds} | " + " | ".join(f"{number / _GB:.2f}" for number in numbers) + " |")
    lines += [
        "",
        f"Searches by embedding, re-ranked by {found.reranker}, by one client in turn: p50 {found.p50 / 1e3:.2f} ms,"
        f" p99 {found.p99 / 1e3:.2f} ms. Memory is what the kernel says of the server's process (VmRSS, RssAnon,"
        " RssFile, VmHWM); the page cache beside it can be taken back at any time.",
    ]
    return "\n".join(lines) + "\n"
