"""Health: what it says, and that the end is the end."""

from __future__ import annotations

import asyncio

from grpc_health.v1 import health_pb2

from radrank.server.health import HealthServicer

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def status(health: HealthServicer) -> int:
    return asyncio.run(health.Check(health_pb2.HealthCheckRequest(), None)).status


def test_it_serves_when_it_is_told_and_not_again_after_the_end():
    health = HealthServicer([""])
    assert status(health) == NOT_SERVING
    health.set(serving=True)
    assert status(health) == SERVING
    health.end()
    health.set(serving=True)
    assert status(health) == NOT_SERVING


def test_who_watches_is_told_of_every_change_and_of_the_end():
    class Context:
        def __init__(self) -> None:
            self.told: list[int] = []

        async def write(self, response: health_pb2.HealthCheckResponse) -> None:
            self.told.append(response.status)

    async def run() -> list[int]:
        health, context = HealthServicer([""]), Context()
        watch = asyncio.create_task(health.Watch(health_pb2.HealthCheckRequest(), context))
        for serving in (True, True, False, True):
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            health.set(serving=serving)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        health.end()
        await asyncio.wait_for(watch, 5)
        return context.told

    assert asyncio.run(run()) == [NOT_SERVING, SERVING, NOT_SERVING, SERVING, NOT_SERVING]


def test_an_end_that_comes_while_a_status_is_written_is_told_too():
    class Context:
        def __init__(self, health: HealthServicer) -> None:
            self.health = health
            self.told: list[int] = []

        async def write(self, response: health_pb2.HealthCheckResponse) -> None:
            self.told.append(response.status)
            self.health.end()

    async def run() -> list[int]:
        health = HealthServicer([""])
        health.set(serving=True)
        context = Context(health)
        await asyncio.wait_for(health.Watch(health_pb2.HealthCheckRequest(), context), 5)
        return context.told

    assert asyncio.run(run()) == [SERVING, NOT_SERVING]
