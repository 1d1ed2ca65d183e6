"""Duplicates: identical audio, and pairs that may be the same recording."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from embed_assets.encoders.cards import same_recording_cosine
from embed_assets.index.nearest import Match
from embed_assets.search.exact import mask
from embed_assets.search.filters import Condition
from embed_assets.search.recordings import alike
from embed_assets.search.snapshot import Snapshot


@dataclass(frozen=True)
class DuplicateGroup:
    """Tracks with identical audio, or two that may be the same recording."""

    certain: bool
    """True for identical audio, false for a suggested pair."""
    score: float
    """The cosine of the pair; 1 for identical audio."""
    tracks: tuple[Match, ...]
    """The tracks: matches without `copies`."""

    def as_json(self) -> dict[str, object]:
        """The object that `duplicates --json` prints."""
        tracks = [asdict(t) for t in self.tracks]
        for track in tracks:
            del track["copies"]  # The other tracks of the group.
        return asdict(self) | {"tracks": tracks}


def duplicates(
    searcher: Snapshot, min_score: float | None = None, *, where: Sequence[Condition] = ()
) -> list[DuplicateGroup]:
    """Duplicates in the library: identical audio first, then suggested pairs, likeliest first.

    Identical audio has equal hashes. A suggested pair has different audio, durations that differ by
    at most 2 s, and a cosine of at least `min_score` (None: the encoder's default). It may be
    another encoding or another master of one recording, or just sound very similar.
    """
    searcher = searcher.snapshot()
    if min_score is None:
        min_score = same_recording_cosine(searcher.spec.recipe.encoder)
    if where:
        return _duplicates(searcher, min_score, where)
    return searcher.once(("duplicates", min_score), lambda: _duplicates(searcher, min_score, ()))


def _duplicates(
    searcher: Snapshot, min_score: float, where: Sequence[Condition]
) -> list[DuplicateGroup]:
    allowed = mask(searcher, where)
    by_audio: dict[str, list[int]] = {}
    for i, track in searcher.tracks():
        if allowed[i]:
            by_audio.setdefault(track.audio, []).append(i)
    found = [
        DuplicateGroup(
            certain=True,
            score=1.0,
            tracks=tuple(sorted((searcher.match(i, 1.0) for i in same), key=lambda m: m.path)),
        )
        for same in by_audio.values()
        if len(same) > 1
    ]
    found.sort(key=lambda d: d.tracks[0].path)
    firsts = [same[0] for same in by_audio.values()]
    seconds = [searcher.track(i).duration for i in firsts]
    found_alike = alike(
        seconds, lambda some: searcher.vectors([firsts[k] for k in some]), min_score
    )
    pairs = sorted(((score, firsts[a], firsts[b]) for score, a, b in found_alike), reverse=True)
    return found + [
        DuplicateGroup(
            certain=False, score=score, tracks=(searcher.match(a, score), searcher.match(b, score))
        )
        for score, a, b in pairs
    ]
