"""What the routes work with: the library, and the ids that music servers give to its tracks."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from embed_assets.api import Library, Snapshot
from embed_assets.errors import ConfigurationError, TransientError
from embed_assets.http.models import Audio, ServerTrack, Track
from embed_assets.identity import track_id
from embed_assets.index.nearest import Match
from embed_assets.project import Project
from embed_assets.search.names import Found
from embed_assets.servers.ids import ServerIds

Ids = dict[str, dict[str, str]]
"""Track id -> name of a music server -> its id."""


@dataclass(frozen=True)
class Context:
    """The library and its music servers."""

    library: Library
    ids: ServerIds
    folder: str
    """The name under which the tracks of the library are known."""

    @classmethod
    def of(cls, library: Library) -> Context:
        """The context of a library; asks no music server yet."""
        settings = library.settings
        project = Project.of(settings)
        ids = ServerIds.of(settings.music_servers(), project.tables, settings.home)
        return cls(library, ids, project.library.name)

    def put_playlist(self, server: str, name: str, item_ids: Sequence[str]) -> str:
        """Create the playlist of this name on a server, or replace its tracks; returns its id.

        Raises:
            NotFound: there is no such server.
            ConfigurationError: no track is given, or the server takes no playlists.
            TransientError: the server cannot be reached.
        """
        client = self.ids.server(server)
        if not item_ids:
            raise ConfigurationError(
                f"the music server {server} has none of these tracks: `embed-assets doctor` says"
                " which of its tracks are known here"
            )
        with self.ids.asking(server):
            return client.put_playlist(name, item_ids)

    def named(self, snapshot: Snapshot, names: Sequence[Track]) -> tuple[Found, ...]:
        """The tracks that clients name; raises what `Snapshot.named` and `track_of` do."""
        return tuple(self._one(snapshot, name) for name in names)

    def ids_and_notes(
        self, matches: Iterable[Match], *, copies: bool = True
    ) -> tuple[Ids, list[str]]:
        """The same as `ids_for`; while they cannot be read, none, and a note that says so."""
        try:
            return self.ids_for(matches, copies=copies), []
        except TransientError as e:
            return {}, [f"without the ids of music servers: {e}"]

    def ids_for(self, matches: Iterable[Match], *, copies: bool = True) -> Ids:
        """The servers' ids of these tracks, or else, with `copies`, of files with their audio.

        Raises:
            TransientError: the ids cannot be read.
        """
        if not self.ids.servers:
            return {}
        same = {
            match.track_id: [
                match.track_id,
                *(track_id(self.folder, os.fsencode(p)) for p in match.copies if copies),
            ]
            for match in matches
        }
        known = self.ids.ids_of(one for several in same.values() for one in several)
        found: Ids = {}
        for track, several in same.items():
            ids: dict[str, str] = {}
            for one in reversed(several):
                ids |= known.get(one, {})
            found[track] = ids
        return found

    def _one(self, snapshot: Snapshot, name: Track) -> Found:
        if isinstance(name, Audio):
            return snapshot.with_audio(name.audio_hash)
        if isinstance(name, ServerTrack):
            return snapshot.named(self.ids.track_of(name.server, name.id))
        return snapshot.named(name)
