"""The server's side of its helpers. All in one event loop."""

from __future__ import annotations

import asyncio
import logging
import sys
import weakref
from collections import deque
from pathlib import Path
from typing import Any

from radrank.core.reranking import Reranked, Reranking, Shortlist
from radrank.server.helpers.messages import Hello, Scene, Scores, Unpacker, packed, question
from radrank.server.suspension import is_suspendable, waited

_LONGEST, _EACH = 5.0, 0.1  # seconds for an answer, and for each that is due before: past it a helper has halted
_LAST = 1.0  # seconds in which it ends by itself
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0  # seconds until one that ended is started anew

_log = logging.getLogger(__name__)


class Helpers:
    """So many processes, started anew when they end. What none of them can do is computed in the loop.

    open: whether they take anything
    """

    def __init__(self, most: int, *, log_style: str = "plain") -> None:
        self._most = most
        self._log_style = log_style
        self._links: list[_Link] = []
        self._keepers: list[asyncio.Task[None]] = []
        self._stopping = asyncio.Event()
        self.open = False

    def start(self, bundle: Path, sha256: str) -> None:
        """Starts them; they are ready in a second or two. sha256: of the bundle that the server has open."""
        self._keepers += [asyncio.create_task(self._keep(bundle, sha256)) for _ in range(self._most)]

    async def stop(self) -> None:
        """Ends them. What they hold is computed in the loop."""
        self._stopping.set()
        await asyncio.gather(*self._keepers)

    def rerank(self, shortlist: Shortlist, reranking: Reranking, /) -> Reranked:
        """A Rerank: by a helper if they are open, else at once. What comes from other threads is theirs to do."""
        found = None
        if self.open and self._links and is_suspendable():
            found = waited(min(self._links, key=_Link.load).ask(shortlist, reranking))
        return reranking(shortlist) if found is None else found

    async def _keep(self, bundle: Path, sha256: str) -> None:
        """Has one process until they are stopped."""
        stopping = asyncio.create_task(self._stopping.wait())
        pause = _FIRST_PAUSE
        while not self._stopping.is_set():
            try:
                if await self._one(bundle, sha256, stopping):
                    pause = _FIRST_PAUSE
            except OSError as error:  # such as no memory for a process
                _log.warning("no helper: %s", error.strerror)
            if not self._stopping.is_set():
                _log.warning("a helper ended; another is started in %g s", pause)
                await _first(stopping, seconds=pause)
                pause = min(2 * pause, _LONGEST_PAUSE)

    async def _one(self, bundle: Path, sha256: str, stopping: asyncio.Task[Any]) -> bool:
        """A process from its start to its end; whether it was any help."""
        command = (sys.executable, "-P", "-m", "radrank.server.helpers.helper", str(bundle), self._log_style)
        transport, link = await asyncio.get_running_loop().subprocess_exec(_Link, *command, stderr=None)
        await _first(link.hello, stopping)
        hello = link.hello.result() if link.hello.done() else None
        helps = hello is not None and hello.bundle == sha256
        if helps:
            self._links.append(link)
            await _first(link.ended, stopping)
            self._links.remove(link)
        elif hello is not None:
            _log.warning("helpers can't re-rank: the bundle in %s is no longer the one that is served", bundle)
        await link.end()
        transport.close()
        return helps


class _Link(asyncio.SubprocessProtocol):
    """One helper."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.hello: asyncio.Future[Hello | None] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        self._unpacker = Unpacker()
        self._asked: deque[asyncio.Future[Scores | None]] = deque()
        self._shown: weakref.ref[Reranking] | None = None

    def load(self) -> int:
        """Shortlists that it holds."""
        return len(self._asked)

    async def ask(self, shortlist: Shortlist, reranking: Reranking) -> Reranked | None:
        """None where it can't."""
        if self.ended.done():
            return None
        if self._shown is None or self._shown() is not reranking:
            self._shown = weakref.ref(reranking)
            late = {m: nodes.late for m, nodes in reranking.nodes.items()}
            self._pipe.write(packed(Scene(snapshot=reranking.snapshot, layout=reranking.layout, nodes=late)))
        answer: asyncio.Future[Scores | None] = asyncio.get_running_loop().create_future()
        self._asked.append(answer)
        self._pipe.write(packed(question(shortlist)))
        try:
            async with asyncio.timeout(_LONGEST + _EACH * len(self._asked)):
                found = await answer
        except TimeoutError:
            self._process.kill()
            return None
        hello = self.hello.result()
        if found is None or hello is None:
            return None
        return Reranked(scores=found[0], graph_us=found[1], manifest=hello.manifests[shortlist.reranker])

    async def end(self) -> None:
        """Ends the process, where it has not ended yet."""
        self._pipe.close()
        await _first(self.ended, seconds=_LAST)
        if not self.ended.done():
            self._process.kill()
            await self.ended

    def connection_made(self, transport: Any) -> None:
        self._process = transport
        self._pipe = transport.get_pipe_transport(0)

    def pipe_data_received(self, _fd: int, data: bytes) -> None:
        for message in self._unpacker.feed(data):
            if not self.hello.done():
                self.hello.set_result(message)
            elif self._asked:  # unless it ended meanwhile
                answer = self._asked.popleft()
                if not answer.done():
                    answer.set_result(message)

    def process_exited(self) -> None:
        for answer in self._asked:  # others must compute it
            if not answer.done():
                answer.set_result(None)
        self._asked.clear()
        if not self.hello.done():
            self.hello.set_result(None)
        self.ended.set_result(None)


async def _first(*futures: asyncio.Future[Any], seconds: float | None = None) -> None:
    """Waits until one of them is done, or so long."""
    await asyncio.wait(futures, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
