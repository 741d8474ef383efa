"""KServe v2 in tests: engines in numpy to be served as models, and tritonclient's two clients behind one face."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import tritonclient.grpc as sync_client
import tritonclient.grpc.aio as aio_client
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from helpers.doubles import DIMENSIONS, IMAGE_SIZE, LAYOUT, SETTINGS, DoubleBundle, HashingEncoder, NeighbourReranker
from helpers.serving import error_of
from radrank.core.graph import GraphBatch
from radrank.core.ports import EngineManifest
from radrank.core.shapes import batch_shapes
from radrank.engines.engine import Feed, Model, Shapes, TensorSpec

VOCABULARY = 100
EDGES = tuple(f"candidate_{m}.{part}" for m in ("image", "report") for part in ("idx", "weight"))
RERANKED = ("candidate", "image", "report", "base", "mask", *EDGES)
Run = Callable[[Feed], dict[str, NDArray[Any]]]
CALL_SECONDS = 20.0


@dataclass(kw_only=True)
class EngineDouble:
    """An Engine that calls a function, and remembers the feeds."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    answer: Run
    manifest: EngineManifest = EngineManifest(sha256="a" * 64, precision="fp32", runtime="numpy")  # noqa: RUF009
    feeds: list[Feed] = field(default_factory=list)

    def warm_up(self, feeds: Iterable[Feed]) -> None:
        pass

    def run(self, feed: Feed) -> dict[str, NDArray[Any]]:
        self.feeds.append(feed)
        return self.answer(feed)

    def close(self) -> None:
        pass


def served_bundle() -> DoubleBundle:
    """Doubles with three engines: encoders of at most 4 requests at once, and a re-ranker of 3 or 6 candidates."""
    encoder = HashingEncoder()
    words = np.random.default_rng(3).normal(size=(VOCABULARY, DIMENSIONS)).astype(np.float32)
    vectors = [spec("vectors", np.float32, -1, DIMENSIONS)]
    shapes = [batch_shapes(LAYOUT, SETTINGS, graphs=b, candidates=k) for b in (1, 2) for k in (3, 6)]
    taken = [{name: each[name] for name in RERANKED} for each in shapes]
    made = [
        _served(
            "image_encoder",
            [spec("pixels", np.uint8, -1, IMAGE_SIZE, IMAGE_SIZE)],
            vectors,
            [{"pixels": (b, IMAGE_SIZE, IMAGE_SIZE)} for b in (1, 4)],
            lambda feed: {"vectors": encoder.encode_images(feed["pixels"])},
        ),
        _served(
            "text_encoder",
            [spec("ids", np.int64, -1, -1)],
            vectors,
            [{"ids": (b, t)} for t in (8, 16) for b in (1, 4)],
            lambda feed: {"vectors": words[feed["ids"]].mean(axis=1)},
        ),
        _served(
            "reranker_sage",
            [_table(name, taken) for name in RERANKED],
            [spec("scores", np.float32, -1, -1)],
            taken,
            _reranked,
        ),
    ]
    return DoubleBundle(
        models={model.name: model for model, _ in made},
        engines={model.name: engine for model, engine in made},
        vocabulary=VOCABULARY,
    )


def spec(name: str, dtype: Any, *shape: int) -> TensorSpec:
    return TensorSpec(name=name, dtype=np.dtype(dtype), shape=shape)


def graph_feed(candidates: int = 3, graphs: int = 1) -> dict[str, NDArray[Any]]:
    """What `reranker_sage` takes: random numbers, edges to rows that exist."""
    rng = np.random.default_rng(candidates)
    shapes = batch_shapes(LAYOUT, SETTINGS, graphs=graphs, candidates=candidates)
    feed: dict[str, NDArray[Any]] = {name: rng.random(shapes[name], dtype=np.float32) for name in RERANKED}
    for name in RERANKED:
        if name.endswith(".idx"):
            feed[name] = rng.integers(-1, shapes["image"][0], shapes[name])
    return feed


def tensor(name: str, values: Any, datatype: str = "") -> Any:
    """An input with raw contents. values: an array; text, bytes or a list of them for BYTES."""
    if isinstance(values, str | bytes):
        values = [values]
    if isinstance(values, list):
        values = np.array([v.encode() if isinstance(v, str) else v for v in values], dtype=object)
    made = sync_client.InferInput(name, list(values.shape), datatype or np_to_triton_dtype(values.dtype))
    return made.set_data_from_numpy(values)


def tensors(feed: Mapping[str, NDArray[Any]]) -> list[Any]:
    return [tensor(name, array) for name, array in feed.items()]


def refusal(call: Callable[[], Any]) -> tuple[str, str]:
    """(code, message) of a call that must fail."""
    try:
        answer = call()
    except InferenceServerException as error:
        return str(error.status()).removeprefix("StatusCode."), error.message()
    except grpc.RpcError as error:  # which the asyncio client lets pass where a stream ends
        return error_of(error)
    raise AssertionError(f"was answered: {answer}")


class SyncClient:
    """tritonclient.grpc."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._client = sync_client.InferenceServerClient(address)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def stream(self, requests: Sequence[Mapping[str, Any]]) -> list[tuple[Any, Any]]:
        """(result, error) of each request, in the order of the answers."""
        answers: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
        self._client.start_stream(lambda result, error: answers.put((result, error)))
        try:
            with suppress(InferenceServerException):  # the stream has ended; an answer says why
                for request in requests:
                    self._client.async_stream_infer(**request)
            return [answers.get(timeout=CALL_SECONDS) for _ in requests]
        finally:
            self._client.stop_stream()

    def close(self) -> None:
        self._client.close()


class AioClient:
    """tritonclient.grpc.aio, each call run to its end on a loop of its own."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._loop = asyncio.new_event_loop()
        self._client = self._run(self._connected(address))

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)
        return lambda *args, **named: self._run(method(*args, **named))

    def stream(self, requests: Sequence[Mapping[str, Any]]) -> list[tuple[Any, Any]]:
        return self._run(self._streamed(requests))

    def close(self) -> None:
        self._run(self._client.close())
        self._loop.close()

    def _run(self, awaitable: Any) -> Any:
        return self._loop.run_until_complete(asyncio.wait_for(awaitable, CALL_SECONDS))

    async def _connected(self, address: str) -> Any:
        return aio_client.InferenceServerClient(address)

    async def _streamed(self, requests: Sequence[Mapping[str, Any]]) -> list[tuple[Any, Any]]:
        async def sent() -> Any:
            for request in requests:
                yield dict(request)

        answers = []
        async for answer in self._client.stream_infer(sent()):
            answers.append(answer)
        return answers


CLIENTS: Mapping[str, Callable[[str], Any]] = {"sync": SyncClient, "asyncio": AioClient}


@contextmanager
def client_of(kind: str, address: str) -> Iterator[Any]:
    client = CLIENTS[kind](address)
    try:
        yield client
    finally:
        client.close()


def _served(
    name: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], buckets: Sequence[Shapes], answer: Run
) -> tuple[Model, EngineDouble]:
    model = Model(name=name, path=Path(f"{name}.onnx"), sha256="a" * 64, precision="fp32", buckets=buckets)
    return model, EngineDouble(inputs=tuple(inputs), outputs=tuple(outputs), answer=answer)


def _table(name: str, buckets: Sequence[Shapes]) -> TensorSpec:
    """An input whose axes vary where the buckets do."""
    sizes = zip(*(bucket[name] for bucket in buckets), strict=True)
    dtype = np.int64 if name.endswith(".idx") else np.float32
    return spec(name, dtype, *(axis[0] if len(set(axis)) == 1 else -1 for axis in sizes))


def _reranked(feed: Feed) -> dict[str, NDArray[Any]]:
    return {"scores": NeighbourReranker(0.2).score(GraphBatch(arrays=dict(feed), candidates=()))}
