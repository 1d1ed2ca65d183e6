"""What is known of the music servers in EMBED_SERVERS, for `status` and `doctor`; asks none."""

from __future__ import annotations

from dataclasses import dataclass

from embed_assets.errors import TransientError
from embed_assets.formats import counted
from embed_assets.servers.side_table import Listing, SideTable
from embed_assets.settings import Settings

NAMED = 5
"""Unmatched tracks that `doctor` names for each server."""


@dataclass(frozen=True)
class ServerRow:
    """A music server, and how many of its tracks are known here."""

    name: str
    """Its name in EMBED_SERVERS."""
    kind: str
    """`navidrome`, `subsonic`, `jellyfin` or `lyrion`."""
    items: int
    """Tracks of the server."""
    mapped: int
    """Those that are tracks of the library."""
    unmatched: int
    """Those that are not, or fit several tracks."""
    listed_at: float | None
    """When all were listed last, in seconds since 1970; null: never."""
    problem: str
    """Why that failed since; empty if it did not."""


def music_servers(settings: Settings) -> list[ServerRow]:
    """The servers in the order of EMBED_SERVERS."""
    rows = []
    for server in settings.music_servers():
        known = _listing(settings, server.name)
        rows.append(
            ServerRow(
                server.name,
                server.kind,
                known.items,
                known.mapped,
                known.unmatched,
                known.listed_at,
                known.problem,
            )
        )
    return rows


def describe(settings: Settings) -> str:
    """The servers for people, with some of the tracks that are not matched.

    Raises:
        TransientError: the last attempt to list a server failed.
    """
    rows = music_servers(settings)
    if not rows:
        return "EMBED_SERVERS is not set"
    failed = [row.problem for row in rows if row.problem]
    if failed:
        raise TransientError("; ".join(failed))
    return "; ".join(_sentence(settings, row) for row in rows)


def _sentence(settings: Settings, row: ServerRow) -> str:
    if row.listed_at is None:
        return f"{row.name}: not listed yet; `embed-assets serve` does it"
    text = f"{row.name}: {row.mapped} of {counted(row.items, 'track')} known"
    if not row.unmatched:
        return text
    some = SideTable(settings.home).unmatched(row.name, NAMED)
    names = ", ".join(item.path or f"{item.artist} - {item.title}" for item in some)
    more = ", ..." if row.unmatched > len(some) else ""
    return f"{text}; none of the library, or several: {names}{more}"


def _listing(settings: Settings, server: str) -> Listing:
    table = SideTable(settings.home)
    # Only `serve` makes the file.
    return table.listing(server) if table.path.exists() else Listing()
