"""Real helper processes beside an event loop, over the demo bundle and archive."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from radrank.core.ranking import Ranker, Ranking, SearchQuery, StudyQuery
from radrank.core.records import Record
from radrank.core.snapshot import current, open_snapshot
from radrank.core.studies import Study, StudyImage
from radrank.core.vectors import unit
from radrank.core.view import View
from radrank.engines.bundle import Bundle, open_bundle
from radrank.engines.index import HnswFactory
from radrank.server.helpers import pool as module
from radrank.server.helpers.pool import Helpers
from radrank.server.home import snapshots_of
from radrank.server.suspension import Suspendable

READY_SECONDS = 60


@dataclass(frozen=True)
class Served:
    bundle: Bundle
    view: View

    def ranker(self, view: View | None = None) -> Ranker:
        bundle = self.bundle
        return Ranker(
            encoder=bundle.encoder,
            rerankers=bundle.rerankers,
            default_reranker=bundle.default_reranker,
            view=view or self.view,
        )

    def queries(self, reranker: str | None = None) -> list[SearchQuery]:
        ids = [bytes(one).decode() for one in self.view.snapshot.columns.ids[:40]]
        return [SearchQuery(content=StudyQuery(study_id=one), k=20, reranker=reranker) for one in ids]


@pytest.fixture
def served(demo_bundle: Path, demo_home: Path, tmp_path: Path) -> Iterator[Served]:
    snapshots = shutil.copytree(snapshots_of(demo_home), tmp_path / "snapshots")
    snapshot = open_snapshot(current(snapshots), factory=HnswFactory())
    bundle = open_bundle(demo_bundle)
    yield Served(bundle, View.of(snapshot, bundle.graph))
    bundle.close()


def helped(served: Served, work: Callable[[Helpers], Awaitable[Any]], *, bundle: str | None = None) -> Any:
    """What the work returns, with one helper at work beside its loop."""

    async def run() -> Any:
        helpers = Helpers(1)
        helpers.start(served.bundle.path, bundle or served.bundle.sha256)
        try:
            if bundle is None:
                await ready(helpers)
            helpers.open = True
            return await work(helpers)
        finally:
            await helpers.stop()

    return asyncio.run(run())


async def ready(helpers: Helpers) -> None:
    async with asyncio.timeout(READY_SECONDS):
        while not any(not link.ended.done() for link in helpers._links):
            await asyncio.sleep(0.01)


async def search(helpers: Helpers, ranker: Ranker, query: SearchQuery) -> tuple[bool, Ranking]:
    """Whether the loop was free meanwhile, and what was found."""
    running = Suspendable(partial(ranker.search, query, rerank=helpers.rerank))
    running.start()
    waits = running.waits
    return waits, await running.rest()


def pid_of(helpers: Helpers) -> int:
    (link,) = helpers._links
    return int(link._process.get_pid())


def without_times(ranking: Ranking) -> Ranking:
    return replace(ranking, times=type(ranking.times)())


def same(found: list[Ranking], expected: list[Ranking]) -> bool:
    return [without_times(one) for one in found] == [without_times(one) for one in expected]


@pytest.mark.parametrize("reranker", ["sage", "gcn", "gat"])
def test_a_helper_finds_what_the_server_itself_finds(served, reranker):
    ranker, queries = served.ranker(), served.queries(reranker)

    async def work(helpers: Helpers) -> list[tuple[bool, Ranking]]:
        return await asyncio.gather(*(search(helpers, ranker, query) for query in queries))

    found = helped(served, work)
    assert all(waits for waits, _ in found)
    assert same([ranking for _, ranking in found], [ranker.search(query) for query in queries])
    assert all(ranking.times.graph > 0 and ranking.times.rerank > 0 for _, ranking in found)


def test_it_is_told_of_what_came_and_went_since_the_snapshot(served):
    before, queries = served.ranker(), served.queries()
    rng = np.random.default_rng(0)
    nodes = served.view.nodes
    came = [
        Record(
            study=Study(study_id=f"NEW{n}", images=(StudyImage(image_id="I", content=b""),), findings="made up"),
            image_vectors=unit(vectors + 0.05 * rng.normal(size=vectors.shape)),
            report_vector=unit(report + 0.05 * rng.normal(size=report.shape)),
        )
        for n in range(12)
        for vectors, report in [(nodes["image"].vectors.base[n : n + 1], nodes["report"].vectors.base[n])]
    ]
    gone = [query.content.study_id for query in queries[-8:]]
    after = served.ranker(served.view.with_changes(came, gone, served.view.sequence + 1))
    asked = [*queries[:8], *(replace(queries[0], content=StudyQuery(study_id=f"NEW{n}")) for n in range(12))]

    async def work(helpers: Helpers) -> list[Ranking]:
        turns = [(before, queries[0]), *((after, query) for query in asked), (before, queries[1])]
        return [(await search(helpers, ranker, query))[1] for ranker, query in turns]

    expected = [before.search(queries[0]), *(after.search(query) for query in asked), before.search(queries[1])]
    assert same(helped(served, work), expected)
    assert any(hit.study_id.startswith("NEW") for ranking in expected for hit in ranking.hits)


def test_what_a_killed_helper_held_is_computed_in_the_loop_and_another_is_started(served, monkeypatch):
    monkeypatch.setattr(module, "_FIRST_PAUSE", 0.01)
    ranker, queries = served.ranker(), served.queries()[:8]

    async def work(helpers: Helpers) -> tuple[list[Ranking], bool]:
        first = pid_of(helpers)
        os.kill(first, signal.SIGSTOP)  # it shall hold all of them when it dies
        asked = [asyncio.create_task(search(helpers, ranker, query)) for query in queries]
        await asyncio.sleep(0.1)
        os.kill(first, signal.SIGKILL)
        found = [(await task)[1] for task in asked]
        await ready(helpers)
        waits, again = await search(helpers, ranker, queries[0])
        return [*found, again], waits and pid_of(helpers) != first

    found, anew = helped(served, work)
    assert anew
    assert same(found, [ranker.search(query) for query in [*queries, queries[0]]])


def test_a_helper_that_has_come_to_a_halt_is_killed(served, monkeypatch):
    monkeypatch.setattr(module, "_LONGEST", 0.2)
    ranker, query = served.ranker(), served.queries()[0]

    async def work(helpers: Helpers) -> Ranking:
        os.kill(pid_of(helpers), signal.SIGSTOP)
        found = (await search(helpers, ranker, query))[1]
        async with asyncio.timeout(READY_SECONDS):
            while helpers._links:
                await asyncio.sleep(0.01)
        return found

    assert same([helped(served, work)], [ranker.search(query)])


def test_a_snapshot_that_it_cannot_open_is_the_loops_affair(served):
    ranker, query = served.ranker(), served.queries()[0]
    expected = ranker.search(query)
    shutil.rmtree(served.view.snapshot.path)

    async def work(helpers: Helpers) -> list[Ranking]:
        return [(await search(helpers, ranker, query))[1] for _ in range(2)]

    assert same(helped(served, work), [expected] * 2)


def test_who_gives_up_takes_nobody_elses_answer(served):
    ranker, queries = served.ranker(), served.queries()[:6]

    async def work(helpers: Helpers) -> list[Ranking]:
        tasks = [asyncio.create_task(search(helpers, ranker, query)) for query in queries]
        await asyncio.sleep(0)
        tasks[0].cancel()
        tasks[3].cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert [place for place, one in enumerate(found) if isinstance(one, BaseException)] == [0, 3]
        return [one[1] for one in found if not isinstance(one, BaseException)]

    kept = [query for place, query in enumerate(queries) if place not in (0, 3)]
    assert same(helped(served, work), [ranker.search(query) for query in kept])


def test_a_helper_with_another_bundle_is_not_asked(served, caplog):
    ranker, query = served.ranker(), served.queries()[0]

    async def work(helpers: Helpers) -> tuple[bool, Ranking]:
        async with asyncio.timeout(READY_SECONDS):
            while "no longer the one" not in caplog.text:
                await asyncio.sleep(0.05)
        return await search(helpers, ranker, query)

    waits, found = helped(served, work, bundle="0" * 64)
    assert not waits
    assert same([found], [ranker.search(query)])


def test_where_no_process_can_be_started_the_server_goes_on_without(served, monkeypatch, caplog):
    monkeypatch.setattr(module.sys, "executable", "/nowhere/python")
    ranker, query = served.ranker(), served.queries()[0]

    async def run() -> tuple[bool, Ranking]:
        helpers = Helpers(1)
        helpers.open = True
        helpers.start(served.bundle.path, served.bundle.sha256)
        await asyncio.sleep(0.1)
        found = await search(helpers, ranker, query)
        await helpers.stop()
        return found

    waits, found = asyncio.run(run())
    assert not waits
    assert same([found], [ranker.search(query)])
    assert "no helper: No such file" in caplog.text


def test_threads_and_closed_helpers_leave_it_to_who_asks(served):
    ranker, query = served.ranker(), served.queries()[0]

    async def work(helpers: Helpers) -> tuple[bool, list[Ranking]]:
        in_thread = await asyncio.to_thread(ranker.search, query, rerank=helpers.rerank)
        helpers.open = False
        waits, in_loop = await search(helpers, ranker, query)
        return waits, [in_thread, in_loop]

    waits, found = helped(served, work)
    assert not waits
    assert same(found, [ranker.search(query)] * 2)


def test_stopped_they_are_gone(served):
    async def work(helpers: Helpers) -> int:
        return pid_of(helpers)

    pid = helped(served, work)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
