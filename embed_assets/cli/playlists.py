"""`--m3u` and `--to`: where a result is written besides the terminal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import typer

from embed_assets.api import Library
from embed_assets.cli.options import print_notes
from embed_assets.formats import counted
from embed_assets.search.answers import Result


@dataclass(frozen=True)
class Playlists:
    """A file, and a playlist of a music server as `SERVER:NAME`; each may be None."""

    library: Library
    m3u: Path | None
    to: str | None

    def write(self, result: Result) -> None:
        """Write a result to each, and print what was written and what was left out."""
        if self.m3u is not None:
            left_out = result.to_m3u(self.m3u)
            print_notes([*left_out, f"{len(result) - len(left_out)} tracks written to {self.m3u}"])
        if self.to is not None:
            self._put(self.to, result)

    def _put(self, to: str, result: Result) -> None:
        from embed_assets.http.context import Context

        server, _, name = to.partition(":")
        if not name.strip():
            raise typer.BadParameter("write SERVER:NAME, the name of a server in EMBED_SERVERS")
        context = Context.of(self.library)
        context.ids.server(server)
        if context.ids.listings()[server].listed_at is None:
            print_notes([f"listing the tracks of the music server {server}"])
            context.ids.refresh(server)
        ids = context.ids_for(result)
        there = [ids[m.track_id][server] for m in result if server in ids.get(m.track_id, {})]
        context.put_playlist(server, name, there)
        lacks = [m.path for m in result if server not in ids.get(m.track_id, {})]
        print_notes(
            [
                *(f"left out of {to}: {path} (the server does not have it)" for path in lacks),
                f"{counted(len(there), 'track')} put into the playlist {name} of {server}",
            ]
        )
