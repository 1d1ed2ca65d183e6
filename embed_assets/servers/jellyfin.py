"""Jellyfin, by its API of version 10.9 and later."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

from embed_assets.errors import ConfigurationError
from embed_assets.servers.base import PAGE, Item
from embed_assets.servers.config import ServerConfig
from embed_assets.servers.web import LOOKUP_SECONDS, Web, fields, number, rows, text

CLIENT = 'MediaBrowser Client="embed_assets", Device="embed_assets", DeviceId="embed_assets"'
TICKS = 10_000_000
"""Ticks in a second."""

FIELDS = "Path,ProviderIds,MediaSources"


class Jellyfin:
    """A Jellyfin server; see `MusicServer`. Its token is an API key, or that of a login."""

    has_events = False

    def __init__(self, server: ServerConfig) -> None:
        self.server = server
        self.web = Web(server)
        self._token, self._user = server.token, ""
        self._lock = threading.Lock()

    def items(self) -> Iterator[Item]:
        """Every track of the server, in pages."""
        start = 0
        while True:
            answer = self._json("GET", "/Items", params=_audio(StartIndex=start, Limit=PAGE))
            found = rows(fields(answer).get("Items"))
            yield from map(_item, found)
            start += len(found)
            if len(found) < PAGE:
                return

    def item(self, item_id: str) -> Item | None:
        """The track with an id; None if the server has none."""
        if len(item_id) != 32 or not item_id.isalnum():
            return None
        answer = self._json("GET", "/Items", params=_audio(Ids=item_id), timeout=LOOKUP_SECONDS)
        found = [_item(one) for one in rows(fields(answer).get("Items"))]
        return next((one for one in found if one.id == item_id), None)

    def normal_id(self, item_id: str) -> str:
        """The id without dashes, in lower case."""
        return item_id.replace("-", "").lower()

    def scan_state(self) -> str | None:
        """A text that changes when a scan ends; None while one goes on."""
        tasks = rows(self._json("GET", "/ScheduledTasks"))
        scan = next((task for task in tasks if task.get("Key") == "RefreshLibrary"), {})
        if text(scan.get("State")) not in ("", "Idle"):
            return None
        last = scan.get("LastExecutionResult")
        return text(last.get("EndTimeUtc")) if isinstance(last, dict) else ""

    def scan_ends(self) -> Iterator[None]:
        """None: the server does not say."""
        return iter(())

    def put_playlist(self, name: str, item_ids: Sequence[str]) -> str:
        """Create a playlist, or replace the tracks of the user's own one of this name; its id."""
        body = {"Name": name, "Ids": list(item_ids), "UserId": self._user_id()}
        if known := self.playlists().get(name):
            self._json("POST", f"/Playlists/{known}", json=body)
            return known
        made = self._json("POST", "/Playlists", json=body | {"MediaType": "Audio"})
        return self.normal_id(text(fields(made).get("Id")))

    def playlists(self) -> dict[str, str]:
        """Name -> id of the user's playlists."""
        user = self._user_id()
        answer = self._json(
            "GET",
            "/Items",
            params={"UserId": user, "IncludeItemTypes": "Playlist", "Recursive": "true"},
        )
        return {
            text(one.get("Name")): self.normal_id(text(one.get("Id")))
            for one in rows(fields(answer).get("Items"))
        }

    def _json(self, method: str, path: str, **more: Any) -> Any:
        headers = {"Authorization": f'{CLIENT}, Token="{self._key()}"'}
        found = self.web.json(method, path, headers=headers, **more)
        if found is None:
            raise self.web.another_kind()
        return found

    def _key(self) -> str:
        with self._lock:
            if not self._token:
                login = {"Username": self.server.user, "Pw": self.server.password}
                path = "/Users/AuthenticateByName"
                headers = {"Authorization": f'{CLIENT}, Version="1"'}
                found = fields(self.web.json("POST", path, json=login, headers=headers))
                self._token = text(found.get("AccessToken"))
                user = found.get("User")
                self._user = text(user.get("Id")) if isinstance(user, dict) else ""
                if not self._token:
                    raise self.web.another_kind()
            return self._token

    def _user_id(self) -> str:
        self._key()
        if not self._user:
            users = rows(self._json("GET", "/Users"))
            names = {text(one.get("Name")).casefold(): text(one.get("Id")) for one in users}
            found = names.get(self.server.user.casefold())
            if not found:
                raise ConfigurationError(
                    f"{self.web} has no user {self.server.user!r}, whose playlists these would be:"
                    f" set {self.server.variables}_USER to one of {', '.join(names) or 'its users'}"
                )
            self._user = found
        return self._user


def _audio(**more: Any) -> dict[str, Any]:
    fixed = {"Recursive": "true", "IncludeItemTypes": "Audio", "Fields": FIELDS}
    return fixed | {"SortBy": "SortName", "EnableTotalRecordCount": "false"} | more


def _item(found: dict[str, Any]) -> Item:
    sources = rows(found.get("MediaSources"))
    providers = found.get("ProviderIds")
    artists = [(text(a.get("Id")), text(a.get("Name"))) for a in rows(found.get("ArtistItems"))]
    return Item(
        id=text(found.get("Id")).replace("-", "").lower(),
        path=text(found.get("Path")).replace("\\", "/"),
        size=int(number(sources[0].get("Size"))) if sources else 0,
        duration=number(found.get("RunTimeTicks")) / TICKS,
        title=text(found.get("Name")),
        artist="; ".join(name for _, name in artists) or text(found.get("AlbumArtist")),
        album=text(found.get("Album")),
        recording_id=text(providers.get("MusicBrainzRecording"))
        if isinstance(providers, dict)
        else "",
        artists=tuple((i.replace("-", "").lower(), name) for i, name in artists if i and name),
    )
