"""HTTP requests to a music server, with errors for people."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from embed_assets.errors import ConfigurationError, EmbedAssetsError, TransientError
from embed_assets.servers.config import ServerConfig

if TYPE_CHECKING:
    import httpx

SECONDS = 30.0
"""How long a server may take for a page of items."""

LARGEST = 2.0**63
"""Numbers from here on do not fit into the side table; no size or duration comes near."""

LOOKUP_SECONDS = 2.0
"""How long it may take for one item: it may itself be waiting for our answer."""

LARGEST = 2.0**62
"""Numbers below it fit into tables."""

MOST_BYTES = 64 << 20
"""Size of an answer; a page of items has a few MB."""


class Web:
    """A connection to one server. Safe for threads."""

    def __init__(self, server: ServerConfig, headers: dict[str, str] | None = None) -> None:
        import httpx

        self.server = server
        self.client = httpx.Client(
            base_url=server.url,
            timeout=httpx.Timeout(SECONDS, connect=5.0),
            headers={"User-Agent": "embed_assets"} | (headers or {}),
        )

    def json(self, method: str, path: str, **more: Any) -> Any:
        """The JSON of an answer; None for 404.

        Raises:
            TransientError: the server cannot be reached, fails, or answers something else.
            ConfigurationError: it refuses the login.
        """
        return self.read(self.request(method, path, **more), path)

    def read(self, answer: httpx.Response, path: str) -> Any:
        """The JSON of an answer; raises what `json` does."""
        if answer.status_code in (401, 403):
            raise self.refused()
        if answer.status_code >= 300 and answer.status_code != 404:
            raise TransientError(f"{self} answered {path} with status {answer.status_code}")
        if answer.status_code == 404:
            return None
        if not answer.content:
            return {}
        try:
            return answer.json()
        except (ValueError, RecursionError):
            raise self.another_kind() from None

    def request(
        self, method: str, path: str, *, timeout: float = SECONDS, **more: Any
    ) -> httpx.Response:
        """The answer, whatever its status. Raises TransientError: there is none in time."""
        import httpx

        end, content = time.monotonic() + timeout, bytearray()
        try:
            with self.client.stream(method, path, timeout=timeout, **more) as answer:
                for chunk in answer.iter_bytes():
                    content += chunk
                    if len(content) > MOST_BYTES:
                        raise TransientError(
                            f"{self} answered {path} with more than {MOST_BYTES >> 20} MB"
                        )
                    if time.monotonic() > end:
                        raise TransientError(f"{self} took more than {timeout:.0f} s for {path}")
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as e:
            why = str(e) or type(e).__name__
            raise TransientError(f"{self} cannot be reached: {why}") from None
        return httpx.Response(answer.status_code, content=bytes(content))

    def lines(self, path: str, headers: dict[str, str], silent: float) -> Iterator[str]:
        """The lines of an answer that goes on; `silent`: most seconds between two of them.

        Raises what `json` does, and at the end of the connection, if it is not an orderly one.
        """
        import httpx

        try:
            with self.client.stream("GET", path, headers=headers, timeout=silent) as answer:
                if answer.status_code != 200:
                    self.read(answer, path)
                yield from answer.iter_lines()
        except httpx.HTTPError as e:
            raise TransientError(f"{self} cannot be reached: {e or type(e).__name__}") from None

    def another_kind(self) -> EmbedAssetsError:
        """The error of an address where no server of this kind answers."""
        return TransientError(
            f"{self} does not answer as {self.server.kind}: are its address and its kind right in"
            " EMBED_SERVERS?"
        )

    def refused(self, why: str = "") -> EmbedAssetsError:
        """The error of a login that the server refuses."""
        return ConfigurationError(
            f"{self} refuses the login{f' ({why})' if why else ''}: set"
            f" {self.server.variables}_USER and {self.server.variables}_PASSWORD or"
            f" {self.server.variables}_TOKEN"
        )

    def __str__(self) -> str:
        return f"the music server {self.server.name} ({self.server.url})"


def number(value: object) -> float:
    """A number that a server gave as one, or as text; 0 if it is none, or larger than 2^63."""
    try:
        found = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return 0.0
    return found if abs(found) < LARGEST else 0.0


def text(value: object) -> str:
    """A text or a number that a server gave; empty if it is neither."""
    if not isinstance(value, (str, int)) or isinstance(value, bool):
        return ""
    # JSON may hold halves of characters, which no file and no database takes.
    return str(value).encode("utf-8", "replace").decode()


def rows(value: object) -> list[dict[str, Any]]:
    """The objects of a list that a server gave."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def fields(value: object) -> dict[str, Any]:
    """The object that a server gave; empty if it is none."""
    return value if isinstance(value, dict) else {}
