"""Queries and answers as pydantic models; the OpenAPI document is generated from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from embed_assets.index.nearest import Match
from embed_assets.search.answers import Result

MOST_RESULTS = 500
MOST_SEEDS = 64
MOST_EXCLUDED = 1_000
MOST_SONGS = 20
LONGEST_TEXT = 4_096
MOST_PHRASES = 16
LONGEST_PHRASE = 1_000

Text = Annotated[str, Field(min_length=1, max_length=LONGEST_TEXT)]
Phrase = Annotated[str, Field(min_length=1, max_length=LONGEST_PHRASE)]


class Model(BaseModel):
    """What has exactly these fields."""

    model_config = ConfigDict(extra="forbid")


class Audio(Model):
    """Names a track by the hash of its audio."""

    audio_hash: Annotated[str, Field(pattern="^[0-9a-f]{32}$")]


class ServerTrack(Model):
    """Names a track by the id that a music server of EMBED_SERVERS gives it."""

    server: Annotated[str, Field(min_length=1, max_length=32)]
    id: Annotated[str, Field(min_length=1, max_length=256)]


Track = Annotated[
    Text | Audio | ServerTrack,
    Field(
        description="A track id, a path relative to the library (of a track or a folder), words of"
        " title and artist, or an object with `audio_hash`, or with `server` and `id`."
    ),
]
Seeds = Annotated[list[Track], Field(min_length=1, max_length=MOST_SEEDS)]
Where = Annotated[
    list[Text],
    Field(
        max_length=MOST_SEEDS,
        description="Conditions that must all hold, e.g. `genre=jazz`, `year=1955..1965`.",
    ),
]
Count = Annotated[int, Field(ge=1, le=MOST_RESULTS, description="Most results.")]
OneRecording = Annotated[
    bool,
    Field(description="Of tracks that may be one recording, return only the best."),
]


class SimilarQuery(Model):
    """A query for similar tracks."""

    seeds: Seeds
    avoid: Annotated[
        list[Track],
        Field(
            max_length=MOST_SEEDS,
            description="Drops results that are closer to these than to the seeds.",
        ),
    ] = []
    n: Count = 20
    where: Where = []
    per_artist: Annotated[int, Field(ge=0, description="Most per artist; 0: no limit.")] = 0
    one_recording: OneRecording = False
    least: Annotated[
        float, Field(ge=-1.0, le=1.0, description="Lowest score, a cosine.", allow_inf_nan=False)
    ] = -1.0
    exclude: Annotated[
        list[Text],
        Field(max_length=MOST_EXCLUDED, description="Ids of tracks that must not be returned."),
    ] = []


class PathQuery(Model):
    """A query for a path from one track to another."""

    start: Track
    end: Track
    steps: Annotated[
        int, Field(ge=2, le=MOST_RESULTS, description="Tracks, both ends included.")
    ] = 10
    where: Where = []
    one_recording: OneRecording = False


class RadioQuery(Model):
    """A query for the next tracks of a radio. The client keeps what was played."""

    seeds: Seeds
    n: Count = 50
    drift: Annotated[
        float,
        Field(ge=0.0, le=1.0, description="0 stays near the seeds, 1 follows the last track."),
    ] = 0.5
    random: Annotated[
        int | None, Field(ge=0, le=2**53 - 1, description="The same number, the same tracks.")
    ] = None
    where: Where = []
    one_recording: OneRecording = False
    played: Annotated[
        list[Text],
        Field(max_length=MOST_EXCLUDED, description="Ids of played tracks; none comes again."),
    ] = []


class PartsQuery(Model):
    """A query for the tracks with a part that sounds like a part of the seeds."""

    seeds: Seeds
    part: Annotated[
        str,
        Field(max_length=64, description="`1:30..2:00`, or a position; empty: the whole track."),
    ] = ""
    n: Count = 20
    where: Where = []
    per_artist: Annotated[int, Field(ge=0, description="Most per artist; 0: no limit.")] = 0
    one_recording: OneRecording = False


class FindQuery(Model):
    """A query for music by words of what is heard."""

    phrases: Annotated[
        list[Phrase],
        Field(
            min_length=1,
            max_length=MOST_PHRASES,
            description="What is to be heard; two to four short phrases, which are averaged.",
        ),
    ]
    without: Annotated[
        list[Phrase],
        Field(max_length=MOST_PHRASES, description="Phrases of which half is subtracted."),
    ] = []
    like: Annotated[
        list[Track],
        Field(max_length=MOST_SEEDS, description="Results should be like these as well."),
    ] = []
    n: Count = 20
    where: Where = []
    per_artist: Annotated[int, Field(ge=0, description="Most per artist; 0: no limit.")] = 0
    one_recording: OneRecording = False


class ArtistsQuery(Model):
    """A query for the artists that sound most like one."""

    artist: Annotated[Text, Field(description="A name, or words of one.")]
    n: Count = 20
    songs: Annotated[int, Field(ge=0, le=MOST_SONGS, description="Tracks of each artist.")] = 3


class FoundTrack(Model):
    """A track of an answer."""

    track_id: str
    path: Annotated[str, Field(description="Relative to the library.")]
    title: str
    artist: str
    album: str
    duration: Annotated[float, Field(description="In seconds.")]
    score: Annotated[float, Field(description="A cosine, from -1 to 1.")]
    copies: Annotated[list[str], Field(description="Paths of other tracks with this audio.")]
    ids: Annotated[
        dict[str, str], Field(description="The ids at music servers, by the server's name.")
    ] = {}
    start: Annotated[float | None, Field(description="Of the part, in seconds.")] = None
    end: Annotated[float | None, Field(description="Of the part, in seconds.")] = None
    deviations: Annotated[
        float | None,
        Field(description="Of `find`: standard deviations of the score above the library's mean."),
    ] = None


_TRACK_FIELDS = tuple(FoundTrack.model_fields)


class Answer(Model):
    """The answer to a query."""

    matches: list[FoundTrack]
    notes: Annotated[list[str], Field(description="E.g. which track was taken for words.")]
    seeds: Annotated[list[str], Field(description="The names of the tracks that were meant.")]
    encoder: str

    @classmethod
    def of(
        cls,
        result: Result,
        matches: Sequence[Match],
        seeds: list[str],
        notes: Sequence[str],
        ids: dict[str, dict[str, str]],
    ) -> Answer:
        """The answer with these matches of a result; `ids`: of music servers, by track id."""
        return cls(
            matches=[found_track(m, ids.get(m.track_id)) for m in matches],
            notes=[*notes, *(note for note in result.notes if note not in notes)],
            seeds=seeds,
            encoder=result.encoder,
        )


class FoundArtist(Model):
    """An artist of an answer, with the tracks that are nearest to the artist of the query."""

    artist: str
    score: Annotated[float, Field(description="A cosine, from -1 to 1.")]
    tracks: list[FoundTrack]


class ArtistsAnswer(Model):
    """The artists that sound most like `artist`, best first."""

    artist: str
    tracks: Annotated[list[FoundTrack], Field(description="Typical tracks of the artist.")]
    artists: list[FoundArtist]
    notes: list[str]


class Problem(BaseModel):
    """An error in the format of RFC 9457; `detail` is the sentence that the command line prints."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str


def found_track(match: Match, ids: dict[str, str] | None = None) -> FoundTrack:
    """A match as clients get it."""
    known: dict[str, Any] = {name: getattr(match, name, None) for name in _TRACK_FIELDS}
    known |= {"copies": list(match.copies), "ids": ids or {}}
    # Validation would cost as much as a tenth of a query.
    return FoundTrack.model_construct(None, **known)
