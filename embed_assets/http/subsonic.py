"""`/rest`: a proxy in front of a Subsonic server that adds similarity by sound.

It answers `getSonicSimilarTracks`, `findSonicPath`, `getSimilarSongs` and `getSimilarSongs2`, and
adds the extension `sonicSimilarity` of OpenSubsonic to `getOpenSubsonicExtensions`. It passes every
other request on unchanged, and streams the answer back. Clients log in with their account of the
music server. The proxy fetches each song with that login, so the server's access rights apply.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from starlette.responses import Response

from embed_assets.api import Snapshot
from embed_assets.errors import EmbedAssetsError, NotFound, TransientError
from embed_assets.http.context import Context
from embed_assets.http.passing import Passed, headers_to_pass
from embed_assets.http.subsonic_caller import (
    GENERIC,
    NOT_FOUND,
    Answer,
    Caller,
    Failed,
)
from embed_assets.index.nearest import Match
from embed_assets.servers.config import ServerConfig
from embed_assets.servers.web import fields, rows, text

if TYPE_CHECKING:
    import httpx

KINDS = ("subsonic", "navidrome")
"""Kinds of servers that speak this API."""

TYPICAL = 5
"""Tracks of an artist, or of an album, that stand for it."""

EXTENSION = {"name": "sonicSimilarity", "versions": [1]}


def subsonic(context: Context) -> APIRouter:
    """The routes of `/rest`; none if no server of EMBED_SERVERS speaks Subsonic."""
    routes = APIRouter(include_in_schema=False)
    servers = context.library.settings.music_servers()
    server = next((one for one in servers if one.kind in KINDS), None)
    if server is None:
        return routes
    proxy = Proxy(context, server)

    @routes.api_route("/rest/{method}", methods=["GET", "POST", "HEAD", "OPTIONS"])
    async def rest(request: Request, method: str) -> Response:
        return await proxy.answer(request, method)

    return routes


class Proxy:
    """The proxy of one server."""

    def __init__(self, context: Context, server: ServerConfig) -> None:
        self.context, self.server = context, server
        self._client: httpx.AsyncClient | None = None
        self._own: dict[str, Callable[[Caller], Any]] = {
            "getsonicsimilartracks": self._sonic_similar,
            "findsonicpath": self._sonic_path,
            "getsimilarsongs": self._similar_songs,
            "getsimilarsongs2": self._similar_songs,
            "getopensubsonicextensions": self._extensions,
        }

    async def answer(self, request: Request, method: str) -> Response:
        """The answer to a request for `/rest/METHOD`."""
        if not re.fullmatch(r"[A-Za-z0-9]{1,64}(\.view)?", method):
            return Response(status_code=404)
        body = await request.body()
        own = self._own.get(method.removesuffix(".view").lower())
        if own is None or request.method == "OPTIONS":
            return await self._pass_on(request, method, body)
        parameters = dict(parse_qsl(request.url.query, keep_blank_values=True))
        kind = request.headers.get("content-type", "")
        if kind.startswith("application/x-www-form-urlencoded"):
            parameters |= parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True)
        caller = Caller(
            self.client(), self.server.name, request, method.removesuffix(".view"), parameters
        )
        try:
            found = await own(caller)
        except Failed as e:
            return caller.failed(e.code, str(e))
        except NotFound as e:
            return caller.failed(NOT_FOUND, str(e))
        except EmbedAssetsError as e:
            return caller.failed(GENERIC, str(e))
        return await self._pass_on(request, method, body) if found is None else caller.ok(found)

    def client(self) -> httpx.AsyncClient:
        """The client for the server; made at the first request, in the loop that uses it."""
        if self._client is None:
            import httpx

            self._client = httpx.AsyncClient(
                base_url=self.server.url,
                timeout=httpx.Timeout(60.0, connect=5.0),
                limits=httpx.Limits(max_connections=200),
            )
        return self._client

    async def _pass_on(self, request: Request, method: str, body: bytes) -> Response:
        """Pass a request on, and the answer back as it comes."""
        import httpx

        url = f"/rest/{method}" + (f"?{request.url.query}" if request.url.query else "")
        sent = self.client().build_request(
            request.method, url, content=body, headers=headers_to_pass(request.headers)
        )
        try:
            answer = await self.client().send(sent, stream=True)
        except httpx.HTTPError as e:
            raise TransientError(
                f"the music server {self.server.name} cannot be reached: {e or type(e).__name__}"
            ) from None
        return Passed(answer)

    async def _snapshot(self, caller: Caller) -> Snapshot:
        """What is indexed; only for callers whom the server knows."""
        await caller.require_login()
        return await run_in_threadpool(self.context.library.snapshot)

    async def _sonic_similar(self, caller: Caller) -> Answer:
        item, count = caller.required("id"), caller.count(10)
        snapshot = await self._snapshot(caller)
        track = await run_in_threadpool(self._track_of, item)
        found = await run_in_threadpool(self._like, snapshot, [track], count)
        return {"sonicMatch": await caller.matches(found)}

    async def _sonic_path(self, caller: Caller) -> Answer:
        start, end = caller.required("startSongId"), caller.required("endSongId")
        count = max(2, caller.count(25))
        snapshot = await self._snapshot(caller)

        def find() -> list[tuple[str, float]]:
            way = list(snapshot.path(self._track_of(start), self._track_of(end), count))
            vectors = snapshot.vectors([m.track_id for m in way])
            # Relative to the start, as the extension has it, and not to the track before.
            begin = vectors[way[0].track_id]
            scores = [float(vectors[m.track_id] @ begin) for m in way]
            return self._with_ids(way, scores)

        return {"sonicMatch": await caller.matches(await run_in_threadpool(find))}

    async def _similar_songs(self, caller: Caller) -> Answer | None:
        item, count = caller.required("id"), caller.count(50)
        snapshot = await self._snapshot(caller)
        seeds = await self._seeds(caller, snapshot, item)
        if not seeds:
            return None  # Nothing that is indexed here: the server may know something.
        found = await run_in_threadpool(self._like, snapshot, seeds, count)
        songs = [match["entry"] for match in await caller.matches(found)]
        name = "similarSongs2" if caller.method.lower().endswith("2") else "similarSongs"
        return {name: {"song": songs}}

    async def _seeds(self, caller: Caller, snapshot: Snapshot, item: str) -> list[str]:
        """Indexed tracks: the song with this id, or tracks of the artist or album with it."""
        name = await run_in_threadpool(self.context.ids.table.artist_name, self.server.name, item)
        if name:
            try:
                typical = (await run_in_threadpool(snapshot.artists, name, 0, TYPICAL)).tracks
            except NotFound:
                return []
            return [match.track_id for match in typical]
        if song := await run_in_threadpool(self._indexed, snapshot, [item]):
            return song
        try:
            album = await caller.ask("getAlbum", id=item) or {}
        except Failed:
            return []  # It is not an album.
        ids = [text(song.get("id")) for song in rows(fields(album.get("album")).get("song"))]
        return await run_in_threadpool(self._indexed, snapshot, ids[:TYPICAL])

    async def _extensions(self, caller: Caller) -> Answer:
        known = await caller.ask("getOpenSubsonicExtensions")
        there = rows(known.get("openSubsonicExtensions")) if known else []
        others = [one for one in there if one.get("name") != EXTENSION["name"]]
        return {"openSubsonicExtensions": [*others, EXTENSION]}

    def _track_of(self, item: str) -> str:
        return self.context.ids.track_of(self.server.name, item)

    def _indexed(self, snapshot: Snapshot, items: Sequence[str]) -> list[str]:
        """The indexed tracks among these songs of the server."""
        found = []
        for item in items:
            with suppress(NotFound):
                found.append(self._track_of(item))
        return [match.track_id for match in snapshot.matches(found)]

    def _like(self, snapshot: Snapshot, tracks: Sequence[str], n: int) -> list[tuple[str, float]]:
        """(id of the server, cosine) of the `n` songs of the server nearest to these tracks."""
        # Twice as many, since the server may not have all.
        found = list(snapshot.similar(tracks=tracks, n=2 * n))
        return self._with_ids(found, [m.score for m in found])[:n]

    def _with_ids(
        self, matches: Sequence[Match], scores: Sequence[float]
    ) -> list[tuple[str, float]]:
        ids = self.context.ids_for(matches)
        known = [ids.get(m.track_id, {}).get(self.server.name) for m in matches]
        return [(one, score) for one, score in zip(known, scores, strict=True) if one]
