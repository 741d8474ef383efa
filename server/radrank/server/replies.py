"""From core's types to the contract's messages."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import numpy as np

from radrank.core.archive import Archive, ArchiveCounts
from radrank.core.columns import VIEW_CODES
from radrank.core.errors import NotFound
from radrank.core.ports import EngineManifest
from radrank.core.ranking import OFF, Hit, Ranking, Screening, StageTimes
from radrank.core.records import Record
from radrank.core.studies import Modality, Study
from radrank.core.vectors import Matrix
from radrank.server.fields import MODALITY_NUMBERS, VIEW_NUMBERS
from radrank.server.library import Edition
from radrank.v1 import archive_pb2, retrieval_pb2, types_pb2

_NUMBER_OF_CODE = {code: VIEW_NUMBERS[view] for view, code in VIEW_CODES.items()}


def search_response(
    request: retrieval_pb2.SearchRequest, ranking: Ranking, *, edition: Edition, archive: Archive, start_ns: int
) -> retrieval_pb2.SearchResponse:
    """A search's answer. start_ns: `time.perf_counter_ns()` of the request's arrival."""
    return retrieval_pb2.SearchResponse(
        hits=list(_hits(request, ranking, archive)),
        provenance=_provenance(
            edition,
            ranking.encoder,
            ranking.reranker_manifest,
            name="" if ranking.reranker == OFF else ranking.reranker,
        ),
        degraded=ranking.degraded,
        query_modality=MODALITY_NUMBERS[ranking.query_modality],
        target=MODALITY_NUMBERS[ranking.target],
        times=_times(ranking.times, start_ns),
    )


def embed_response(vectors: Matrix, edition: Edition, encoder: EngineManifest) -> retrieval_pb2.EmbedResponse:
    """Vectors [n, d] as bytes."""
    return retrieval_pb2.EmbedResponse(
        vectors=[np.ascontiguousarray(vector, dtype="<f4").tobytes() for vector in vectors],
        dimensions=edition.ranker.encoder.layout.dimensions,
        provenance=_provenance(edition, encoder, None),
    )


def screen_response(screening: Screening, *, edition: Edition, start_ns: int) -> retrieval_pb2.ScreenResponse:
    """Both opinions."""
    return retrieval_pb2.ScreenResponse(
        abnormal_probability=screening.abnormal,
        abnormal_vote=screening.vote,
        voters=screening.voters,
        provenance=_provenance(edition, screening.encoder, None),
        times=_times(screening.times, start_ns),
    )


def study_response(record: Record, *, previews: bool) -> retrieval_pb2.GetStudyResponse:
    """A study of the archive. previews: its images carry theirs."""
    study = record.study
    return retrieval_pb2.GetStudyResponse(
        study_id=study.study_id,
        patient_id=study.patient_id,
        findings=study.findings,
        impression=study.impression,
        labels=study.labels,
        normal=study.normal,
        date=_date(study),
        images=[
            retrieval_pb2.StudyImagePreview(
                image_id=image.image_id,
                view=VIEW_NUMBERS[image.view],
                preview=image.read() if previews else b"",
            )
            for image in study.images
        ],
    )


def stats_response(counts: ArchiveCounts, edition: Edition) -> archive_pb2.StatsResponse:
    """What the archive holds and what serves it."""
    ranker = edition.ranker
    return archive_pb2.StatsResponse(
        studies=counts.studies,
        images=counts.images,
        reports=counts.reports,
        normal=counts.normal,
        abnormal=counts.abnormal,
        labels=[archive_pb2.LabelCount(label=label, studies=n) for label, n in counts.labels],
        sequence=ranker.view.sequence,
        unindexed_studies=ranker.view.fresh_studies,
        dimensions=ranker.encoder.layout.dimensions,
        rerankers=sorted(ranker.rerankers),
        default_reranker=ranker.default_reranker,
        provenance=_provenance(edition, ranker.encoder.manifests[Modality.IMAGE], None),
    )


def _hits(request: retrieval_pb2.SearchRequest, ranking: Ranking, archive: Archive) -> Iterable[retrieval_pb2.Hit]:
    asks_words = request.include_report or request.include_labels
    names = _image_ids(ranking, archive)
    for hit, image_id in zip(ranking.hits, names, strict=True):
        if image_id is None:
            continue  # deleted since this search began: what is withdrawn is not shown
        reply = retrieval_pb2.Hit(
            study_id=hit.study_id,
            image_id=image_id,
            rank=hit.rank,
            score=hit.score,
            candidate_rank=hit.candidate_rank,
            cosine=hit.cosine,
        )
        if ranking.target is Modality.IMAGE:
            reply.view = _NUMBER_OF_CODE[hit.view]
        try:
            if asks_words or (request.include_preview and ranking.target is Modality.REPORT):
                study = archive.record(hit.study_id).study
                _describe(reply, study, request)
                if request.include_preview:
                    reply.preview = _preview(archive, hit, study if ranking.target is Modality.REPORT else None)
            elif request.include_preview:
                reply.preview = _preview(archive, hit, None)
        except NotFound:
            continue
        yield reply


def _image_ids(ranking: Ranking, archive: Archive) -> Sequence[str | None]:
    if ranking.target is Modality.REPORT:
        return [""] * len(ranking.hits)
    return archive.image_ids([(hit.study_id, hit.position) for hit in ranking.hits])


def _describe(reply: retrieval_pb2.Hit, study: Study, request: retrieval_pb2.SearchRequest) -> None:
    if request.include_report:
        reply.report = study.report
    if request.include_labels:
        reply.labels.extend(study.labels)
        if study.normal is not None:
            reply.normal = study.normal


def _preview(archive: Archive, hit: Hit, of_report: Study | None) -> bytes:
    """Of the study's primary image: a found image is that; the study of a found report may have none."""
    if of_report is None:
        return archive.preview(hit.study_id, hit.position)
    primary = of_report.primary_image
    return b"" if primary is None else archive.preview(hit.study_id, of_report.images.index(primary))


def _provenance(
    edition: Edition, encoder: EngineManifest | None, reranker: EngineManifest | None, *, name: str = ""
) -> types_pb2.Provenance:
    engines = [manifest for manifest in (encoder, reranker) if manifest]
    return types_pb2.Provenance(
        snapshot_sha256=edition.ranker.view.snapshot.sha256,
        bundle_sha256=edition.bundle_sha256,
        encoder_sha256=encoder.sha256 if encoder else "",
        reranker_sha256=reranker.sha256 if reranker else "",
        reranker=name if reranker else "",
        precision=", ".join(dict.fromkeys(manifest.precision for manifest in engines)),
        runtime=", ".join(dict.fromkeys(manifest.runtime for manifest in engines)),
        archive_sequence=edition.ranker.view.sequence,
    )


def _times(times: StageTimes, start_ns: int) -> types_pb2.StageTimes:
    return types_pb2.StageTimes(
        decode_us=times.decode,
        encode_us=times.encode,
        candidates_us=times.candidates,
        graph_us=times.graph,
        rerank_us=times.rerank,
        order_us=times.order,
        total_us=(time.perf_counter_ns() - start_ns) // 1_000,
    )


def _date(study: Study) -> types_pb2.Date | None:
    day = study.date
    return None if day is None else types_pb2.Date(year=day.year, month=day.month, day=day.day)
