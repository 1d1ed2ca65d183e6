"""`parts`: the tracks a part of which sounds like this, and where in them that is.

On Lite the file of window vectors is searched, for Lite itself lets in one process at a time; a
server is asked. The vectors of what is asked about come from the store on both.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from embed_assets import catalogue, reports
from embed_assets.commands.find import Found, find_all, not_indexed
from embed_assets.commands.served import WAIT_SECONDS, held_ready, served_spec, wanted_spec
from embed_assets.commands.similar import Answer
from embed_assets.errors import ConfigurationError, TrackRejected
from embed_assets.identity import IndexSpec
from embed_assets.index import filters
from embed_assets.index.address import is_server
from embed_assets.index.collection import PAGE, load
from embed_assets.index.connection import connect
from embed_assets.index.filters import Condition
from embed_assets.index.parts import Part, ask_parts, nearest_parts, seed_of
from embed_assets.index.questions import mask
from embed_assets.index.recordings import first_takes
from embed_assets.index.search import at_most, vectors_of
from embed_assets.index.searcher import Searcher
from embed_assets.index.wanted import vocabulary
from embed_assets.project import Project
from embed_assets.vectors.store import VectorsLost
from embed_assets.vectors.windowed import Windowed

MORE = 4
"""Tracks that are asked for, for each that is wanted, where some will be left out."""


def parts(
    project: Project,
    query: str | Sequence[str],
    n: int = 20,
    *,
    part: tuple[float, float | None] | None = None,
    where: Sequence[Condition] = (),
    per_artist: int = 0,
    one_recording: bool = False,
) -> tuple[Answer, list[str]]:
    """The `n` tracks with the part nearest to a part of what `query` means, and notes for people.

    `part`: from and to, in seconds; without an end the window there; None: the whole track, or
    tracks. The matches are `Part`s, one an audio, with the place of the best window in it; copies
    of what was asked for are left out. `one_recording`: as `questions.similar`.

    Raises:
        NotFound: no track fits, or it is not indexed.
        ConfigurationError: nothing is indexed yet, or no parts are.
    """
    seeds = find_all(project, [query] if isinstance(query, str) else list(query))
    spec = _require_parts(project)
    notes = _unfinished(project, spec)
    windowed = Windowed(project.store, spec)
    vector, more = _direction(project, spec, windowed, seeds, part)
    exclude = {t.audio_hash or "" for f in seeds for t in f.tracks}
    many = MORE * n if per_artist or one_recording else n
    searcher = None if is_server(project.uri) else held_ready(project, spec.of_parts)
    while True:
        if searcher is None:
            found = _asked(project, spec, vector, many, exclude, where)
        else:
            allowed = mask(searcher, where) & ~searcher.of_audio(exclude)
            found = nearest_parts(searcher, windowed, vector, many, allowed)
        kept = _distinct(project, spec, searcher, seeds, found) if one_recording else found
        kept = at_most(kept, per_artist)
        if len(kept) >= n or len(found) < many or many >= PAGE:
            return Answer(tuple(seeds), kept[:n], spec), notes + more
        many = min(MORE * many, PAGE)


def _require_parts(project: Project) -> IndexSpec:
    """What is served, if it has parts."""
    spec = served_spec(project)
    if not project.parts:
        raise ConfigurationError(
            "parts of tracks are not indexed: set EMBED_PARTS=true and run `embed-assets sync`. It"
            " embeds nothing again; docs/index.md says what it costs"
        )
    name = spec.of_parts.collection
    if name in catalogue.known(project.tables, project.uri):
        return spec
    if (wanted := wanted_spec(project)) and spec.collection == wanted.collection:
        raise ConfigurationError("parts of tracks are not indexed yet: run `embed-assets sync`")
    raise ConfigurationError(
        f"{spec.collection} is served, which has no parts; those of these settings are found once"
        " their collection is served: `embed-assets collections` says what it waits for"
    )


def _unfinished(project: Project, spec: IndexSpec) -> list[str]:
    missing = catalogue.unfinished(project.tables, project.uri, spec.of_parts)
    if not missing:
        return []
    return [f"the parts of {missing} folders are not indexed as they are now: `embed-assets sync`"]


def _direction(
    project: Project,
    spec: IndexSpec,
    windowed: Windowed,
    seeds: Sequence[Found],
    part: tuple[float, float | None] | None,
) -> tuple[np.ndarray, list[str]]:
    """Mean of the windows that are meant, float32 `[dim]` of length 1, and notes for people."""
    start, end = part or (None, None)
    total = np.zeros(spec.dim)
    notes = []
    for one in seeds:
        there = reports.embeddings_of(
            project.tables, spec.recipe.digest, [t.audio_hash or "" for t in one.tracks]
        )
        known = [t for t in one.tracks if t.audio_hash in there]
        if not known:
            raise not_indexed(one)
        for track in known:
            try:
                seed, inside = seed_of(windowed, track, there[track.audio_hash], start, end)
            except (VectorsLost, TrackRejected) as e:
                raise ConfigurationError(
                    f"the stored vectors of {one.name} are gone or of no use ({e}):"
                    " `embed-assets retry PATH` has it embedded again"
                ) from e
            total += seed.vectors.mean(axis=0, dtype=np.float64)
            if not inside:
                notes.append(_nearest_note(one, seed.windows[0], spec))
    norm = float(np.linalg.norm(total))
    if norm < 1e-6:
        raise ConfigurationError("these cancel each other out: ask with fewer of them")
    return (total / norm).astype(np.float32), notes[:5]


def _nearest_note(found: Found, window: tuple[float, float], spec: IndexSpec) -> str:
    start, length = window
    return (
        f"that part of {found.name} was not embedded: took the nearest that was,"
        f" {clock(start)}..{clock(start + length)} (EMBED_WINDOWS={spec.recipe.windows})"
    )


def _asked(
    project: Project,
    spec: IndexSpec,
    vector: np.ndarray,
    n: int,
    exclude: set[str],
    where: Sequence[Condition],
) -> list[Part]:
    wanted = filters.expression(where, vocabulary(project.tables, spec.layers[0]))
    with connect(project.uri, project.token, wait_seconds=WAIT_SECONDS) as client:
        for one in (spec, spec.of_parts):
            load(client, one.collection)
        return ask_parts(client, spec, vector, n, exclude=exclude, where=wanted)


def _distinct(
    project: Project,
    spec: IndexSpec,
    searcher: Searcher | None,
    seeds: Sequence[Found],
    found: list[Part],
) -> list[Part]:
    """Those that may not be one recording with one before them, or with what was asked for."""
    heard = [t for f in seeds for t in f.tracks]
    ids = [*(t.track_id for t in heard), *(p.track_id for p in found)]
    if searcher is None:
        with connect(project.uri, project.token, wait_seconds=WAIT_SECONDS) as client:
            vectors = vectors_of(client, ids, spec.collection)
    else:
        vectors = {t: searcher.vectors([i])[0] for t in ids for i in searcher.find([t])}
    return first_takes(found, heard, vectors, spec.recipe.encoder)


def clock(seconds: float) -> str:
    """Seconds as people write a place in a track: `1:05`, `1:02:03`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
