"""A radrank server that makes its answers up, and remembers what it was asked."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from radrank.v1 import archive_pb2, archive_pb2_grpc, retrieval_pb2, retrieval_pb2_grpc, types_pb2

DIMENSIONS = 8
PROVENANCE = types_pb2.Provenance(
    snapshot_sha256="5" * 64,
    bundle_sha256="b" * 64,
    encoder_sha256="e" * 64,
    reranker_sha256="a" * 64,
    reranker="sage",
    precision="fp32",
    runtime="onnxruntime-cpu 1.31.1",
    archive_sequence=7,
)
TIMES = types_pb2.StageTimes(
    decode_us=1200, encode_us=8100, candidates_us=240, graph_us=910, rerank_us=1730, order_us=60, total_us=12300
)
REPORTS = [
    "Moderate left pleural effusion with adjacent basilar atelectasis. Heart size upper limits of normal.",
    "Small bilateral effusions, left greater than right. No pneumothorax. Mild interstitial oedema.",
    "Heart size and mediastinal contours are within normal limits. No acute cardiopulmonary abnormality.",
    "Left lower lobe airspace opacity, likely pneumonia. Follow-up after treatment is recommended.",
    "Cardiomegaly with pulmonary vascular congestion. Blunting of the left costophrenic angle.",
    "Stable postoperative changes. Blunted left costophrenic angle, unchanged since the prior study.",
]
LABELS = [["pleural_effusion", "atelectasis"], ["pleural_effusion"], [], ["opacity"], ["cardiomegaly"], ["scarring"]]


def radiograph(seed: int, size: tuple[int, int] = (420, 512)) -> bytes:
    """A PNG that looks, from afar, like a chest."""
    draw = np.random.default_rng(seed)
    width, height = size
    image = Image.new("L", size, 40)
    pen = ImageDraw.Draw(image)
    pen.ellipse((width * 0.08, height * 0.1, width * 0.92, height * 1.1), fill=150)
    for left in (0.17, 0.54):
        top = 0.16 + 0.04 * draw.random()
        pen.ellipse((width * left, height * top, width * (left + 0.29), height * (0.76 + 0.1 * draw.random())), fill=45)
    pen.ellipse((width * 0.42, height * 0.5, width * (0.66 + 0.1 * draw.random()), height * 0.8), fill=185)
    blurred = np.asarray(image.filter(ImageFilter.GaussianBlur(9)), np.float32)
    noisy = np.clip(blurred + draw.normal(0, 5, blurred.shape), 0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(noisy).save(out, "PNG")
    return out.getvalue()


def _has_gone(context):
    """Whether the caller has cancelled: a cancelled call's requests may end a moment before that is told."""
    end = time.monotonic() + 0.1
    while context.is_active() and time.monotonic() < end:
        time.sleep(0.005)
    return not context.is_active()


class FakeServer(retrieval_pb2_grpc.RetrievalServicer, archive_pb2_grpc.ArchiveServicer):
    """Answers every call; `fails` makes the next calls fail, `asked` and `metadata` hold the last request."""

    def __init__(self) -> None:
        self.asked: Any = None
        self.metadata: dict[str, str] = {}
        self.fails: tuple[grpc.StatusCode, str] | None = None
        self.trailing: tuple[tuple[str, str], ...] = ()
        self.embed_calls: list[int] = []
        self.upserted: list[str] = []
        self.upserting = threading.Event()
        self.aborted = threading.Event()
        self.health = b"\x08\x01"
        self.slow = 0.0

    def _note(self, request: Any, context: grpc.ServicerContext) -> None:
        self.asked = request
        self.metadata = {str(key): str(value) for key, value in context.invocation_metadata()}
        if self.slow:
            threading.Event().wait(self.slow)
        if self.fails is not None:
            context.set_trailing_metadata(self.trailing)
            context.abort(*self.fails)

    def Search(self, request, context):  # noqa: N802
        self._note(request, context)
        return self.answer(request)

    def answer(self, request):
        target = request.target or types_pb2.MODALITY_IMAGE
        before = [2, 5, 1, 3, 4, 12]
        hits = [
            retrieval_pb2.Hit(
                study_id=f"CXR{1000 + 37 * place}",
                image_id="0" if target == types_pb2.MODALITY_IMAGE else "",
                rank=place + 1,
                candidate_rank=before[place % 6],
                score=0.912 - 0.043 * place,
                cosine=0.78 - 0.02 * before[place % 6],
                report=REPORTS[place % 6] if request.include_report else "",
                labels=LABELS[place % 6] if request.include_labels else [],
                normal=(place % 6 == 2) if request.include_labels and place % 6 != 5 else None,
                preview=radiograph(place) if request.include_preview else b"",
                view=types_pb2.VIEW_PA if target == types_pb2.MODALITY_IMAGE else types_pb2.VIEW_UNSPECIFIED,
            )
            for place in range(min(request.k, 6))
        ]
        return retrieval_pb2.SearchResponse(
            hits=hits, times=TIMES, provenance=PROVENANCE, query_modality=types_pb2.MODALITY_REPORT, target=target
        )

    def SearchStream(self, requests, context):  # noqa: N802
        for request in requests:
            self.asked = request
            if request.search.k > 1000:
                error = retrieval_pb2.StreamError(code=3, message="k: must be 1 to 1,000")
                yield retrieval_pb2.SearchStreamResponse(tag=request.tag, error=error)
            else:
                yield retrieval_pb2.SearchStreamResponse(tag=request.tag, search=self.answer(request.search))

    def Embed(self, request, context):  # noqa: N802
        self._note(request, context)
        self.embed_calls.append(len(request.queries))
        rows = []
        for query in request.queries:
            row = np.zeros(DIMENSIONS, "<f4")
            row[len(query.text or query.image) % DIMENSIONS] = 1.0
            rows.append(row.tobytes())
        return retrieval_pb2.EmbedResponse(vectors=rows, dimensions=DIMENSIONS, provenance=PROVENANCE)

    def Screen(self, request, context):  # noqa: N802
        self._note(request, context)
        voters = 0 if request.query.text == "nobody" else 9
        return retrieval_pb2.ScreenResponse(
            abnormal_probability=0.875, abnormal_vote=0.75, voters=voters, times=TIMES, provenance=PROVENANCE
        )

    def GetStudy(self, request, context):  # noqa: N802
        self._note(request, context)
        if request.study_id == "nobody":
            context.abort(grpc.StatusCode.NOT_FOUND, "no such study")
        preview = radiograph(3) if request.include_previews else b""
        return retrieval_pb2.GetStudyResponse(
            study_id=request.study_id,
            patient_id="P9",
            findings=REPORTS[0],
            impression="Left pleural effusion.",
            labels=LABELS[0],
            normal=False,
            date=types_pb2.Date(year=2168, month=2, day=29),
            images=[retrieval_pb2.StudyImagePreview(image_id="0", view=types_pb2.VIEW_LATERAL, preview=preview)],
        )

    def Upsert(self, requests, context):  # noqa: N802
        context.add_callback(lambda: None if context.code() else self.aborted.set())
        self.upserting.set()
        studies = [request.study for request in requests]
        self._note(studies, context)
        if _has_gone(context):
            return archive_pb2.UpsertResponse()
        self.upserted.extend(study.study_id for study in studies)
        return archive_pb2.UpsertResponse(added=len(studies), replaced=0, sequence=8)

    def Delete(self, request, context):  # noqa: N802
        self._note(request, context)
        return archive_pb2.DeleteResponse(deleted=len(request.study_ids) - 1, unknown=1, sequence=9)

    def Stats(self, request, context):  # noqa: N802
        self._note(request, context)
        counts = [("pleural_effusion", 412), ("cardiomegaly", 268), ("opacity", 97)]
        return archive_pb2.StatsResponse(
            studies=3851,
            images=7466,
            reports=3826,
            normal=1379,
            abnormal=2470,
            labels=[archive_pb2.LabelCount(label=label, studies=studies) for label, studies in counts],
            sequence=7,
            unindexed_studies=3,
            dimensions=DIMENSIONS,
            rerankers=["sage", "gat"],
            default_reranker="sage",
            provenance=PROVENANCE,
        )

    def check(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self._note(request, context)
        return self.health


@pytest.fixture
def fake() -> FakeServer:
    return FakeServer()


@pytest.fixture
def address(fake: FakeServer) -> Iterator[str]:
    limit = 64 * 2**20
    server = grpc.server(
        futures.ThreadPoolExecutor(4),
        options=[("grpc.max_receive_message_length", limit), ("grpc.max_send_message_length", limit)],
    )
    retrieval_pb2_grpc.add_RetrievalServicer_to_server(fake, server)
    archive_pb2_grpc.add_ArchiveServicer_to_server(fake, server)
    health = {"Check": grpc.unary_unary_rpc_method_handler(fake.check)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("grpc.health.v1.Health", health),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(1.0).wait()


@pytest.fixture
def chest() -> bytes:
    """A PNG."""
    return radiograph(99)
