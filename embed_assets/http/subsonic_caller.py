"""A request for a Subsonic method that is answered here: its parameters, and its login."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from fastapi import Request
from starlette.responses import Response

from embed_assets.errors import TransientError
from embed_assets.http.models import MOST_RESULTS
from embed_assets.http.subsonic_format import response

if TYPE_CHECKING:
    import httpx

GENERIC, MISSING_PARAMETER, NOT_FOUND = 0, 10, 70
"""Error codes of the API."""

SONGS_AT_ONCE = 8
"""Songs that the server is asked for at the same time."""

HOP_BY_HOP = frozenset(
    {
        *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te"),
        *("trailer", "transfer-encoding", "upgrade", "host", "content-length", "expect"),
    }
)
"""Headers of a connection, which a proxy does not pass on."""

_OURS = frozenset({"x-api-key", "cookie"})
"""Headers that may hold our own tokens."""

_CORS = "access-control-allow-origin"

Answer = dict[str, Any]


class Failed(Exception):  # what the API calls it
    """The server refuses, or the request is wrong; the caller gets the code and the message."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Caller:
    """Somebody who asks, with a login of the server, and the format of the answer."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        server: str,
        request: Request,
        method: str,
        parameters: dict[str, str],
    ) -> None:
        self.client, self.server, self.method = client, server, method
        self.parameters = parameters
        self.envelope: Answer = {"version": parameters.get("v", "1.16.1")}
        self._sent = {
            name: value
            for name, value in headers_to_pass(request.headers.items())
            if name in ("authorization", "origin")
        }
        self._cors: dict[str, str] = {}

    def required(self, name: str) -> str:
        """A parameter that must be there. Raises Failed: it is not."""
        value = self.parameters.get(name, "")
        if not value:
            raise Failed(MISSING_PARAMETER, f"the parameter {name} is missing")
        return value

    def count(self, default: int) -> int:
        """The parameter `count`, within our limits. Raises Failed: it is not a number."""
        text = self.parameters.get("count", "") or str(default)
        if not re.fullmatch("[0-9]{1,9}", text):
            raise Failed(GENERIC, f"count={text} is not a number")
        return max(1, min(int(text), MOST_RESULTS))

    async def require_login(self) -> None:
        """Have the server check the login. Raises Failed: it refuses it, or does not answer."""
        if await self.ask("ping") is None:
            raise Failed(GENERIC, "the music server does not answer")

    async def matches(self, found: Sequence[tuple[str, float]]) -> list[Answer]:
        """The songs as the server describes them to this caller, with their similarity."""
        limit = asyncio.Semaphore(SONGS_AT_ONCE)

        async def song(item: str) -> Any:
            async with limit:
                try:
                    return (await self.ask("getSong", id=item) or {}).get("song")
                except Failed:
                    return None  # Gone, or not for this caller.

        songs = await asyncio.gather(*(song(item) for item, _ in found))
        return [
            {"entry": one, "similarity": round(max(0.0, min(1.0, score)), 6)}
            for one, (_, score) in zip(songs, found, strict=True)
            if isinstance(one, dict)
        ]

    async def ask(self, method: str, **more: str) -> Answer | None:
        """The server's answer to this caller; None if it has no such method.

        Raises:
            Failed: the server refuses; with its code and message.
            TransientError: it cannot be reached.
        """
        import httpx

        login = {
            name: self.parameters[name]
            for name in ("u", "p", "t", "s", "v", "c", "apiKey")
            if name in self.parameters
        }
        form = login | more | {"f": "json"}
        try:
            answer = await self.client.post(f"/rest/{method}", data=form, headers=self._sent)
            body = answer.json()["subsonic-response"]
        except httpx.HTTPError as e:
            raise TransientError(
                f"the music server {self.server} cannot be reached: {e or type(e).__name__}"
            ) from None
        except (ValueError, KeyError, TypeError):
            return None
        if not isinstance(body, dict):
            return None
        if _CORS in answer.headers:
            self._cors = {_CORS: answer.headers[_CORS]}
        for name in ("version", "type", "serverVersion", "openSubsonic"):
            if name in body:
                self.envelope[name] = body[name]
        if body.get("status") == "ok":
            return body
        error = body.get("error") or {}
        if error.get("code") in (GENERIC, 30) and method == "getOpenSubsonicExtensions":
            return None
        raise Failed(int(error.get("code") or 0), str(error.get("message") or "refused"))

    def ok(self, found: Answer) -> Response:
        """An answer."""
        return self._response({"status": "ok"} | self.envelope | found)

    def failed(self, code: int, message: str) -> Response:
        """An error; Subsonic sends those with status 200."""
        error = {"code": code, "message": message}
        return self._response({"status": "failed"} | self.envelope | {"error": error})

    def _response(self, body: Answer) -> Response:
        answer = response(self.parameters, body)
        # Web players of the server are pages of other origins: who may read is for it to say.
        answer.headers.update(self._cors)
        return answer


def headers_to_pass(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The headers of a request that the server gets."""
    return [
        (name, value)
        for name, value in headers
        if name not in HOP_BY_HOP | _OURS
        # A bearer is our token, not the server's.
        and not (name == "authorization" and not value.lower().startswith("basic "))
    ]
