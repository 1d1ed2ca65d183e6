"""`similar`, `path`, `radio`, `duplicates`: questions to the index, also while a run writes to it.

Milvus Lite lets in one process at a time, and opening it takes a second, so what it serves is
answered from the tables and the pooled vectors, by exact search. A server is asked itself for
what is similar; the other questions want all vectors at hand and read them here too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from embed_assets.commands.find import (
    OTHERS,
    Found,
    NotFound,
    find,
    find_all,
    name_of,
    not_indexed,
)
from embed_assets.commands.served import WAIT_SECONDS, held_ready, searcher_of, spec_of
from embed_assets.identity import IndexSpec
from embed_assets.index import filters, questions, search
from embed_assets.index.address import is_server
from embed_assets.index.collection import id_list, lite_serves
from embed_assets.index.connection import connect
from embed_assets.index.duplicates import Double
from embed_assets.index.duplicates import duplicates as found_twice
from embed_assets.index.filters import Condition
from embed_assets.index.parts import MOST_IDS
from embed_assets.index.recordings import first_takes
from embed_assets.index.search import Match
from embed_assets.index.searcher import Searcher
from embed_assets.index.wanted import vocabulary
from embed_assets.project import Project

__all__ = ["Answer", "NotFound", "as_json", "duplicates", "path", "radio", "similar"]

SPARE = 4
"""Hits a server is asked for, for each that is wanted, where some will be left out."""


@dataclass(frozen=True)
class Answer:
    """What was asked about, and the tracks found; score: cosine, -1 to 1.

    `spec`: what the vectors were made with, if that is known. `avoided`: what was to be left out.
    """

    found: tuple[Found, ...]
    matches: list[Match]
    spec: IndexSpec | None = None
    avoided: tuple[Found, ...] = ()

    @property
    def name(self) -> str:
        """What it was asked about, for people."""
        name = " and ".join(f.name for f in self.found)
        return f"{name}, not {' or '.join(f.name for f in self.avoided)}" if self.avoided else name

    @property
    def notes(self) -> list[str]:
        """Which tracks were taken where words fit several."""
        return [f.note for f in (*self.found, *self.avoided) if f.note]


def similar(
    project: Project,
    query: str | Sequence[str],
    n: int = 20,
    *,
    also: Sequence[str] = (),
    avoid: Sequence[str] = (),
    where: Sequence[Condition] = (),
    per_artist: int = 0,
    one_recording: bool = False,
) -> Answer:
    """The `n` tracks nearest to what `query` means: a path, several paths, a folder, or words.

    `also`: more of the same. `avoid`: what is nearer to these is left out, as they are. Of equal
    audio the track whose path sorts first is shown, with its `copies`. `one_recording`: see
    `questions.similar`.

    Raises:
        NotFound: no track fits, or it is not indexed.
        ConfigurationError: nothing is indexed yet.
    """
    words = [query] if isinstance(query, str) else list(query)
    seeds = [*find_all(project, words), *(find(project, q) for q in also)]
    unlike = [find(project, q) for q in avoid]
    name = None if is_server(project.uri) else lite_serves(project.uri)
    spec = spec_of(project, name) if name else None
    if spec is None:
        matches, spec = _asked(project, seeds, unlike, n, where, per_artist, one_recording)
    else:
        searcher = held_ready(project, spec)
        matches = questions.similar(
            searcher,
            _positions(searcher, seeds),
            n,
            avoid=_positions(searcher, unlike),
            where=where,
            per_artist=per_artist,
            one_recording=one_recording,
        )
    return Answer(tuple(seeds), matches, spec, tuple(unlike))


def path(
    project: Project,
    start: str,
    end: str,
    steps: int,
    where: Sequence[Condition] = (),
    *,
    one_recording: bool = False,
) -> Answer:
    """A smooth way from one track to another, both included; see `questions.path`.

    Of a folder its first track is taken, and its `notes` say so.
    """
    found = [find(project, start), find(project, end)]
    searcher = searcher_of(project)
    ends = [_one_of(searcher, one) for one in found]
    first, last = (_positions(searcher, [one])[0] for one in ends)
    way = questions.path(searcher, first, last, steps, where=where, one_recording=one_recording)
    return Answer(tuple(ends), way)


def radio(
    project: Project,
    query: str | Sequence[str],
    *,
    where: Sequence[Condition] = (),
    drift: float = 0.5,
    random: int | None = None,
    one_recording: bool = False,
) -> tuple[tuple[Found, ...], Iterator[Match]]:
    """Endless drift away from tracks; see `questions.radio`."""
    seeds = find_all(project, [query] if isinstance(query, str) else list(query))
    searcher = searcher_of(project)
    positions = _positions(searcher, seeds)
    drifting = questions.radio(
        searcher,
        positions,
        where=where,
        drift=drift,
        random=random,
        one_recording=one_recording,
    )
    return tuple(seeds), drifting


def duplicates(
    project: Project, least: float | None, where: Sequence[Condition] = ()
) -> list[Double]:
    """What the library has twice; see `index/duplicates.py`."""
    return found_twice(searcher_of(project), least, where=where)


def as_json(match: Match) -> dict[str, object]:
    """The object that the interface promises for a match, and more."""
    return asdict(match) | {"score": round(match.score, 6)}


def double_as_json(double: Double) -> dict[str, object]:
    """The object that the interface promises for what is there twice."""
    tracks = [as_json(t) for t in double.tracks]
    for track in tracks:
        del track["copies"]  # they are the other tracks
    return asdict(double) | {"tracks": tracks}


def _one_of(searcher: Searcher, found: Found) -> Found:
    """The first track that is indexed, where a folder was named."""
    if len(found.tracks) == 1:
        return found
    tracks = [t for t in found.tracks if searcher.find([t.track_id])]
    if not tracks:
        raise not_indexed(found)
    first, *others = tracks
    return Found((first,), name_of(first), tuple(others[:OTHERS]))


def _positions(searcher: Searcher, found: Sequence[Found]) -> list[int]:
    """Positions of what was found, each once; something of each must be indexed."""
    positions: dict[int, None] = {}
    for one in found:
        there = searcher.find(t.track_id for t in one.tracks)
        if not there:
            raise not_indexed(one)
        positions |= dict.fromkeys(there)
    return list(positions)


def _asked(
    project: Project,
    seeds: Sequence[Found],
    unlike: Sequence[Found],
    n: int,
    where: Sequence[Condition],
    per_artist: int,
    one_recording: bool = False,
) -> tuple[list[Match], IndexSpec | None]:
    """The same answer from Milvus itself, with the vectors that it serves; and their spec."""
    with connect(project.uri, project.token, wait_seconds=WAIT_SECONDS) as client:
        # The alias may move between two questions; the collection behind it stays.
        name = search.served_collection(client)
        near, mine = _mean(client, seeds, name)
        far, theirs = _mean(client, unlike, name) if unlike else (None, {})
        spec = spec_of(project, name)
        wanted = filters.expression(where, vocabulary(project.tables, spec or project.spec()))
        heard = [t for f in (*seeds, *unlike) for t in f.tracks]
        own = {t.audio_hash or "" for t in heard}
        if len(own) <= MOST_IDS:
            copies = f"audio_hash not in {id_list(sorted(own))}"
            wanted = f"({wanted}) and {copies}" if wanted else copies
        out = mine | theirs
        sifted = far is not None or per_artist or one_recording or len(own) > MOST_IDS
        many = SPARE * n if sifted else n
        while True:
            found = search.similar(client, near, many, out, name, where=wanted)
            kept = [m for m in found if m.audio_hash not in own]
            vectors = {}
            if far is not None or one_recording:
                vectors = search.vectors_of(client, [m.track_id for m in kept], name)
            if far is not None:
                # What was removed between the two questions is no answer.
                kept = [m for m in kept if m.track_id in vectors]
                kept = [m for m in kept if m.score >= float(vectors[m.track_id] @ far)]
            if one_recording:
                kept = first_takes(kept, heard, vectors | out, spec.recipe.encoder if spec else "")
            kept = search.at_most(kept, per_artist)
            if len(kept) >= n or len(found) < many or many >= search.PAGE:
                return kept[:n], spec
            many = min(SPARE * many, search.PAGE)


def _mean(
    client: object, found: Sequence[Found], name: str
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    vectors: dict[str, np.ndarray] = {}
    for one in found:
        there = search.vectors_of(client, [t.track_id for t in one.tracks], name)
        if not there:
            raise not_indexed(one)
        vectors |= there
    mean = np.mean(list(vectors.values()), axis=0, dtype=np.float64)
    return (mean / np.linalg.norm(mean)).astype(np.float32), vectors
