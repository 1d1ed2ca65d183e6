"""The index as AudioMuse-AI's plugins see it: tracks by the ids of one music server."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from embed_assets.api import Snapshot
from embed_assets.http.context import Context
from embed_assets.http.models import MOST_RESULTS
from embed_assets.index.nearest import Match
from embed_assets.search.names import Found

PER_ARTIST = 3
"""Most tracks of an artist with `eliminate_duplicates=true`."""

MOST_LISTED = 1_000
"""Most results of a search for words."""

SPARE = 2
"""This many times the requested tracks are searched for, as the server may lack some."""

Row = dict[str, Any]


class Ingredient(BaseModel):
    """A track or an artist of an alchemy, to be like or to avoid."""

    id: Annotated[str, Field(min_length=1, max_length=256)]
    op: Literal["ADD", "SUBTRACT"] = "ADD"
    type: str = "song"


class ServerView:
    """A snapshot, and the music server whose ids name its tracks; without a server, their own."""

    def __init__(self, context: Context, server: str) -> None:
        self.context = context
        self.snapshot: Snapshot = context.library.snapshot()
        self.server = server or next(iter(context.ids.servers), "")
        if server:
            context.ids.server(server)

    def track(self, item_id: str) -> Found:
        """The track with an id of the server, or of ours."""
        if self.snapshot.has(item_id) or not self.server:
            return self.snapshot.named(item_id)
        return self.snapshot.named(self.context.ids.track_of(self.server, item_id))

    def called(self, title: str, artist: str) -> Found:
        """The track with words of its title and artist."""
        return self.snapshot.named(f"{title} {artist}".strip())

    def ingredient(self, one: Ingredient) -> Found:
        """The track of an ingredient, or the typical tracks of its artist."""
        if one.type != "artist":
            return self.track(one.id)
        found = self.snapshot.artists(self.artist(one.id), n=0, songs=PER_ARTIST)
        return Found(
            tuple(self.snapshot.named(m.track_id).tracks[0] for m in found.tracks), found.artist
        )

    def artist(self, name_or_id: str) -> str:
        """The name of an artist whom the server means by an id, or the text itself."""
        known = self.context.ids.table.artist_name(self.server, name_or_id) if self.server else None
        return known or name_or_id

    def artist_id(self, name: str) -> str:
        """The server's id of an artist; its name where there is none."""
        found = self.context.ids.table.artist_id(self.server, name) if self.server else ""
        return found or name

    def similar(
        self, seeds: Sequence[Found], avoid: Sequence[Found], n: int, per_artist: int = 0
    ) -> list[Row]:
        """The `n` tracks of the server nearest to the seeds."""
        n = min(n, MOST_RESULTS)
        found = self.snapshot.similar(
            tracks=[t.track_id for one in seeds for t in one.tracks],
            avoid=[t.track_id for one in avoid for t in one.tracks],
            n=SPARE * n if self.server else n,
            per_artist=per_artist,
        )
        return self.rows(found)[:n]

    def search(self, words: str) -> list[Row]:
        """The tracks with these words, as people search."""
        some = islice(self.snapshot.listed(words), SPARE * MOST_LISTED)
        return self.rows(self.snapshot.matches([row["track_id"] for row in some]))[:MOST_LISTED]

    def rows(self, matches: Iterable[Match]) -> list[Row]:
        """The matches that the server has, by its ids."""
        found = list(matches)
        if not self.server:
            return [_row(match, match.track_id) for match in found]
        ids = self.context.ids_for(found)
        known = ((match, ids.get(match.track_id, {}).get(self.server)) for match in found)
        return [_row(match, one) for match, one in known if one]


def _row(match: Match, item_id: str) -> Row:
    return {
        "item_id": item_id,
        "title": match.title,
        "author": match.artist,
        "album": match.album,
        "distance": round(1 - match.score, 6),
    }
