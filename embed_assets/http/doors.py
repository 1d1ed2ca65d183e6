"""What every request passes: tokens, limits, headers, and the clock of the metrics."""

from __future__ import annotations

import asyncio
import time
from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from embed_assets.http import session
from embed_assets.http.metrics import Metrics
from embed_assets.http.problems import problem

FREE = frozenset({"/healthz", "/readyz", "/"})
"""Paths that need no token; neither do the files of the page, which has nothing of the library."""

QUERIES = frozenset(
    {
        *("similar", "path", "radio", "parts", "artists"),
        *("tracks", "duplicates", "map", "export", "status", "errors", "look"),
    }
)

MOST_BODY_BYTES = 1 << 20
BODY_SECONDS = 30.0
"""How long a client may take to send a body."""

AT_ONCE = 8
"""Queries that are answered at the same time."""

WAITING = 64
"""Queries that may wait; more are refused."""

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}


class Doors:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, token: str, metrics: Metrics) -> None:
        self.app, self.token, self.metrics = app, token.encode(), metrics
        self.in_progress = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        kind = path.removeprefix("/v1/") if path.startswith("/v1/") else ""
        kind = kind if kind in QUERIES else ""
        started, status = time.perf_counter(), 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = self._refusal(scope["method"], path, kind, Headers(scope=scope))
        if refusal is not None:
            await problem(*refusal)(scope, receive, answer)
        else:
            self.in_progress += bool(kind)
            try:
                await self.app(scope, _limited(receive), answer)
            finally:
                self.in_progress -= bool(kind)
        if kind:
            self.metrics.observe(kind, status, time.perf_counter() - started)

    def _refusal(
        self, method: str, path: str, kind: str, headers: Headers
    ) -> tuple[HTTPStatus, str] | None:
        is_free = path in FREE or path.startswith("/page/")
        if self.token and not self._knows_token(headers):
            if not is_free and not session.has_cookie(self.token, headers):
                return HTTPStatus.UNAUTHORIZED, "send the token as `Authorization: Bearer TOKEN`"
            if not session.may_act(method, headers):
                return HTTPStatus.FORBIDDEN, "this request comes from another site than our page"
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length[:20]) > MOST_BODY_BYTES:
            return HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _TOO_LARGE
        if kind and self.in_progress >= AT_ONCE + WAITING:
            return HTTPStatus.TOO_MANY_REQUESTS, "too many queries at once: ask again later"
        return None

    def _knows_token(self, headers: Headers) -> bool:
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = bearer.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        # The bytes as they were sent: UTF-8 of any client that asks for other than ASCII.
        return session.is_token(given.encode("latin-1"), self.token)


_TOO_LARGE = f"the body has more than {MOST_BODY_BYTES} bytes"


def _limited(receive: Receive) -> Receive:
    """`receive`, for bodies that are neither too large nor too slow."""
    size = 0
    deadline = time.monotonic() + BODY_SECONDS
    whole = False

    async def limited() -> Message:
        nonlocal size, whole
        if whole:  # What follows is the end of the connection, which may be long in coming.
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
