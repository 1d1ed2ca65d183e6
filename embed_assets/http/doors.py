"""Middleware for every request: tokens, limits, headers, and times for the metrics."""

from __future__ import annotations

import asyncio
import re
import time
from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from embed_assets.access import Tokens
from embed_assets.http import session
from embed_assets.http.metrics import Metrics
from embed_assets.http.problems import AUDIOMUSE, path_of, problem

FREE = frozenset({"/healthz", "/readyz", "/api/health", "/"})
"""Paths that need no token; neither do the files of the page, which has nothing of the library."""

QUERIES = frozenset(
    {
        *("similar", "find", "path", "radio", "parts", "artists"),
        *("tracks", "duplicates", "map", "export"),
        *("status", "errors", "servers"),
    }
)
"""Paths below `/v1` that only ask."""

AUDIOMUSE_QUERIES = frozenset({"alchemy", "sem_grove/search", "hyperbolic/similar"})
"""Paths below `/api` that only ask, though by POST."""

SUBSONIC = "/rest/"
SUBSONIC_QUERIES = frozenset(
    {"getsonicsimilartracks", "findsonicpath", "getsimilarsongs", "getsimilarsongs2"}
)
"""Methods below `/rest` that are answered here, in lower case."""

ACTS = frozenset({"look", "playlists"})
"""First names below `/v1` of what changes something; needs the full token."""

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})

MOST_BODY_BYTES = 1 << 20
BODY_SECONDS = 30.0
"""How long a client may take to send a body."""

AT_ONCE = 8
"""Queries that are answered at the same time."""

WAITING = 64
"""Queries that may wait; more are refused."""

MOST_PASSED = 150
"""Requests and streams of a music server at the same time."""

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}


class Doors:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, tokens: Tokens, metrics: Metrics) -> None:
        self.app, self.tokens, self.metrics = app, tokens, metrics
        self._both = (tokens.full, tokens.read)
        self.in_progress = self.passed = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        # The plugin of Navidrome doubles a slash if its address ends with one.
        scope = dict(scope) | {"path": re.sub("/{2,}", "/", scope["path"])}
        path = path_of(scope)
        kind = kind_of(path)
        started, status = time.perf_counter(), 0
        counted = False

        def release() -> None:
            nonlocal counted
            self.in_progress -= counted
            counted = False

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                # The answer is there; a client that does not read it holds up nobody.
                release()
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                # Web players of a music server are at home elsewhere.
                if not path.startswith(SUBSONIC):
                    headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")
            await send(message)

        refusal = self._refusal(scope["method"], path, kind, Headers(scope=scope))
        is_passed = path.startswith(SUBSONIC)
        try:
            if refusal is not None:
                await _refused(path, *refusal)(scope, receive, answer)
            else:
                # What waits for a music server holds up no query.
                counted = bool(kind) and not is_passed
                self.in_progress += counted
                self.passed += is_passed
                try:
                    await self.app(scope, _limited(receive), answer)
                finally:
                    release()
                    self.passed -= is_passed
        except Exception:
            # Starlette sends the answer to an unexpected error outside of this middleware.
            status = status or HTTPStatus.INTERNAL_SERVER_ERROR
            raise
        finally:
            if kind and status:
                self.metrics.observe(kind, int(status), time.perf_counter() - started)

    def _refusal(
        self, method: str, path: str, kind: str, headers: Headers
    ) -> tuple[HTTPStatus, str] | None:
        if "transfer-encoding" in headers and "content-length" in headers:
            # A proxy may see the end of the request elsewhere than we do.
            return HTTPStatus.BAD_REQUEST, "a request has a length or chunks, not both"
        if not self.tokens and not session.is_here(headers.get("host", "")):
            return HTTPStatus.FORBIDDEN, _NOT_HERE
        # What is below /rest wants a login of the music server instead of a token of ours.
        if not path.startswith(SUBSONIC) and (refused := self._not_let_in(method, path, headers)):
            return refused
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length[:20]) > MOST_BODY_BYTES:
            return HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _TOO_LARGE
        if path.startswith(SUBSONIC) and self.passed >= MOST_PASSED:
            return HTTPStatus.TOO_MANY_REQUESTS, "too many requests at once: ask again later"
        if kind and self.in_progress >= AT_ONCE + WAITING:
            return HTTPStatus.TOO_MANY_REQUESTS, "too many queries at once: ask again later"
        return None

    def _not_let_in(
        self, method: str, path: str, headers: Headers
    ) -> tuple[HTTPStatus, str] | None:
        full, read = self._given(headers)
        if not (full or read):
            # A browser may send it for a page of somebody else.
            full, read = (session.has_cookie(t, headers) for t in self._both)
            known, needed = full or read, bool(self.tokens)
            if session.is_foreign(method, headers, has_cookie=known, needs_token=needed):
                return HTTPStatus.FORBIDDEN, "this request comes from another site than our page"
        if self.tokens and path not in FREE and not path.startswith("/page/"):
            if not (full or read):
                return HTTPStatus.UNAUTHORIZED, "send the token as `Authorization: Bearer TOKEN`"
            if acts(method, path) and not full:
                return HTTPStatus.FORBIDDEN, self._why_not()
        return None

    def _given(self, headers: Headers) -> tuple[bool, bool]:
        """Whether the full token was sent, and whether the read token was."""
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = bearer.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        # Both are compared each time, so that the time tells nothing about either.
        full, read = (session.is_token(given, token) for token in self._both)
        return full, read

    def _why_not(self) -> str:
        if self.tokens.full:
            return "this needs the token of EMBED_HTTP_TOKEN; yours may only ask queries"
        return (
            "this needs the token of EMBED_HTTP_TOKEN, which the server does not have; yours may"
            " only ask queries"
        )


def _refused(path: str, status: HTTPStatus, why: str) -> Response:
    response = problem(path, status, why)
    if status == HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = "Bearer"
    if status == HTTPStatus.BAD_REQUEST:
        # Where the request ends is not clear, so nothing may follow on this connection.
        response.headers["Connection"] = "close"
    return response


def acts(method: str, path: str) -> bool:
    """Whether a request may change something, so that the read token is not enough.

    A new route that is not safe by its method acts unless it is named among the queries.
    """
    if method in SAFE:
        return False
    area, _, rest = path.lstrip("/").partition("/")
    return rest not in {"v1": QUERIES, "api": AUDIOMUSE_QUERIES}.get(area, ())


def kind_of(path: str) -> str:
    """What a path asks for, for limits and metrics; empty if it is no query."""
    kind = path.removeprefix("/v1/").partition("/")[0] if path.startswith("/v1/") else ""
    if path.startswith(AUDIOMUSE) and path not in FREE:
        return "audiomuse"
    if path.startswith(SUBSONIC):
        method = path.removeprefix(SUBSONIC).removesuffix(".view").lower()
        return "subsonic" if method in SUBSONIC_QUERIES else ""
    return kind if kind in QUERIES | ACTS else ""


_NOT_HERE = (
    "without a token only this machine may ask, by an address such as 127.0.0.1 or localhost; for"
    " another name set EMBED_HTTP_TOKEN"
)

_TOO_LARGE = f"the body has more than {MOST_BODY_BYTES} bytes"


def _limited(receive: Receive) -> Receive:
    """`receive`, for bodies that are neither too large nor too slow."""
    size = 0
    deadline = time.monotonic() + BODY_SECONDS
    whole = False

    async def limited() -> Message:
        nonlocal size, whole
        if whole:  # Only the end of the connection follows, maybe much later.
            return await receive()
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                message = await receive()
        except TimeoutError:
            raise HTTPException(
                HTTPStatus.REQUEST_TIMEOUT, f"the body did not arrive within {BODY_SECONDS:.0f} s"
            ) from None
        size += len(message.get("body", b""))
        whole = not message.get("more_body", False)
        if size > MOST_BODY_BYTES:
            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _TOO_LARGE)
        return message

    return limited
