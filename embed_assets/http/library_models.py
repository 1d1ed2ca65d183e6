"""What clients get when they ask about the library as a whole."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from embed_assets.http.models import FoundTrack, Model


class ListedTrack(Model):
    """An indexed track."""

    track_id: str
    path: str
    title: str
    artist: str
    album: str
    genre: str
    year: int
    duration: float
    audio_hash: str


class TrackPage(Model):
    """Some of the indexed tracks, ordered by path."""

    tracks: list[ListedTrack]
    after: Annotated[
        str | None, Field(description="Send this as `after` for the next page; null at the end.")
    ]


class ErrorRow(Model):
    """A rejected track or a failed folder."""

    path: Annotated[str, Field(description="The track or the folder.")]
    folder: str
    reason: str
    message: Annotated[str, Field(description="What happened, and what to do.")]
    at: Annotated[float, Field(description="In seconds since 1970.")]
    run_id: Annotated[str, Field(description="The Dagster run; empty if it was none.")]
    partition: Annotated[str, Field(description="The Dagster partition of the folder.")]


class ServerRow(Model):
    """A music server of EMBED_SERVERS, and how many of its tracks are known here."""

    name: str
    items: Annotated[int, Field(description="Tracks of the server.")]
    mapped: Annotated[int, Field(description="Those that are tracks of the library.")]
    unmatched: Annotated[int, Field(description="Those that are not, or fit several tracks.")]
    listed_at: Annotated[
        float | None, Field(description="When all were listed last, in seconds since 1970.")
    ]
    problem: Annotated[str, Field(description="Why that failed since; empty if it did not.")]


class StatusAnswer(Model):
    """How many tracks there are, by the tables; the library is not walked for it."""

    tracks: int
    embedded: int
    rejected: int
    pending: int
    folders: int
    folders_indexed: int
    folders_failed: Annotated[int, Field(description="Folders whose last run failed.")]
    served: Annotated[str | None, Field(description="The collection that answers queries.")]
    encoder: str
    words: Annotated[bool, Field(description="Whether music is found by words: `/v1/find`.")]
    words_pending: Annotated[
        int, Field(description="Tracks that are still to be embedded for it (EMBED_WORDS).")
    ] = 0
    indexed_at: Annotated[
        float | None, Field(description="Last change of the index, in seconds since 1970.")
    ]
    rate: Annotated[float, Field(description="Tracks embedded per second, over two minutes.")]
    eta: Annotated[
        float | None, Field(description="Seconds until `pending` are embedded; null if unknown.")
    ]
    ui: Annotated[
        str | None,
        Field(description="Address of the Dagster UI of a running `up`, on its machine."),
    ]
    parts: Annotated[bool, Field(description="Whether parts can be asked for (EMBED_PARTS).")]
    servers: list[ServerRow]


class Duplicates(Model):
    """Tracks with identical audio, or two that may be the same recording."""

    certain: Annotated[bool, Field(description="Identical audio; false: a suggested pair.")]
    score: Annotated[float, Field(description="The cosine of the pair; 1 for identical audio.")]
    tracks: list[FoundTrack]


class DuplicatesPage(Model):
    """Some of the duplicates: identical audio first, then pairs, likeliest first."""

    groups: list[Duplicates]
    notes: Annotated[list[str], Field(description="What to know about the answer.")]
    after: Annotated[
        int | None, Field(description="Send this as `after` for the next page; null at the end.")
    ]


class Points(Model):
    """The tracks of the map, in columns of equal length."""

    track_id: list[str]
    path: Annotated[list[str], Field(description="Relative to the library.")]
    title: list[str]
    artist: list[str]
    duration: Annotated[list[float], Field(description="In seconds.")]
    x: Annotated[list[float], Field(description="From 0 to 1.")]
    y: Annotated[list[float], Field(description="From 0 to 1.")]
    group: Annotated[list[int], Field(description="Index into `groups`: the colour.")]


class MapAnswer(Model):
    """The library as a picture: similar tracks are close."""

    points: Points
    groups: Annotated[list[str], Field(description="Largest first; the last may be `others`.")]
    by: Annotated[str, Field(description="What the groups are: `genre` or `folder`.")]
    method: Annotated[str, Field(description="`tsne` or `pca`.")]
    drawing: Annotated[
        bool, Field(description="A better or newer map is being drawn: ask again in a minute.")
    ]


class ExportedTrack(ListedTrack):
    """An indexed track with its vector."""

    vector: Annotated[
        str, Field(description="float32, little-endian, of length 1, in base64; empty if not asked")
    ]


class ExportPage(Model):
    """Some of the indexed tracks with their vectors, ordered by path."""

    tracks: list[ExportedTrack]
    after: Annotated[
        str | None, Field(description="Send this as `after` for the next page; null at the end.")
    ]
    served: Annotated[str, Field(description="The collection; another one has other vectors.")]
    encoder: str


class LookAnswer(Model):
    """A request to scan the library now. Times are in seconds since 1970; null: still to come."""

    look: Annotated[int, Field(description="Its number, for `GET /v1/look/{look}`.")]
    requested_at: float
    begun_at: float | None
    done_at: Annotated[
        float | None,
        Field(description="When the scan was over; what is new is embedded and indexed after it."),
    ]
