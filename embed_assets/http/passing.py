"""What passes between clients and a music server behind `/rest`: some headers, and its answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import anyio
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

if TYPE_CHECKING:
    import httpx

_ASKED = frozenset(
    {
        *("accept", "accept-encoding", "accept-language", "content-type", "origin", "user-agent"),
        *("range", "if-range", "if-none-match", "if-modified-since"),
    }
)
"""Headers that the server gets. No others: it may trust this machine to say who the user is
(`Remote-User`), and some hold our own tokens."""

_NOT_BACK = frozenset(
    {
        *("connection", "keep-alive", "proxy-authenticate", "te", "trailer", "transfer-encoding"),
        *("upgrade", "set-cookie", "clear-site-data", "content-security-policy"),
        *("strict-transport-security", "alt-svc", "service-worker-allowed"),
    }
)
"""Headers of the server that clients do not get: of its connection, or about our whole address."""

_HARMLESS = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'; sandbox")
"""What the server sends may be a page; at our address it must not act for our users."""


def headers_to_pass(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers that the server gets."""
    passed = {name: value for name, value in headers.items() if name in _ASKED}
    # Without it httpx would ask for compressed answers, which the client may not understand.
    passed.setdefault("accept-encoding", "identity")
    # A bearer is our token, not the server's.
    if (login := headers.get("authorization", "")).lower().startswith("basic "):
        passed["authorization"] = login
    return passed


class Passed(StreamingResponse):
    """An answer of the server as it comes; also a client that is gone before it gives it back."""

    def __init__(self, answer: httpx.Response) -> None:
        super().__init__(answer.aiter_raw(), answer.status_code)
        self.answer = answer
        self.raw_headers = [
            *(
                (name.lower(), value)
                for name, value in answer.headers.raw
                if name.decode("latin-1").lower() not in _NOT_BACK
            ),
            _HARMLESS,
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            with anyio.CancelScope(shield=True):
                await self.answer.aclose()
