"""The queries of `/v1`: each sees one snapshot of the index."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from http import HTTPStatus
from itertools import islice
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from starlette.exceptions import HTTPException

from embed_assets.http.context import Context
from embed_assets.http.models import (
    MOST_PHRASES,
    MOST_RESULTS,
    MOST_SEEDS,
    Answer,
    ArtistsAnswer,
    ArtistsQuery,
    FindQuery,
    FoundArtist,
    PartsQuery,
    PathQuery,
    Phrase,
    RadioQuery,
    SimilarQuery,
    Text,
    found_track,
)
from embed_assets.http.problems import ERRORS
from embed_assets.index.nearest import Match
from embed_assets.search.answers import Result
from embed_assets.search.names import Found, notes_of
from embed_assets.search.playlist import m3u_text

M3U = "audio/x-mpegurl"

_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"model": Answer, "content": {M3U: {"schema": {"type": "string"}}}},
    **ERRORS,
}

Format = Annotated[
    Literal["json", "m3u"] | None,
    Query(alias="format", description="`m3u`: a playlist, as with `Accept: audio/x-mpegurl`."),
]


def queries(context: Context) -> APIRouter:
    """The routes of the queries."""
    routes = APIRouter(prefix="/v1", tags=["queries"])
    library = context.library

    @routes.post("/similar", responses=_ANSWERS, response_model=Answer)
    def similar(request: Request, query: SimilarQuery, as_format: Format = None) -> Response:
        """The tracks nearest to the mean of the seeds, best first."""
        snapshot = library.snapshot()
        seeds, avoid = context.named(snapshot, query.seeds), context.named(snapshot, query.avoid)
        without = set(query.exclude)
        result = snapshot.similar(
            tracks=_ids(seeds),
            avoid=_ids(avoid),
            n=query.n + len(without),
            where=query.where,
            per_artist=query.per_artist,
            one_recording=query.one_recording,
        )
        kept = (m for m in result if m.track_id not in without and m.score >= query.least)
        return _answer(context, request, as_format, result, islice(kept, query.n), (*seeds, *avoid))

    @routes.get("/similar", responses=_ANSWERS, response_model=Answer)
    def similar_to(
        request: Request,
        seed: Annotated[list[Text], Query(min_length=1, max_length=MOST_SEEDS)],
        n: Annotated[int, Query(ge=1, le=MOST_RESULTS)] = 20,
        where: Annotated[list[Text], Query(max_length=MOST_SEEDS)] = [],  # noqa: B006
        as_format: Format = None,
    ) -> Response:
        """The same, for simple queries."""
        return similar(request, SimilarQuery(seeds=list(seed), n=n, where=where), as_format)

    @routes.post("/path", responses=_ANSWERS, response_model=Answer)
    def path(request: Request, query: PathQuery, as_format: Format = None) -> Response:
        """A smooth path from one track to another; scores are cosines to the track before."""
        snapshot = library.snapshot()
        ends = context.named(snapshot, [query.start, query.end])
        first, last = (found.tracks[0] for found in ends)
        if first.audio == last.audio:
            raise HTTPException(HTTPStatus.CONFLICT, "both ends of the path are the same audio")
        result = snapshot.path(
            first.track_id,
            last.track_id,
            query.steps,
            where=query.where,
            one_recording=query.one_recording,
        )
        return _answer(context, request, as_format, result, result, ends)

    @routes.post("/radio", responses=_ANSWERS, response_model=Answer)
    def radio(request: Request, query: RadioQuery, as_format: Format = None) -> Response:
        """The next tracks of a radio; scores are cosines to the track before."""
        snapshot = library.snapshot()
        seeds = context.named(snapshot, query.seeds)
        drift = snapshot.drift(
            tracks=_ids(seeds),
            drift=query.drift,
            seed=query.random,
            where=query.where,
            one_recording=query.one_recording,
        )
        played = set(query.played)
        new = (m for m in drift if m.track_id not in played)
        return _answer(context, request, as_format, drift.result, islice(new, query.n), seeds)

    @routes.post("/parts", responses=_ANSWERS, response_model=Answer)
    def parts(request: Request, query: PartsQuery, as_format: Format = None) -> Response:
        """The tracks with a part that sounds like a part of the seeds, and where it is."""
        snapshot = library.snapshot()
        seeds = context.named(snapshot, query.seeds)
        result = snapshot.parts(
            tracks=_ids(seeds),
            n=query.n,
            part=query.part or None,
            where=query.where,
            per_artist=query.per_artist,
            one_recording=query.one_recording,
        )
        return _answer(context, request, as_format, result, result, seeds)

    @routes.post("/find", responses=_ANSWERS, response_model=Answer)
    def find(request: Request, query: FindQuery, as_format: Format = None) -> Response:
        """The tracks that sound most like what phrases say, best first; see docs/words.md.

        The first query of a while loads a model, for some seconds.
        """
        snapshot = library.snapshot()
        like = context.named(snapshot, query.like)
        result = snapshot.find(
            query.phrases,
            query.n,
            without=query.without,
            like=_ids(like),
            where=query.where,
            per_artist=query.per_artist,
            one_recording=query.one_recording,
        )
        return _answer(context, request, as_format, result, result, like)

    @routes.get("/find", responses=_ANSWERS, response_model=Answer)
    def find_by(
        request: Request,
        q: Annotated[list[Phrase], Query(min_length=1, max_length=MOST_PHRASES)],
        without: Annotated[list[Phrase], Query(alias="not", max_length=MOST_PHRASES)] = [],  # noqa: B006
        n: Annotated[int, Query(ge=1, le=MOST_RESULTS)] = 20,
        where: Annotated[list[Text], Query(max_length=MOST_SEEDS)] = [],  # noqa: B006
        as_format: Format = None,
    ) -> Response:
        """The same, for simple queries."""
        query = FindQuery(phrases=list(q), without=list(without), n=n, where=where)
        return find(request, query, as_format)

    @routes.post("/artists", responses=ERRORS)
    def artists(query: ArtistsQuery) -> ArtistsAnswer:
        """The artists whose music sounds most like an artist's, best first."""
        found = library.snapshot().artists(query.artist, query.n, query.songs)
        matches = [*found.tracks, *(m for one in found.artists for m in one.tracks)]
        ids, notes = context.ids_and_notes(matches)
        return ArtistsAnswer(
            artist=found.artist,
            tracks=[found_track(m, ids.get(m.track_id)) for m in found.tracks],
            artists=[
                FoundArtist(
                    artist=one.artist,
                    score=one.score,
                    tracks=[found_track(m, ids.get(m.track_id)) for m in one.tracks],
                )
                for one in found.artists
            ],
            notes=[*found.notes, *notes],
        )

    return routes


def _ids(found: Iterable[Found]) -> list[str]:
    return [track.track_id for one in found for track in one.tracks]


def _answer(
    context: Context,
    request: Request,
    as_format: str | None,
    result: Result,
    matches: Iterable[Match],
    named: Sequence[Found],
) -> Response:
    found = tuple(matches)
    if as_format == "m3u" or (as_format is None and M3U in request.headers.get("accept", "")):
        text, _ = m3u_text(result.library, found)
        return Response(text, media_type=f"{M3U}; charset=utf-8")
    ids, notes = context.ids_and_notes(found)
    answer = Answer.of(result, found, [f.name for f in named], [*notes_of(named), *notes], ids)
    # As a response: FastAPI would validate the answer again, in another thread.
    return Response(answer.model_dump_json(), media_type="application/json")
