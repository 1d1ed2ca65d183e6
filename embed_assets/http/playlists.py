"""Playlists on music servers: `/v1/playlists`, and the servers there are."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from pydantic import Field

from embed_assets.http.context import Context
from embed_assets.http.library_models import ServerRow
from embed_assets.http.models import MOST_EXCLUDED, Model, Text
from embed_assets.http.problems import ERRORS
from embed_assets.http.state import servers_of


class PlaylistQuery(Model):
    """Tracks for a playlist on a music server, in order."""

    server: Annotated[str, Field(min_length=1, max_length=32, description="Its name.")]
    name: Annotated[str, Field(min_length=1, max_length=200)]
    track_ids: Annotated[list[Text], Field(min_length=1, max_length=MOST_EXCLUDED)]


class PlaylistAnswer(Model):
    """The playlist on the server."""

    id: Annotated[str, Field(description="The server's id of the playlist.")]
    tracks: Annotated[int, Field(description="Tracks that it has now.")]
    left_out: Annotated[list[str], Field(description="Ids of tracks that the server lacks.")]


def playlists(context: Context) -> APIRouter:
    """The routes about music servers."""
    routes = APIRouter(prefix="/v1", tags=["music servers"], responses=ERRORS)

    @routes.get("/servers")
    def servers() -> list[ServerRow]:
        """The music servers, and how many of their tracks are known here."""
        return servers_of(context)

    @routes.post("/playlists")
    def put(query: PlaylistQuery) -> PlaylistAnswer:
        """Create a playlist on a music server, or replace the user's own one of this name."""
        # The server may have another file with the audio of an indexed track.
        indexed = context.library.snapshot().matches(query.track_ids)
        ids = context.ids.ids_of(query.track_ids) | context.ids_for(indexed)
        known = {track: ids.get(track, {}).get(query.server) for track in query.track_ids}
        there = [one for one in known.values() if one]
        made = context.put_playlist(query.server, query.name, there)
        left_out = [track for track, one in known.items() if not one]
        return PlaylistAnswer(id=made, tracks=len(there), left_out=left_out)

    return routes
