"""Lyrion Music Server (once Logitech Media Server, Squeezebox), by its JSON-RPC."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

from embed_assets.errors import ConfigurationError
from embed_assets.servers.base import PAGE, Item
from embed_assets.servers.config import ServerConfig
from embed_assets.servers.web import LOOKUP_SECONDS, SECONDS, Web, number, rows, text

TAGS = "tags:adflsu"
"""Artist, duration, size of the file, album, id of the artist, URL."""


class Lyrion:
    """A Lyrion server; see `MusicServer`."""

    has_events = False

    def __init__(self, server: ServerConfig) -> None:
        self.web = Web(server)
        if server.user:
            self.web.client.auth = (server.user, server.password)

    def items(self) -> Iterator[Item]:
        """Every track of the server, in pages."""
        start = 0
        while True:
            answer = self._call("titles", start, PAGE, TAGS)
            found = rows(answer.get("titles_loop"))
            yield from (_item(one) for one in found)
            start += len(found)
            if len(found) < PAGE:
                return

    def item(self, item_id: str) -> Item | None:
        """The track with an id; None if the server has none."""
        if not item_id.isdecimal():
            return None
        answer = self._call("songinfo", 0, 100, f"track_id:{item_id}", TAGS, seconds=LOOKUP_SECONDS)
        fields: dict[str, Any] = {}
        for one in rows(answer.get("songinfo_loop")):
            fields |= one
        return _item(fields) if text(fields.get("id")) == item_id else None

    def normal_id(self, item_id: str) -> str:
        """The id as it is: a number."""
        return item_id

    def scan_state(self) -> str | None:
        """A text that changes when a scan ends; None while one goes on."""
        status = self._call("serverstatus", 0, 0)
        return None if number(status.get("rescan")) else text(status.get("lastscan"))

    def scan_ends(self) -> Iterator[None]:
        """None: the server does not say."""
        return iter(())

    def put_playlist(self, name: str, item_ids: Sequence[str]) -> str:  # noqa: ARG002
        """Not offered."""
        raise ConfigurationError(
            f"{self.web} takes no playlists from here: write one with --m3u into its folder of"
            " playlists"
        )

    def playlists(self) -> dict[str, str]:
        """None: they cannot be written."""
        return {}

    def _call(self, *words: str | int, seconds: float = SECONDS) -> dict[str, Any]:
        body = {"id": 1, "method": "slim.request", "params": ["", list(words)]}
        answer = self.web.json("POST", "/jsonrpc.js", json=body, timeout=seconds)
        result = answer.get("result") if isinstance(answer, dict) else None
        if not isinstance(result, dict):
            raise self.web.another_kind()
        return result


def _item(found: dict[str, Any]) -> Item:
    url = urlsplit(text(found.get("url")))
    artist, artist_id = text(found.get("artist")), text(found.get("artist_id"))
    return Item(
        id=text(found.get("id")),
        path=unquote(url.path) if url.scheme == "file" else "",
        size=int(number(found.get("filesize"))),
        duration=number(found.get("duration")),
        title=text(found.get("title")),
        artist=artist,
        album=text(found.get("album")),
        artists=((artist_id, artist),) if artist_id and artist else (),
    )
