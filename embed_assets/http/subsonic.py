"""`/rest`: a proxy in front of a Subsonic server that adds similarity by sound.

It answers `getSonicSimilarTracks`, `findSonicPath`, `getSimilarSongs` and `getSimilarSongs2`, and
adds the extension `sonicSimilarity` of OpenSubsonic to `getOpenSubsonicExtensions`. Everything else
is passed on, byte for byte, streams too. There are no accounts of ours: whoever asks needs a login
of the server, which is asked for each song with it, so that its rights hold.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from starlette.responses import Response

from embed_assets.api import Snapshot
from embed_assets.errors import EmbedAssetsError, NotFound, TransientError
from embed_assets.http.context import Context
from embed_assets.http.models import MOST_RESULTS
from embed_assets.http.passing import Passed, headers_to_pass
from embed_assets.http.subsonic_format import response
from embed_assets.index.nearest import Match
from embed_assets.servers.config import ServerConfig
from embed_assets.servers.web import fields, number, rows, text

if TYPE_CHECKING:
    import httpx

KINDS = ("subsonic", "navidrome")
"""Kinds of servers that speak this API."""

GENERIC, MISSING_PARAMETER, NOT_FOUND = 0, 10, 70
"""Error codes of the API."""

SONGS_AT_ONCE = 8
"""Songs that the server is asked for at the same time."""

TYPICAL = 5
"""Tracks of an artist, or of an album, that stand for it."""

EXTENSION = {"name": "sonicSimilarity", "versions": [1]}

MOST_ASKED_BYTES = 16 << 20
"""Size of an answer that is read here."""

ASKED_SECONDS = 30.0
"""How long the server may take for it."""

Parameters = dict[str, str]
Answer = dict[str, Any]


class _Failed(Exception):  # what the API calls it
    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def subsonic(context: Context) -> APIRouter:
    """The routes of `/rest`; none if no server of EMBED_SERVERS speaks Subsonic."""
    routes = APIRouter(include_in_schema=False)
    servers = context.library.settings.music_servers()
    server = next((one for one in servers if one.kind in KINDS), None)
    if server is None:
        return routes
    proxy = Proxy(context, server)

    @routes.api_route("/rest/{method}", methods=["GET", "POST", "HEAD"])
    async def rest(request: Request, method: str) -> Response:
        return await proxy.answer(request, method)

    return routes


class Proxy:
    """The proxy of one server."""

    def __init__(self, context: Context, server: ServerConfig) -> None:
        self.context, self.server = context, server
        self._client: httpx.AsyncClient | None = None
        self._own: dict[str, Callable[[_Caller], Any]] = {
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
        if own is None:
            return await self._pass_on(request, method, body)
        parameters = dict(parse_qsl(request.url.query, keep_blank_values=True))
        kind = request.headers.get("content-type", "")
        if kind.startswith("application/x-www-form-urlencoded"):
            parameters |= parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True)
        caller = _Caller(self, request, method.removesuffix(".view"), parameters)
        try:
            found = await own(caller)
        except _Failed as e:
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

    async def _sonic_similar(self, caller: _Caller) -> Answer:
        item, count = caller.required("id"), caller.count(10)
        snapshot = await caller.snapshot()
        found = await run_in_threadpool(self._like, snapshot, [item], count)
        return {"sonicMatch": await caller.matches(found)}

    async def _sonic_path(self, caller: _Caller) -> Answer:
        start, end = caller.required("startSongId"), caller.required("endSongId")
        count = max(2, caller.count(25))
        snapshot = await caller.snapshot()

        def find() -> list[tuple[str, float]]:
            first, last = (self.context.ids.track_of(self.server.name, i) for i in (start, end))
            way = list(snapshot.path(first, last, count))
            vectors = snapshot.vectors([m.track_id for m in way])
            # Relative to the start, as the extension has it, and not to the track before.
            begin = vectors[way[0].track_id]
            scores = [float(vectors[m.track_id] @ begin) for m in way]
            return self._with_ids(way, scores)

        return {"sonicMatch": await caller.matches(await run_in_threadpool(find))}

    async def _similar_songs(self, caller: _Caller) -> Answer | None:
        item, count = caller.required("id"), caller.count(50)
        snapshot = await caller.snapshot()
        seeds = await self._seeds(caller, snapshot, item)
        if not seeds:
            return None  # Nothing that we know: the server may.
        found = await run_in_threadpool(self._like, snapshot, seeds, count)
        songs = [match["entry"] for match in await caller.matches(found)]
        name = "similarSongs2" if caller.method.lower().endswith("2") else "similarSongs"
        return {name: {"song": songs}}

    async def _seeds(self, caller: _Caller, snapshot: Snapshot, item: str) -> list[str]:
        """Ids of the server: the song itself, or songs of the album or artist with this id."""
        name = await run_in_threadpool(self.context.ids.table.artist_name, self.server.name, item)
        if name:
            try:
                typical = (await run_in_threadpool(snapshot.artists, name, 0, TYPICAL)).tracks
            except NotFound:
                return []
            return [one for one, _ in self._with_ids(typical, [1.0] * len(typical))]
        try:
            await run_in_threadpool(self.context.ids.track_of, self.server.name, item)
        except NotFound:
            album = await caller.ask("getAlbum", id=item)
            songs = rows(fields(album.get("album")).get("song")) if album else []
            return [text(song.get("id")) for song in songs][:TYPICAL]
        return [item]

    async def _extensions(self, caller: _Caller) -> Answer:
        known = await caller.ask("getOpenSubsonicExtensions")
        there = rows(known.get("openSubsonicExtensions")) if known else []
        others = [one for one in there if one.get("name") != EXTENSION["name"]]
        return {"openSubsonicExtensions": [*others, EXTENSION]}

    def _like(self, snapshot: Snapshot, items: Sequence[str], n: int) -> list[tuple[str, float]]:
        """(id of the server, cosine) of the `n` tracks nearest to these of the server."""
        seeds = [self.context.ids.track_of(self.server.name, one) for one in items]
        # Twice as many, since the server may not have all.
        found = list(snapshot.similar(tracks=seeds, n=2 * n))
        return self._with_ids(found, [m.score for m in found])[:n]

    def _with_ids(
        self, matches: Sequence[Match], scores: Sequence[float]
    ) -> list[tuple[str, float]]:
        ids = self.context.ids_for(matches)
        known = [ids.get(m.track_id, {}).get(self.server.name) for m in matches]
        return [(one, score) for one, score in zip(known, scores, strict=True) if one]


class _Caller:
    """A request for a method of ours: its parameters, among them the login, and its format."""

    def __init__(self, proxy: Proxy, request: Request, method: str, parameters: Parameters) -> None:
        self.proxy, self.request, self.method = proxy, request, method
        self.parameters = parameters
        self.envelope: Answer = {"version": parameters.get("v", "1.16.1")}

    def required(self, name: str) -> str:
        """A parameter that must be there."""
        value = self.parameters.get(name, "")
        if not value:
            raise _Failed(MISSING_PARAMETER, f"the parameter {name} is missing")
        return value

    def count(self, default: int) -> int:
        """The parameter `count`, within the limits of ours."""
        text = self.parameters.get("count", "") or str(default)
        if not re.fullmatch("[0-9]{1,9}", text):
            raise _Failed(GENERIC, f"count={text} is not a number")
        return max(1, min(int(text), MOST_RESULTS))

    async def snapshot(self) -> Snapshot:
        """What is indexed; only for callers whom the server knows."""
        if await self.ask("ping") is None:
            raise _Failed(GENERIC, "the music server does not answer")
        return await run_in_threadpool(self.proxy.context.library.snapshot)

    async def matches(self, found: Sequence[tuple[str, float]]) -> list[Answer]:
        """The songs as the server describes them to this caller, with their similarity."""
        limit = asyncio.Semaphore(SONGS_AT_ONCE)

        async def song(item: str) -> Any:
            async with limit:
                try:
                    return (await self.ask("getSong", id=item) or {}).get("song")
                except _Failed:
                    return None  # Gone, or not for this caller.

        songs = await asyncio.gather(*(song(item) for item, _ in found))
        return [
            {"entry": one, "similarity": round(max(0.0, min(1.0, score)), 6)}
            for one, (_, score) in zip(songs, found, strict=True)
            if isinstance(one, dict)
        ]

    async def ask(self, method: str, **more: str) -> Answer | None:
        """What the server answers this caller; None if it has no such method.

        Raises:
            _Failed: the server refuses; with its words.
            TransientError: it cannot be reached.
        """

        login = {
            name: self.parameters[name]
            for name in ("u", "p", "t", "s", "v", "c", "apiKey")
            if name in self.parameters
        }
        body = await self._read(method, login | more | {"f": "json"})
        if body is None:
            return None
        for name in ("version", "type", "serverVersion", "openSubsonic"):
            if isinstance(body.get(name), (str, bool)):
                self.envelope[name] = body[name]
        if body.get("status") == "ok":
            return body
        error = fields(body.get("error"))
        code = int(number(error.get("code")))
        if code in (GENERIC, 30) and method == "getOpenSubsonicExtensions":
            return None
        raise _Failed(code, text(error.get("message")) or "refused")

    async def _read(self, method: str, form: Parameters) -> Answer | None:
        import httpx

        headers = {
            name: value
            for name, value in headers_to_pass(self.request.headers).items()
            if name == "authorization"
        }
        name, content = self.proxy.server.name, bytearray()
        try:
            async with (
                asyncio.timeout(ASKED_SECONDS),
                self.proxy.client().stream(
                    "POST", f"/rest/{method}", data=form, headers=headers
                ) as answer,
            ):
                async for chunk in answer.aiter_bytes():
                    content += chunk
                    if len(content) > MOST_ASKED_BYTES:
                        raise TransientError(f"the music server {name} answers with too much")
        except (httpx.HTTPError, TimeoutError) as e:
            why = str(e) or type(e).__name__
            raise TransientError(f"the music server {name} cannot be reached: {why}") from None
        try:
            body = json.loads(content)["subsonic-response"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        return body if isinstance(body, dict) else None

    def ok(self, found: Answer) -> Response:
        """An answer."""
        return response(self.parameters, {"status": "ok"} | self.envelope | found)

    def failed(self, code: int, message: str) -> Response:
        """An error; Subsonic sends those with status 200."""
        error = {"code": code, "message": message}
        return response(self.parameters, {"status": "failed"} | self.envelope | {"error": error})
