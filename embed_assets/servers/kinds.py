"""The kinds of music servers: one line each."""

from __future__ import annotations

from collections.abc import Callable

from embed_assets.servers.base import MusicServer
from embed_assets.servers.config import ServerConfig
from embed_assets.servers.jellyfin import Jellyfin
from embed_assets.servers.lyrion import Lyrion
from embed_assets.servers.navidrome import Navidrome
from embed_assets.servers.subsonic import Subsonic

CLASSES: dict[str, Callable[[ServerConfig], MusicServer]] = {
    "navidrome": Navidrome,
    "subsonic": Subsonic,
    "jellyfin": Jellyfin,
    "lyrion": Lyrion,
}


def connect(server: ServerConfig) -> MusicServer:
    """The client of a server; sends nothing yet."""
    return CLASSES[server.kind](server)
