"""`/api`: answers in the form of AudioMuse-AI, for the plugins of music servers that speak it.

An id in questions and answers is the music server's: of the server that the parameter `server`
names, or of the first of EMBED_SERVERS; a track id of ours is understood as well. Without
EMBED_SERVERS, ids are track ids. `distance` is 1 - cosine. What those plugins can ask and what has
no meaning here is answered with 501.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from http import HTTPStatus
from itertools import islice
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from embed_assets.api import Snapshot
from embed_assets.errors import ConfigurationError, NotFound
from embed_assets.formats import counted
from embed_assets.http.context import Context
from embed_assets.http.models import LONGEST_TEXT, MOST_EXCLUDED, MOST_RESULTS, MOST_SEEDS
from embed_assets.index.nearest import Match
from embed_assets.project import Project
from embed_assets.search.names import Found
from embed_assets.storage import looks

PER_ARTIST = 3
"""Most tracks of an artist with `eliminate_duplicates=true`."""

MOST_MIXED = 200
"""Most results of an alchemy."""

MOST_LISTED = 1_000
"""Most results of a search for words."""

SPARE = 2
"""So many times the tracks are looked for, since the server may lack some."""

Name = Annotated[str, Query(max_length=LONGEST_TEXT)]
Number = Annotated[int, Query(ge=1)]
Row = dict[str, Any]


class Ingredient(BaseModel):
    """A track or an artist of an alchemy, to be like or to avoid."""

    id: Annotated[str, Field(min_length=1, max_length=256)]
    op: Literal["ADD", "SUBTRACT"] = "ADD"
    type: str = "song"


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
        face = _Face(context, server)
        seed = face.track(item_id) if item_id else face.called(title, artist)
        return face.similar([seed], (), n, per_artist=PER_ARTIST if eliminate_duplicates else 0)

    @routes.get("/find_path")
    def find_path(
        start_song_id: Name,
        end_song_id: Name,
        max_steps: Annotated[int, Query(ge=2)] = 25,
        server: Name = "",
    ) -> Row:
        face = _Face(context, server)
        first, last = (face.track(one).tracks[0] for one in (start_song_id, end_song_id))
        steps = min(max_steps, MOST_RESULTS)
        way = face.snapshot.path(first.track_id, last.track_id, steps)
        rows = face.rows(way)
        return {"path": rows, "total_distance": round(sum(row["distance"] for row in rows), 6)}

    @routes.get("/similar_artists")
    def similar_artists(
        artist: Name = "",
        artist_id: Name = "",
        n: Number = 10,
        include_component_matches: bool = False,  # noqa: FBT001, FBT002
        server: Name = "",
    ) -> list[Row]:
        face = _Face(context, server)
        # Navidrome's plugin sends the id of the artist as its name.
        name = face.artist(artist_id or artist)
        found = face.snapshot.artists(name, min(n, MOST_RESULTS))
        own = face.rows(found.tracks)
        answer = []
        for one in found.artists:
            row: Row = {
                "artist": one.artist,
                "artist_id": face.artist_id(one.artist),
                "divergence": round(1 - one.score, 6),
            }
            if include_component_matches:
                row["component_matches"] = [
                    {
                        "artist1_representative_songs": own,
                        "artist2_representative_songs": face.rows(one.tracks),
                    }
                ]
            answer.append(row)
        return answer

    @routes.get("/max_distance")
    def max_distance(item_id: Name, server: Name = "") -> Row:
        face = _Face(context, server)
        farthest = face.snapshot.farthest(face.track(item_id).tracks[0].track_id)
        rows = face.rows([farthest] if farthest else [])
        return {
            "max_distance": rows[0]["distance"] if rows else 0.0,
            "farthest_item_id": rows[0]["item_id"] if rows else None,
        }

    @routes.post("/alchemy")
    def alchemy(query: Alchemy) -> Row:
        face = _Face(context, query.server)
        found = {op: [face.ingredient(one) for one in query.items if one.op == op] for op in _OPS}
        if not found["ADD"]:
            raise HTTPException(HTTPStatus.BAD_REQUEST, "name at least one item with op ADD")
        rows = face.similar(found["ADD"], found["SUBTRACT"], min(query.n, MOST_MIXED))
        return {"results": rows, "filtered_out": [], "centroid_2d": None}

    @routes.post("/sem_grove/search")
    def sem_grove(query: Seed) -> Row:
        face = _Face(context, query.server)
        seed = face.track(query.item_id)
        own = face.rows(face.snapshot.matches([t.track_id for t in seed.tracks[:1]]))
        found = [row | {"is_seed": True} for row in own]
        return {"results": found + face.similar([seed], (), query.limit)}

    @routes.post("/hyperbolic/similar")
    def hyperbolic(query: Seed) -> Row:
        face = _Face(context, query.server)
        return {"results": face.similar([face.track(query.item_id)], (), query.limit)}

    return routes


_OPS = "ADD", "SUBTRACT"


def _about_lists(context: Context) -> APIRouter:
    routes = APIRouter(prefix="/api")

    @routes.get("/search_tracks")
    def search_tracks(
        title: Name = "", artist: Name = "", search_query: Name = "", server: Name = ""
    ) -> list[Row]:
        face = _Face(context, server)
        words = " ".join(filter(None, (title, artist, search_query)))
        return face.search(words) if words.strip() else []

    @routes.get("/track")
    def track(item_id: Name, server: Name = "") -> Row:
        face = _Face(context, server)
        rows = face.rows(face.snapshot.matches([face.track(item_id).tracks[0].track_id]))
        if not rows:
            raise NotFound(f"the music server {face.server} does not have the track {item_id!r}")
        return rows[0]

    @routes.post("/create_playlist", status_code=HTTPStatus.CREATED)
    def create_playlist(query: NewPlaylist) -> Row:
        face = _Face(context, query.server)
        if not face.server:
            raise ConfigurationError("EMBED_SERVERS names no music server to write a playlist to")
        made = context.put_playlist(face.server, query.playlist_name, query.track_ids)
        tracks = counted(len(query.track_ids), "track")
        message = f"the playlist {query.playlist_name!r} on {face.server} has {tracks}"
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


class _Face:
    """One question in AudioMuse's form: a snapshot, and the music server whose ids it uses."""

    def __init__(self, context: Context, server: str) -> None:
        self.context = context
        self.snapshot: Snapshot = context.library.snapshot()
        self.server = server or next(iter(context.ids.servers), "")
        if server:
            context.ids.server(server)

    def track(self, item_id: str) -> Found:
        """The track with an id of the server, or of ours."""
        if self.snapshot.has(item_id) or not self.server:
            return self.snapshot.named(item_id)
        return self.snapshot.named(self.context.ids.track_of(self.server, item_id))

    def called(self, title: str, artist: str) -> Found:
        """The track with words of its title and artist."""
        return self.snapshot.named(f"{title} {artist}".strip())

    def ingredient(self, one: Ingredient) -> Found:
        """The track of an ingredient, or the typical tracks of its artist."""
        if one.type != "artist":
            return self.track(one.id)
        found = self.snapshot.artists(self.artist(one.id), n=0, songs=PER_ARTIST)
        return Found(
            tuple(self.snapshot.named(m.track_id).tracks[0] for m in found.tracks), found.artist
        )

    def artist(self, name_or_id: str) -> str:
        """The name of an artist whom the server means by an id, or the text itself."""
        known = self.context.ids.table.artist_name(self.server, name_or_id) if self.server else None
        return known or name_or_id

    def artist_id(self, name: str) -> str:
        """The server's id of an artist; its name where there is none."""
        found = self.context.ids.table.artist_id(self.server, name) if self.server else ""
        return found or name

    def similar(
        self, seeds: Sequence[Found], avoid: Sequence[Found], n: int, per_artist: int = 0
    ) -> list[Row]:
        """The `n` tracks of the server nearest to the seeds."""
        n = min(n, MOST_RESULTS)
        found = self.snapshot.similar(
            tracks=[t.track_id for one in seeds for t in one.tracks],
            avoid=[t.track_id for one in avoid for t in one.tracks],
            n=SPARE * n if self.server else n,
            per_artist=per_artist,
        )
        return self.rows(found)[:n]

    def search(self, words: str) -> list[Row]:
        """The tracks with these words, as people search."""
        some = islice(self.snapshot.listed(words), SPARE * MOST_LISTED)
        return self.rows(self.snapshot.matches([row["track_id"] for row in some]))[:MOST_LISTED]

    def rows(self, matches: Iterable[Match]) -> list[Row]:
        """The matches that the server has, by its ids."""
        found = list(matches)
        if not self.server:
            return [_row(match, match.track_id) for match in found]
        ids = self.context.ids_for(found)
        known = ((match, ids.get(match.track_id, {}).get(self.server)) for match in found)
        return [_row(match, one) for match, one in known if one]


def _row(match: Match, item_id: str) -> Row:
    return {
        "item_id": item_id,
        "title": match.title,
        "author": match.artist,
        "album": match.album,
        "distance": round(1 - match.score, 6),
    }
