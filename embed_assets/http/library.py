"""The routes of `/v1` about the library as a whole: lists, counts, the map, and a scan."""

from __future__ import annotations

import base64
from dataclasses import asdict
from http import HTTPStatus
from itertools import islice
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from starlette.exceptions import HTTPException

from embed_assets.api import Library
from embed_assets.http.context import Context
from embed_assets.http.library_models import (
    Duplicates,
    DuplicatesPage,
    ErrorRow,
    ExportedTrack,
    ExportPage,
    ListedTrack,
    LookAnswer,
    MapAnswer,
    Points,
    StatusAnswer,
    TrackPage,
)
from embed_assets.http.maps import Maps
from embed_assets.http.models import LONGEST_TEXT, MOST_RESULTS, MOST_SEEDS, Text, found_track
from embed_assets.http.problems import ERRORS
from embed_assets.http.state import counts_of, errors_of
from embed_assets.project import Project
from embed_assets.storage import looks
from embed_assets.storage.tables import Tables

MOST_LISTED = 1_000

After = Annotated[
    str, Query(max_length=2 * LONGEST_TEXT, description="`after` of the page before.")
]
Where = Annotated[list[Text], Query(max_length=MOST_SEEDS, description="As in the queries.")]


def about_library(context: Context) -> APIRouter:
    """The routes about the library."""
    routes = APIRouter(prefix="/v1", tags=["library"], responses=ERRORS)
    library, maps = context.library, Maps()

    @routes.get("/tracks")
    def tracks(
        q: Annotated[
            str, Query(max_length=LONGEST_TEXT, description="Words of title, artist and path.")
        ] = "",
        after: After = "",
        n: Annotated[int, Query(ge=1, le=MOST_LISTED)] = 100,
    ) -> TrackPage:
        """Indexed tracks, ordered by path, in pages."""
        found = list(islice(library.snapshot().listed(q, after), n + 1))
        page = [ListedTrack(**_listed(row)) for row in found[:n]]
        return TrackPage(tracks=page, after=page[-1].path if len(found) > n else None)

    @routes.get("/duplicates")
    def duplicates(
        least: Annotated[
            float | None,
            Query(ge=-1, le=1, description="Lowest cosine of a pair; default: the encoder's."),
        ] = None,
        where: Where = [],  # noqa: B006
        after: Annotated[int, Query(ge=0, le=2**53)] = 0,
        n: Annotated[int, Query(ge=1, le=MOST_RESULTS)] = 100,
    ) -> DuplicatesPage:
        """Identical audio, and pairs that may be the same recording, in pages."""
        found = library.snapshot().duplicates(least, where=where)
        page = found[after : after + n]
        # Of each file its own id: copies are what this is about.
        matches = (match for one in page for match in one.tracks)
        ids, notes = context.ids_and_notes(matches, copies=False)
        groups = [
            Duplicates(
                certain=one.certain,
                score=min(1.0, one.score),
                tracks=[found_track(m, ids.get(m.track_id)) for m in one.tracks],
            )
            for one in page
        ]
        return DuplicatesPage(
            groups=groups, notes=notes, after=after + n if len(found) > after + n else None
        )

    @routes.get("/map")
    def map_of_library(by: Literal["", "genre", "folder"] = "") -> MapAnswer:
        """Where each track is on the map; similar tracks are close."""
        found, drawing = maps.newest(library.snapshot(), by)
        values = asdict(found)
        points = Points(**{name: values.pop(name) for name in Points.model_fields})
        return MapAnswer(points=points, drawing=drawing, **values)

    @routes.get("/export")
    def export(
        after: After = "",
        n: Annotated[int, Query(ge=1, le=MOST_RESULTS)] = 100,
        vectors: Literal["", "base64"] = "",
    ) -> ExportPage:
        """Every indexed track with its tags and, if asked for, its vector, in pages.

        As long as nothing is indexed the answer is 503, never an empty page.
        """
        snapshot = library.snapshot()
        found = list(islice(snapshot.listed(after=after), n + 1))
        ids = [row["track_id"] for row in found[:n]]
        known = snapshot.vectors(ids) if vectors else {}
        page = [
            ExportedTrack(
                **_listed(row),
                vector=base64.b64encode(known[track].astype("<f4").tobytes()).decode()
                if track in known
                else "",
            )
            for track, row in zip(ids, found, strict=False)
        ]
        return ExportPage(
            tracks=page,
            after=page[-1].path if len(found) > n else None,
            served=snapshot.collection,
            encoder=snapshot.encoder,
        )

    @routes.get("/errors")
    def errors() -> list[ErrorRow]:
        """Rejected tracks and failed folders, with the reason."""
        return errors_of(library)

    @routes.get("/status")
    def status() -> StatusAnswer:
        """How many tracks are indexed, by the tables; the library is not walked for it."""
        return counts_of(context)

    @routes.post("/look", status_code=HTTPStatus.ACCEPTED)
    def look(
        server: Annotated[
            str, Query(max_length=32, description="A music server whose ids are refreshed too.")
        ] = "",
    ) -> LookAnswer:
        """Scan the library now; for the hooks of taggers and music servers, and for cron.

        Returns at once. Requests before the scan begins are one. Without a running `up`, the next
        `up` or `sync` scans.
        """
        if server:
            context.ids.list_soon(server)
        return _look(looks.request(_tables(library)))

    @routes.get("/look/{look}")
    def look_state(look: int) -> LookAnswer:
        """What became of a request to scan."""
        found = looks.find(_tables(library), look) if abs(look) < 2**53 else None
        if found is None:
            raise HTTPException(HTTPStatus.NOT_FOUND, f"there is no look {look}")
        return _look(found)

    return routes


def _listed(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ListedTrack.model_fields}


def _tables(library: Library) -> Tables:
    return Project.of(library.settings).tables


def _look(found: looks.Look) -> LookAnswer:
    return LookAnswer(
        look=found.id,
        requested_at=found.requested_at,
        begun_at=found.begun_at,
        done_at=found.done_at,
    )
