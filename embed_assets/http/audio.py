"""`/v1/audio`: plays a track of the index, as it is or converted for browsers.

Streams are no queries: they have threads and limits of their own, so that they hold nobody up.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any, Literal

import anyio
from anyio import to_thread
from fastapi import APIRouter, Path, Query, Request, Response
from starlette.exceptions import HTTPException

from embed_assets.api import Library
from embed_assets.audio.transcode import PLAY_FORMATS
from embed_assets.http.models import Problem
from embed_assets.http.ranges import etag_of, wanted_range
from embed_assets.http.stream import Stream
from embed_assets.identity import display_path
from embed_assets.library.open_track import open_track
from embed_assets.library.walk import require_library
from embed_assets.storage.records import Track

MOST_STREAMS = 64
"""Tracks that may be played at the same time."""

MOST_CONVERTED = 4
"""Of these, tracks that are converted: each takes a process."""

THREADS = 16
"""Threads that read files and converted audio."""

CHUNK_BYTES = 1 << 18

_FLAC, _OGG, _MP4, _WEBM, _WAV = "audio/flac", "audio/ogg", "audio/mp4", "audio/webm", "audio/wav"
PLAYED_BY_BROWSERS = {
    ("mp3", "mp3"): "audio/mpeg",
    ("flac", "flac"): _FLAC,
    **dict.fromkeys([("ogg", "vorbis"), ("ogg", "opus"), ("ogg", "flac")], _OGG),
    ("aac", "aac"): "audio/aac",
    ("mov,mp4,m4a,3gp,3g2,mj2", "aac"): _MP4,
    **dict.fromkeys([("matroska,webm", "vorbis"), ("matroska,webm", "opus")], _WEBM),
    **dict.fromkeys([("wav", "pcm_u8"), ("wav", "pcm_s16le"), ("wav", "pcm_s24le")], _WAV),
}
"""(container, codec) -> media type of what every browser plays; all else is converted."""

_UNKNOWN = "application/octet-stream"

_OF_ALL = {"Cache-Control": "private, no-cache", "Vary": "Accept"}
"""Headers of all streams."""

Format = Literal["original", "opus", "mp3", "wav"]

ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"model": Problem, "description": text}
    for code, text in {
        401: "The token is missing or wrong.",
        404: "There is no such track, or its file is gone.",
        416: "The file has no such bytes.",
        422: "The request does not fit the schema.",
        429: "Too many tracks are played at once.",
        503: "The library cannot be read just now, or the track not decoded.",
    }.items()
}
_AUDIO = {"content": {"audio/*": {"schema": {"type": "string", "format": "binary"}}}}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: _AUDIO,
    206: _AUDIO | {"description": "The wanted bytes."},
    **ERRORS,
}


@dataclass
class _Streams:
    """What is played at the moment."""

    open: int = 0
    converted: int = 0
    threads: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(THREADS))

    @contextmanager
    def one_more(self, *, is_converted: bool) -> Iterator[None]:
        """Count a stream. Raises HTTPException: there are too many."""
        if self.open >= MOST_STREAMS or (is_converted and self.converted >= MOST_CONVERTED):
            raise HTTPException(
                HTTPStatus.TOO_MANY_REQUESTS, "too many tracks are played at once: try again later"
            )
        self.open += 1
        self.converted += is_converted
        try:
            yield
        finally:
            self.open -= 1
            self.converted -= is_converted


def audio_streams(library: Library) -> APIRouter:
    """The route of the audio."""
    routes = APIRouter(prefix="/v1", tags=["library"])
    streams = _Streams()

    async def audio(
        request: Request,
        track_id: Annotated[str, Path(pattern="^[0-9a-f]{32}$")],
        as_format: Annotated[
            Format | None,
            Query(alias="as", description="Empty: as it is if browsers play it, otherwise MP3."),
        ] = None,
        start: Annotated[
            float,
            Query(ge=0.0, le=1e6, allow_inf_nan=False, description="Seconds; converts the track."),
        ] = 0.0,
    ) -> Response:
        """The audio of a track, as it is (with ranges) or converted (without)."""
        track, opened = await to_thread.run_sync(_open, library, track_id, limiter=streams.threads)
        with ExitStack() as held:
            held.callback(os.close, opened)
            media_type = PLAYED_BY_BROWSERS.get((track.container, track.codec))
            name = _format_of(request, as_format, media_type, start)
            held.enter_context(streams.one_more(is_converted=name != "original"))
            if name == "original":
                answer = _as_it_is(request, streams, opened, media_type or _UNKNOWN)
            else:
                answer = await _converted(request, streams, opened, name, start)
            if isinstance(answer, Stream):
                answer.held = held.pop_all()
            return answer

    path = "/audio/{track_id}"
    routes.add_api_route(path, audio, methods=["GET"], responses=_ANSWERS, response_class=Response)
    routes.add_api_route(path, audio, methods=["HEAD"], include_in_schema=False)
    return routes


def _open(library: Library, track_id: str) -> tuple[Track, int]:
    track = library.snapshot().track(track_id)
    name = display_path(track.path)
    try:
        return track, open_track(require_library(library.settings.library), track.path)
    except (FileNotFoundError, NotADirectoryError):
        raise HTTPException(
            HTTPStatus.NOT_FOUND, f"{name} is no longer in the library; the index will notice"
        ) from None
    except OSError as e:
        raise HTTPException(
            HTTPStatus.SERVICE_UNAVAILABLE, f"{name} cannot be read: {e.strerror or e}"
        ) from e


def _format_of(
    request: Request, asked: Format | None, media_type: str | None, start: float
) -> Format:
    if asked is not None:
        return asked
    if media_type and not start:
        return "original"
    accepted = request.headers.get("accept", "")
    for name, words in _NAMED.items():
        if any(word in accepted for word in words):
            return name
    return "mp3"


_NAMED: dict[Format, tuple[str, ...]] = {
    "mp3": ("audio/mpeg",),
    "opus": ("audio/ogg", "audio/opus"),
    "wav": ("audio/wav", "audio/x-wav"),
}
"""What clients that take only some formats accept, ours first."""


def _as_it_is(request: Request, streams: _Streams, opened: int, media_type: str) -> Response:
    info = os.fstat(opened)
    etag = etag_of(info)
    headers = {
        "Content-Type": media_type,
        "Accept-Ranges": "bytes",
        "ETag": etag,
        "Last-Modified": formatdate(info.st_mtime, usegmt=True),
        **_OF_ALL,
    }
    if etag in request.headers.get("if-none-match", ""):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    try:
        part = wanted_range(request.headers, info.st_size, etag)
    except ValueError:
        raise HTTPException(
            HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
            f"the file has {info.st_size} bytes",
            {"Content-Range": f"bytes */{info.st_size}"},
        ) from None
    begin, end = part or (0, info.st_size)
    headers["Content-Length"] = str(end - begin)
    if part:
        headers["Content-Range"] = f"bytes {begin}-{end - 1}/{info.st_size}"
    status = HTTPStatus.PARTIAL_CONTENT if part else HTTPStatus.OK
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers)

    async def chunks() -> AsyncIterator[bytes]:
        at = begin
        while at < end:
            data = await to_thread.run_sync(
                os.pread, opened, min(CHUNK_BYTES, end - at), at, limiter=streams.threads
            )
            if not data:
                return  # It has become shorter: the client sees that the connection breaks.
            at += len(data)
            yield data

    return Stream(chunks(), status, headers, streams.threads)


async def _converted(
    request: Request, streams: _Streams, opened: int, name: Format, start: float
) -> Response:
    headers = {"Content-Type": PLAY_FORMATS[name].media_type, "Accept-Ranges": "none", **_OF_ALL}
    if request.method == "HEAD":
        return Response(headers=headers)
    command = [sys.executable, "-P", "-m", "embed_assets.audio.transcode", name, str(start)]
    process = subprocess.Popen(
        command,
        stdin=opened,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        env=_without_secrets(),
    )
    assert process.stdout is not None  # noqa: S101  # for mypy
    read = partial(process.stdout.read, CHUNK_BYTES)
    stream = Stream(_rest(read, streams), HTTPStatus.OK, headers, streams.threads, process)
    # Before the answer begins, so that it can say what is wrong.
    try:
        first = await to_thread.run_sync(read, limiter=streams.threads)
    except BaseException:
        process.kill()
        raise
    if not first:
        await stream.end()
        raise HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, _NOT_DECODED)
    stream.first = first
    return stream


def _without_secrets() -> dict[str, str]:
    """The environment of a process that reads files of strangers: no tokens, no logins."""
    return {name: value for name, value in os.environ.items() if not name.startswith("EMBED_")}


_NOT_DECODED = "the track cannot be decoded: is its file damaged, or `start` behind its end?"


async def _rest(read: Callable[[], bytes], streams: _Streams) -> AsyncIterator[bytes]:
    while data := await to_thread.run_sync(read, limiter=streams.threads):
        yield data
