"""A request for a Subsonic method that is answered here: its parameters, and its login."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fastapi import Request
from starlette.responses import Response

from embed_assets.errors import TransientError
from embed_assets.http.models import MOST_RESULTS
from embed_assets.http.passing import headers_to_pass
from embed_assets.http.subsonic_format import response
from embed_assets.servers.web import fields, number, text

if TYPE_CHECKING:
    import httpx

GENERIC, MISSING_PARAMETER, NOT_FOUND = 0, 10, 70
"""Error codes of the API."""

SONGS_AT_ONCE = 8
"""Songs that the server is asked for at the same time."""

MOST_ASKED_BYTES = 16 << 20
"""Size of an answer that is read here."""

ASKED_SECONDS = 30.0
"""How long the server may take for it."""

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
            for name, value in headers_to_pass(request.headers).items()
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
        raise Failed(code, text(error.get("message")) or "refused")

    async def _read(self, method: str, form: dict[str, str]) -> Answer | None:
        import httpx

        content = bytearray()
        try:
            async with (
                asyncio.timeout(ASKED_SECONDS),
                self.client.stream(
                    "POST", f"/rest/{method}", data=form, headers=self._sent
                ) as answer,
            ):
                async for chunk in answer.aiter_bytes():
                    content += chunk
                    if len(content) > MOST_ASKED_BYTES:
                        raise TransientError(
                            f"the music server {self.server} answers with too much"
                        )
        except (httpx.HTTPError, TimeoutError) as e:
            why = str(e) or type(e).__name__
            raise TransientError(
                f"the music server {self.server} cannot be reached: {why}"
            ) from None
        if _CORS in answer.headers:
            self._cors = {_CORS: answer.headers[_CORS]}
        try:
            body = json.loads(content)["subsonic-response"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        return body if isinstance(body, dict) else None

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
