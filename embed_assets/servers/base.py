"""What every kind of music server offers, and what it gives: items and playlists."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

PAGE = 500
"""Items per request."""


@dataclass(frozen=True, slots=True)
class Item:
    """A track of a music server. What the server does not say is empty, or 0.

    `path`: as the server sees it: absolute, or relative to its library. `duration` in seconds,
    `size` in bytes, `artists`: pairs of the server's id and the name.
    """

    id: str
    path: str = ""
    size: int = 0
    duration: float = 0.0
    title: str = ""
    artist: str = ""
    album: str = ""
    recording_id: str = ""
    artists: tuple[tuple[str, str], ...] = ()


class MusicServer(Protocol):
    """A music server.

    Every method raises `TransientError` if the server cannot be reached or fails, and
    `ConfigurationError` if it refuses the login.
    """

    has_events: bool
    """Whether the server can say by itself that a scan has ended."""

    def items(self) -> Iterator[Item]:
        """Every track of the server, in pages of `PAGE`."""

    def item(self, item_id: str) -> Item | None:
        """The track with an id; None if the server has none."""

    def normal_id(self, item_id: str) -> str:
        """The form in which the server itself writes an id."""

    def scan_state(self) -> str | None:
        """A text that changes when a scan of the server ends; None while one goes on."""

    def scan_ends(self) -> Iterator[None]:
        """Yield whenever the server says that a scan has ended, until the connection ends."""

    def put_playlist(self, name: str, item_ids: Sequence[str]) -> str:
        """Create a playlist, or replace the tracks of the user's own one of this name; its id."""

    def playlists(self) -> dict[str, str]:
        """Name -> id of the user's playlists."""
