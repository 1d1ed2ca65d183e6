"""Navidrome, by its own API, which says the real paths of files.

Its playlists and scans go through the Subsonic API. Requests as Navidrome 0.64 takes them
(model/mediafile.go, server/events, server/auth.go).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

from embed_assets.servers.base import PAGE, Item
from embed_assets.servers.config import ServerConfig
from embed_assets.servers.subsonic import Subsonic
from embed_assets.servers.web import LOOKUP_SECONDS, SECONDS, Web, number, rows, text

HEADER = "X-ND-Authorization"

SILENT_SECONDS = 60.0
"""After such a silence the connection for events is made anew; Navidrome sends one every 15 s."""


class Navidrome:
    """A Navidrome server; see `MusicServer`."""

    has_events = True

    def __init__(self, server: ServerConfig) -> None:
        self.server = server
        self.web = Web(server)
        self.subsonic = Subsonic(server)
        self._token = ""
        self._lock = threading.Lock()

    def items(self) -> Iterator[Item]:
        """Every track of the server, in pages, without those whose files are missing."""
        start = 0
        while True:
            songs = rows(
                self._json(
                    "/api/song",
                    {"_start": start, "_end": start + PAGE, "_sort": "id", "_order": "ASC"},
                )
            )
            yield from (_item(song) for song in songs if song.get("missing") is not True)
            start += len(songs)
            if len(songs) < PAGE:
                return

    def item(self, item_id: str) -> Item | None:
        """The track with an id; None if the server has none."""
        song = self._json(f"/api/song/{quote(item_id, safe='')}", {}, LOOKUP_SECONDS)
        there = isinstance(song, dict) and song.get("missing") is not True
        return _item(song) if there else None

    def normal_id(self, item_id: str) -> str:
        """The id as it is: case counts."""
        return item_id

    def scan_state(self) -> str | None:
        """A text that changes when a scan ends; None while one goes on."""
        return self.subsonic.scan_state()

    def scan_ends(self) -> Iterator[None]:
        """Yield whenever the server says that a scan has ended, until the connection ends."""
        headers = {HEADER: self._bearer(anew=True), "Accept": "text/event-stream"}
        event = ""
        for line in self.web.lines("/api/events", headers, SILENT_SECONDS):
            name, _, value = line.partition(":")
            if name == "event":
                event = value.strip()
            elif name == "data" and event == "scanStatus" and '"scanning":true' not in value:
                yield

    def put_playlist(self, name: str, item_ids: Sequence[str]) -> str:
        """Create a playlist, or replace the tracks of the user's own one of this name; its id."""
        return self.subsonic.put_playlist(name, item_ids)

    def playlists(self) -> dict[str, str]:
        """Name -> id of the user's playlists."""
        return self.subsonic.playlists()

    def _json(self, path: str, parameters: dict[str, Any], seconds: float = SECONDS) -> Any:
        for again in (True, False):
            token = self._bearer(anew=not again)
            answer = self.web.request(
                "GET", path, params=parameters, headers={HEADER: token}, timeout=seconds
            )
            # A token ends after SessionTimeout.
            if answer.status_code != 401 or not again:
                return self.web.read(answer, path)
        raise AssertionError

    def _bearer(self, *, anew: bool) -> str:
        with self._lock:
            if anew or not self._token:
                login = {"username": self.server.user, "password": self.server.password}
                found = self.web.json("POST", "/auth/login", json=login)
                token = text(found.get("token")) if isinstance(found, dict) else ""
                if not token:
                    raise self.web.another_kind()
                self._token = f"Bearer {token}"
            return self._token


def _item(song: dict[str, Any]) -> Item:
    path, root = text(song.get("path")), text(song.get("libraryPath"))
    if root and path and not path.startswith("/"):
        path = f"{root.rstrip('/')}/{path}"
    participants = song.get("participants")
    artists = rows(participants.get("artist")) if isinstance(participants, dict) else []
    pairs = [(text(a.get("id")), text(a.get("name"))) for a in artists]
    pairs = pairs or [(text(song.get("artistId")), text(song.get("artist")))]
    return Item(
        id=text(song.get("id")),
        path=path,
        size=int(number(song.get("size"))),
        duration=number(song.get("duration")),
        title=text(song.get("title")),
        artist=text(song.get("artist")),
        album=text(song.get("album")),
        recording_id=text(song.get("mbzRecordingID")),
        artists=tuple(pair for pair in pairs if all(pair)),
    )
