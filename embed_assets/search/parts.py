"""`parts`: the tracks with a part that sounds like the query, and where that part is.

The vectors of the query are always read from the store.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from embed_assets.errors import ConfigurationError, TrackRejected
from embed_assets.identity import IndexSpec
from embed_assets.index.milvus_compat import PAGE
from embed_assets.index.nearest import at_most
from embed_assets.project import Project
from embed_assets.search.answers import Filters
from embed_assets.search.filters import seconds
from embed_assets.search.local import LocalAnswers
from embed_assets.search.milvus import MilvusAnswers
from embed_assets.search.names import Found, not_indexed
from embed_assets.search.recordings import first_takes
from embed_assets.search.segments import Part, seed_of
from embed_assets.search.served import wanted_spec
from embed_assets.storage import collection_registry, queries
from embed_assets.storage.records import Track
from embed_assets.storage.segment_vector_file import SegmentVectorFile
from embed_assets.storage.vector_store import VectorsLost

MORE = 4
"""How many times as many tracks are requested if some may be left out."""

Range = tuple[float, float | None]
"""Start and end in seconds; an end of None means the window that contains the start."""


def part_of(text: str) -> Range | None:
    """Parse a part of a track into seconds: `1:30..2:00`, `12:05`, `..2m`.

    Raises:
        ConfigurationError: it is not a part.
    """
    if not text.strip():
        return None
    begin, dots, end = text.partition("..")
    try:
        start = seconds(begin) if begin.strip() else 0.0
        stop = (seconds(end) if end.strip() else float("inf")) if dots else None
    except ValueError as e:
        raise ConfigurationError(
            f"part {text!r}: {e}; write FROM..TO, or a position: 1:30..2:00, 90s..2m, 12:05"
        ) from None
    if stop is not None and stop <= start:
        raise ConfigurationError(f"part {text!r}: it ends before it begins")
    return start, stop


def parts(
    answers: LocalAnswers | MilvusAnswers,
    spec: IndexSpec,
    seeds: Sequence[Found],
    part: Range | None,
    n: int,
    filters: Filters,
) -> tuple[list[Part], list[str]]:
    """The `n` tracks with the part nearest to a part of the seeds, and notes for people.

    `part`: None is the whole track. One result per audio, with the position of its best window;
    copies of the seeds are left out.

    Raises:
        NotFound: a seed is not indexed.
        ConfigurationError: no parts are indexed.
    """
    project = answers.project
    require_parts(project, spec)
    notes = _unfinished(project, spec)
    windowed = SegmentVectorFile(project.store, spec)
    vector, more = _direction(project, windowed, seeds, part)
    exclude = {t.audio for f in seeds for t in f.tracks}
    limit = MORE * n if filters.per_artist or filters.one_recording else n
    while True:
        found = answers.nearest_parts(windowed, vector, limit, exclude, filters.where)
        kept = found
        if filters.one_recording:
            heard = [t for f in seeds for t in f.tracks]
            ids = [*(t.track_id for t in heard), *(p.track_id for p in found)]
            kept = first_takes(found, heard, answers.vectors_of(ids), spec.recipe.encoder)
        kept = at_most(kept, filters.per_artist)
        if len(kept) >= n or len(found) < limit or limit >= PAGE:
            return kept[:n], notes + more
        limit = min(MORE * limit, PAGE)


def has_parts(project: Project, spec: IndexSpec) -> bool:
    """Whether the settings ask for parts and the spec has a collection of them."""
    known = collection_registry.known(project.tables, project.uri) if project.vectors.parts else ()
    return spec.segment_spec.collection in known


def require_parts(project: Project, spec: IndexSpec) -> None:
    """Check that parts are indexed.

    Raises:
        ConfigurationError: they are not; says what to do.
    """
    if not project.vectors.parts:
        raise ConfigurationError(
            "parts of tracks are not indexed: set EMBED_PARTS=true for every command, `up` and"
            " `serve` too, start these again, and run `embed-assets sync`. Nothing is embedded"
            " again; docs/index.md has the cost"
        )
    if has_parts(project, spec):
        return
    if (wanted := wanted_spec(project)) and spec.collection == wanted.collection:
        raise ConfigurationError("parts of tracks are not indexed yet: run `embed-assets sync`")
    raise ConfigurationError(
        f"{spec.collection} is served, and it has no parts. They can be found once the collection"
        " of the current settings is served; see `embed-assets collections`"
    )


def clock(seconds: float) -> str:
    """Seconds as a position in a track: `1:05`, `1:02:03`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _unfinished(project: Project, spec: IndexSpec) -> list[str]:
    missing = collection_registry.unfinished(project.tables, project.uri, spec.segment_spec)
    if not missing:
        return []
    return [
        f"the parts of {missing} folders are not indexed yet, or out of date: run `embed-assets"
        " sync`"
    ]


def _direction(
    project: Project, windowed: SegmentVectorFile, seeds: Sequence[Found], part: Range | None
) -> tuple[np.ndarray, list[str]]:
    """Mean of the windows of the query, float32 `[dim]` of length 1, and notes for people."""
    spec = windowed.spec
    start, end = part or (None, None)
    total = np.zeros(spec.dim)
    notes = []
    for one in seeds:
        there = queries.embeddings_of(
            project.tables, spec.recipe.digest, [t.audio for t in one.tracks]
        )
        known = [t for t in one.tracks if t.audio_hash in there]
        if not known:
            raise not_indexed(one)
        for track in known:
            try:
                seed, inside = seed_of(windowed, track, there[track.audio], start, end)
            except (VectorsLost, TrackRejected) as e:
                raise ConfigurationError(
                    f"the stored vectors of {one.name} cannot be used ({e}): `embed-assets retry"
                    " PATH` embeds it again"
                ) from e
            total += seed.vectors.mean(axis=0, dtype=np.float64)
            if not inside:
                notes.append(_nearest_note(one, track, seed.windows[0], start or 0.0, spec))
    norm = float(np.linalg.norm(total))
    if norm < 1e-6:
        raise ConfigurationError("their vectors cancel each other out: name fewer of them")
    return (total / norm).astype(np.float32), notes[:5]


def _nearest_note(
    found: Found, track: Track, window: tuple[float, float], start: float, spec: IndexSpec
) -> str:
    begin, length = window
    used = f"{clock(begin)}..{clock(begin + length)}"
    if start >= track.duration:
        return (
            f"{found.name} ends at {clock(track.duration)}, before that part; used {used} instead"
        )
    return (
        f"that part of {found.name} is not embedded; used the nearest embedded part, {used}"
        f" (EMBED_WINDOWS={spec.recipe.windows})"
    )
