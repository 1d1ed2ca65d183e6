"""`/api`: answers in the form of AudioMuse-AI, for the plugins of music servers that speak it.

An id in questions and answers is the music server's: of the server that the parameter `server`
names, or of the first of EMBED_SERVERS; a track id of ours is understood as well. Without
EMBED_SERVERS, ids are track ids. `distance` is 1 - cosine. What those plugins can ask and what has
no meaning here is answered with 501.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from embed_assets.errors import ConfigurationError, NotFound
from embed_assets.formats import counted
from embed_assets.http.audiomuse_view import PER_ARTIST, Ingredient, Row, ServerView
from embed_assets.http.context import Context
from embed_assets.http.models import LONGEST_TEXT, MOST_EXCLUDED, MOST_RESULTS, MOST_SEEDS
from embed_assets.project import Project
from embed_assets.storage import looks

MOST_MIXED = 200
"""Most results of an alchemy."""

Name = Annotated[str, Query(max_length=LONGEST_TEXT)]
Number = Annotated[int, Query(ge=1)]


class Alchemy(BaseModel):
    """A query for tracks like some and unlike others."""

    items: Annotated[list[Ingredient], Field(max_length=MOST_SEEDS)]
    n: Annotated[int, Field(ge=1)] = 100
    server: str = ""


class Seed(BaseModel):
    """A query for tracks like one."""

    item_id: Annotated[str, Field(min_length=1, max_length=256)]
    limit: Annotated[int, Field(ge=1)] = 100
    server: str = ""


class NewPlaylist(BaseModel):
    """A playlist to write to the music server, by its ids."""

    playlist_name: Annotated[str, Field(min_length=1, max_length=200)]
    track_ids: Annotated[list[str], Field(min_length=1, max_length=MOST_EXCLUDED)]
    server: str = ""


def audiomuse(context: Context) -> APIRouter:
    """The routes of `/api`; they are documented elsewhere, so not in our OpenAPI document."""
    routes = APIRouter(include_in_schema=False)
    for part in (_about_tracks, _about_lists, _about_tasks):
        routes.include_router(part(context))
    _without_meaning(routes)
    return routes


def _about_tracks(context: Context) -> APIRouter:
    routes = APIRouter(prefix="/api")

    @routes.get("/similar_tracks")
    def similar_tracks(
        item_id: Name = "",
        title: Name = "",
        artist: Name = "",
        n: Number = 10,
        eliminate_duplicates: bool = False,  # noqa: FBT001, FBT002  # a parameter of the query
        server: Name = "",
    ) -> list[Row]:
        view = ServerView(context, server)
        seed = view.track(item_id) if item_id else view.called(title, artist)
        return view.similar([seed], (), n, per_artist=PER_ARTIST if eliminate_duplicates else 0)

    @routes.get("/find_path")
    def find_path(
        start_song_id: Name,
        end_song_id: Name,
        max_steps: Annotated[int, Query(ge=2)] = 25,
        server: Name = "",
    ) -> Row:
        view = ServerView(context, server)
        first, last = (view.track(one).tracks[0] for one in (start_song_id, end_song_id))
        steps = min(max_steps, MOST_RESULTS)
        way = view.snapshot.path(first.track_id, last.track_id, steps)
        rows = view.rows(way)
        return {"path": rows, "total_distance": round(sum(row["distance"] for row in rows), 6)}

    @routes.get("/similar_artists")
    def similar_artists(
        artist: Name = "",
        artist_id: Name = "",
        n: Number = 10,
        include_component_matches: bool = False,  # noqa: FBT001, FBT002
        server: Name = "",
    ) -> list[Row]:
        view = ServerView(context, server)
        # Navidrome's plugin sends the id of the artist as its name.
        name = view.artist(artist_id or artist)
        found = view.snapshot.artists(name, min(n, MOST_RESULTS))
        own = view.rows(found.tracks)
        answer = []
        for one in found.artists:
            row: Row = {
                "artist": one.artist,
                "artist_id": view.artist_id(one.artist),
                "divergence": round(1 - one.score, 6),
            }
            if include_component_matches:
                row["component_matches"] = [
                    {
                        "artist1_representative_songs": own,
                        "artist2_representative_songs": view.rows(one.tracks),
                    }
                ]
            answer.append(row)
        return answer

    @routes.get("/max_distance")
    def max_distance(item_id: Name, server: Name = "") -> Row:
        view = ServerView(context, server)
        farthest = view.snapshot.farthest(view.track(item_id).tracks[0].track_id)
        rows = view.rows([farthest] if farthest else [])
        return {
            "max_distance": rows[0]["distance"] if rows else 0.0,
            "farthest_item_id": rows[0]["item_id"] if rows else None,
        }

    @routes.post("/alchemy")
    def alchemy(query: Alchemy) -> Row:
        view = ServerView(context, query.server)
        found = {op: [view.ingredient(one) for one in query.items if one.op == op] for op in _OPS}
        if not found["ADD"]:
            raise HTTPException(HTTPStatus.BAD_REQUEST, "name at least one item with op ADD")
        rows = view.similar(found["ADD"], found["SUBTRACT"], min(query.n, MOST_MIXED))
        return {"results": rows, "filtered_out": [], "centroid_2d": None}

    @routes.post("/sem_grove/search")
    def sem_grove(query: Seed) -> Row:
        view = ServerView(context, query.server)
        seed = view.track(query.item_id)
        own = view.rows(view.snapshot.matches([t.track_id for t in seed.tracks[:1]]))
        found = [row | {"is_seed": True} for row in own]
        return {"results": found + view.similar([seed], (), query.limit)}

    @routes.post("/hyperbolic/similar")
    def hyperbolic(query: Seed) -> Row:
        view = ServerView(context, query.server)
        return {"results": view.similar([view.track(query.item_id)], (), query.limit)}

    return routes


_OPS = "ADD", "SUBTRACT"


def _about_lists(context: Context) -> APIRouter:
    routes = APIRouter(prefix="/api")

    @routes.get("/search_tracks")
    def search_tracks(
        title: Name = "", artist: Name = "", search_query: Name = "", server: Name = ""
    ) -> list[Row]:
        view = ServerView(context, server)
        words = " ".join(filter(None, (title, artist, search_query)))
        return view.search(words) if words.strip() else []

    @routes.get("/track")
    def track(item_id: Name, server: Name = "") -> Row:
        view = ServerView(context, server)
        rows = view.rows(view.snapshot.matches([view.track(item_id).tracks[0].track_id]))
        if not rows:
            raise NotFound(f"the music server {view.server} does not have the track {item_id!r}")
        return rows[0]

    @routes.post("/create_playlist", status_code=HTTPStatus.CREATED)
    def create_playlist(query: NewPlaylist) -> Row:
        view = ServerView(context, query.server)
        if not view.server:
            raise ConfigurationError("EMBED_SERVERS names no music server to write a playlist to")
        made = context.put_playlist(view.server, query.playlist_name, query.track_ids)
        tracks = counted(len(query.track_ids), "track")
        message = f"the playlist {query.playlist_name!r} on {view.server} has {tracks}"
        return {"message": message, "playlist_id": made}

    @routes.get("/playlists")
    def playlists() -> Row:
        # Those that AudioMuse made by itself; nothing here makes any.
        return {}

    @routes.get("/config")
    def config() -> Row:
        return {"app": "embed_assets", "encoder": context.library.snapshot().encoder}

    return routes


def _about_tasks(context: Context) -> APIRouter:
    """A task is a look: a scan of the library that was asked for."""
    routes = APIRouter(prefix="/api")
    tables = Project.of(context.library.settings).tables

    @routes.get("/health")
    def health() -> Row:
        return {"status": "ok"}

    @routes.get("/active_tasks")
    def active_tasks() -> Row:
        newest = looks.newest(tables)
        return _task(newest) if newest and newest.done_at is None else {}

    @routes.get("/last_task")
    def last_task() -> Row:
        newest = looks.newest(tables)
        return _task(newest) if newest else {"task_id": None, "status": "NO_PREVIOUS_MAIN_TASK"}

    @routes.get("/status/{task}")
    def status(task: str) -> Row:
        number = task.removeprefix("look-")
        found = looks.find(tables, int(number)) if number.isdecimal() and len(number) < 15 else None
        if found is None:
            raise NotFound(f"there is no task {task!r}")
        return _task(found)

    @routes.post("/analysis/start", status_code=HTTPStatus.ACCEPTED)
    def analysis_start() -> Row:
        for name in context.ids.servers:
            context.ids.list_soon(name)
        found = looks.request(tables)
        return {"task_id": f"look-{found.id}", "task_type": "main_analysis", "status": "queued"}

    return routes


def _task(look: looks.Look) -> Row:
    if look.done_at is not None:
        state, progress, message = "SUCCESS", 100, "the library was scanned"
    elif look.begun_at is not None:
        state, progress, message = "PROGRESS", 50, "the library is being scanned"
    else:
        state, progress, message = "PENDING", 0, "the library will be scanned"
    begun = look.begun_at or look.requested_at
    return {
        "task_id": f"look-{look.id}",
        "task_type": "main_analysis",
        "status": state,
        "progress": progress,
        "running_time_seconds": round(max(0.0, (look.done_at or begun) - begun), 1),
        "details": {"status_message": message},
    }


def _without_meaning(routes: APIRouter) -> None:
    async def not_here(path: str) -> None:
        raise HTTPException(
            HTTPStatus.NOT_IMPLEMENTED,
            f"{path.split('/')[0]} is not offered here; docs/music-servers.md lists what is",
        )

    for start in ("/api/{path:path}", "/chat/{path:path}"):
        routes.add_api_route(start, not_here, methods=["GET", "POST", "DELETE"])
