"""Any server with the Subsonic API: supysonic, gonic, LMS, Airsonic and others."""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from embed_assets.errors import EmbedAssetsError, TransientError
from embed_assets.servers.base import PAGE, Item
from embed_assets.servers.config import ServerConfig
from embed_assets.servers.web import LOOKUP_SECONDS, SECONDS, Web, fields, number, rows, text

API = "1.16.1"
CLIENT = "embed_assets"

MISSING_PARAMETER, WRONG_LOGIN, NO_TOKENS, NOT_FOUND = 10, 40, 41, 70
"""Error codes of the API. Servers without tokens say 41, or that the password is missing."""


class _Failed(TransientError):
    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Subsonic:
    """A server with the Subsonic API; see `MusicServer`."""

    has_events = False

    def __init__(self, server: ServerConfig) -> None:
        self.server = server
        self.web = Web(server)
        self._login: dict[str, str] | None = None
        self._type = ""
        self._lock = threading.Lock()

    def items(self) -> Iterator[Item]:
        """Every track of the server, in pages."""
        offset, before = 0, ""
        while True:
            answer = self.call(
                "search3",
                query="",
                songCount=PAGE,
                songOffset=offset,
                artistCount=0,
                albumCount=0,
            )
            songs = rows(fields(answer.get("searchResult3")).get("song"))
            first = text(songs[0].get("id")) if songs else ""
            if not songs or first == before:
                return  # A server that does not know `songOffset` gives the same page for ever.
            yield from map(self._item, songs)
            offset, before = offset + len(songs), first

    def item(self, item_id: str) -> Item | None:
        """The track with an id; None if the server has none."""
        parameters = {"id": item_id}
        try:
            answer = self._call("getSong", self._credentials(), parameters, LOOKUP_SECONDS)
        except _Failed as e:
            # Servers differ in what they say of an id that is none of theirs.
            if e.code in (0, MISSING_PARAMETER, NOT_FOUND):
                return None
            raise
        song = answer.get("song")
        return self._item(song) if isinstance(song, dict) else None

    def normal_id(self, item_id: str) -> str:
        """The id as it is."""
        return item_id

    def scan_state(self) -> str | None:
        """A text that changes when a scan ends; None while one goes on."""
        try:
            status = fields(self.call("getScanStatus").get("scanStatus"))
        except _Failed:
            # Only administrators may ask, or the server has no such method.
            return text(fields(self.call("getIndexes").get("indexes")).get("lastModified"))
        if status.get("scanning") is True:
            return None
        return f"{text(status.get('count'))} {text(status.get('lastScan'))}"

    def scan_ends(self) -> Iterator[None]:
        """None: the server does not say."""
        return iter(())

    def put_playlist(self, name: str, item_ids: Sequence[str]) -> str:
        """Create a playlist, or replace the tracks of the user's own one of this name; its id."""
        known = self.playlists().get(name)
        named = {"playlistId": known} if known else {"name": name}
        answer = self.call("createPlaylist", **named, songId=list(item_ids))
        made = answer.get("playlist")
        return text(made.get("id")) if isinstance(made, dict) else self.playlists().get(name, "")

    def playlists(self) -> dict[str, str]:
        """Name -> id of the user's playlists."""
        found = rows(fields(self.call("getPlaylists").get("playlists")).get("playlist"))
        mine = self._credentials().get("u", self.server.user)
        return {
            text(one.get("name")): text(one.get("id"))
            for one in found
            if text(one.get("owner")) in ("", mine)
        }

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The answer of a method; raises `TransientError` if it failed."""
        return self._call(method, self._credentials(), parameters)

    def login(self) -> dict[str, str]:
        """Parameters of a login that the server takes: a key, a token, or the password."""
        server = self.server
        if server.token:
            return {"apiKey": server.token}
        salt = secrets.token_hex(8)
        # The API wants it so; it is why a login over plain HTTP is worth a warning.
        digest = hashlib.md5((server.password + salt).encode(), usedforsecurity=False)
        tokens = {"u": server.user, "t": digest.hexdigest(), "s": salt}
        try:
            self._call("ping", tokens, {})
        except _Failed as e:
            if e.code not in (MISSING_PARAMETER, NO_TOKENS):
                raise
            return {"u": server.user, "p": f"enc:{server.password.encode().hex()}"}
        return tokens

    def _credentials(self) -> dict[str, str]:
        with self._lock:
            if self._login is None:
                self._login = self.login()
            return self._login

    def _call(
        self,
        method: str,
        login: dict[str, str],
        parameters: dict[str, Any],
        seconds: float = SECONDS,
    ) -> dict[str, Any]:
        form = {"v": API, "c": CLIENT, "f": "json"} | login | parameters
        answer = self.web.json("POST", f"/rest/{method}", data=form, timeout=seconds)
        body = answer.get("subsonic-response") if isinstance(answer, dict) else None
        if not isinstance(body, dict):
            raise self.web.another_kind()
        self._type = text(body.get("type")).lower()
        if body.get("status") != "ok":
            raise self._error(method, body.get("error"))
        return body

    def _error(self, method: str, error: object) -> EmbedAssetsError:
        known = fields(error)
        code, message = int(number(known.get("code"))), text(known.get("message"))
        if code in (WRONG_LOGIN, 42, 43, 44, 50) and method != "getScanStatus":
            return self.web.refused(message)
        return _Failed(code, f"{self.web} answered {method}: {message or f'error {code}'}")

    def _item(self, song: dict[str, Any]) -> Item:
        path = text(song.get("path"))
        if self._type == "navidrome" and not path.startswith("/"):
            # It makes up a path of the tags unless it is set up to say the real one.
            path = ""
        artists = [(text(a.get("id")), text(a.get("name"))) for a in rows(song.get("artists"))]
        artists = artists or [(text(song.get("artistId")), text(song.get("artist")))]
        return Item(
            id=text(song.get("id")),
            path=path,
            size=int(number(song.get("size"))),
            duration=number(song.get("duration")),
            title=text(song.get("title")),
            artist=text(song.get("artist")),
            album=text(song.get("album")),
            recording_id=text(song.get("musicBrainzId")),
            artists=tuple(pair for pair in artists if all(pair)),
        )
