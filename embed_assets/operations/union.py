"""`union`: takes shards of other machines into the stored vectors and the tables.

Nothing of a shard is trusted: its recipe, its checksums, shapes and values are checked, a few
tracks are embedded again, and a few of those that it rejects are decoded. What the library has
already stays as it is, so a union can be repeated.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embed_assets.errors import Reason, TrackRejected
from embed_assets.formats import counted
from embed_assets.identity import Recipe
from embed_assets.operations.recipe_differences import recipe_differences
from embed_assets.operations.shard_checker import ShardChecker
from embed_assets.project import Project
from embed_assets.settings import Settings
from embed_assets.storage import shard_rows
from embed_assets.storage.database import HASHES_PER_CALL
from embed_assets.storage.owner import own_store
from embed_assets.storage.parallel import map_parallel
from embed_assets.storage.pooling import pool
from embed_assets.storage.records import Embedding
from embed_assets.storage.shard_file import EntryDamaged, Shard, open_shard, shards_in
from embed_assets.storage.shard_manifest import ShardRefused, ShardReject, ShardTrack

if TYPE_CHECKING:
    import numpy as np

TRACKS_AT_ONCE = 200
"""Tracks whose rows are written together: while they are, no other process writes rows."""

OF_ITS_MACHINE = frozenset({Reason.DECODER_CRASHED, Reason.DECODER_TIMED_OUT, Reason.BAD_VECTOR})
"""Rejections that another machine may not repeat, so that this one tries for itself."""


@dataclass(frozen=True)
class Refused:
    """Something that was not taken."""

    shard: str
    """The file, or the folder."""
    tracks: int | None
    """How many of its tracks were refused, or rejections of tracks; null: all of it."""
    reason: str
    """Why, and what to do."""


@dataclass
class UnionResult:
    """What `union --json` prints."""

    shards: int = 0
    """Shards that were read and not refused."""
    new: int = 0
    """Tracks whose vectors were taken."""
    known: int = 0
    """Tracks that had vectors already; they stay as they are."""
    rejected: int = 0
    """Tracks that the other machine could not embed, and that were not known here; taken."""
    not_in_library: int = 0
    """Of the new tracks, those whose audio no scanned file of the library has, so far."""
    checked: int = 0
    """Tracks of the shards that were taken that were embedded again, to compare their vectors."""
    unchecked: int = 0
    """Shards with new tracks that could not be compared: they have neither clip nor known music."""
    clip_only: int = 0
    """Shards whose new tracks were not scanned here, so only the canary's clip was compared."""
    rejected_checked: int = 0
    """Of the rejected tracks, those that were decoded here to compare; none of them could be."""
    rejected_unchecked: int = 0
    """Of the rejected tracks, those of shards none of whose rejected files was scanned here."""
    warnings: list[str] = field(default_factory=list)
    """What was taken and should be looked at."""
    refused: list[Refused] = field(default_factory=list)
    """What was not taken; if there is anything, the exit code is 1."""
    seconds: float = 0.0
    """How long it took."""

    def as_json(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        return asdict(self)


def union(
    settings: Settings,
    places: Sequence[Path],
    *,
    check: int = 2,
    progress: Callable[[str], None] = lambda _: None,
) -> UnionResult:
    """Take the shards in these folders, or these files; what is refused is in the result.

    `check`: how many tracks of each shard are embedded again and compared, and how many of those
    that it rejects are decoded.

    Raises:
        ConfigurationError: no such encoder, its weights are not on this machine, or the stored
            vectors are those of another library.
        TransientError: the tables or the stored vectors cannot be written.
    """
    started = time.monotonic()
    project = Project.of(settings)
    recipes = project.spec().recipes
    project = replace(project, store=own_store(project.tables, project.store))
    result = UnionResult()
    with ShardChecker(project, check, progress) as checking:
        taking = _Taking(project, recipes, checking, result)
        for path in _shards(places, result):
            try:
                with open_shard(path) as shard:
                    new = taking.take(shard)
            except ShardRefused as e:
                result.refused.append(Refused(str(path), None, str(e)))
            except OSError as e:
                why = f"it cannot be read: {e.strerror or e}; check the disk, or copy it again"
                result.refused.append(Refused(str(path), None, why))
            else:
                result.shards += 1
                progress(f"{path.name}: {counted(new, 'new track')}")
    result.seconds = round(time.monotonic() - started, 3)
    return result


def _shards(places: Sequence[Path], result: UnionResult) -> Iterator[Path]:
    for place in places:
        try:
            found = shards_in(place) if place.is_dir() else [place]
            if not place.exists():
                raise FileNotFoundError(None, "there is no such file or folder")
        except OSError as e:
            result.refused.append(Refused(str(place), None, f"{e.strerror or e}"))
            continue
        if not found:
            why = "there is no shard in this folder: their names end in .npz"
            result.refused.append(Refused(str(place), None, why))
        yield from found


class _Taking:
    """Takes shards, one after the other."""

    def __init__(
        self,
        project: Project,
        recipes: Sequence[Recipe],
        checking: ShardChecker,
        result: UnionResult,
    ) -> None:
        self.tables, self.store, self.recipes = project.tables, project.store, recipes
        self.vectors, self.checking, self.result = project.vectors, checking, result

    def take(self, shard: Shard) -> int:
        """Take what is new in a shard; returns how many tracks.

        Raises:
            ShardRefused: its recipe or its vectors are not those of this machine.
            OSError: it cannot be read.
        """
        there = shard.manifest
        if there.recipe not in self.recipes:
            words, lacks = self.vectors.words, self.vectors.words_missing()
            if lacks and words and there.recipe.encoder == words.name:
                raise ShardRefused(f"its vectors are for `find`: {lacks}")
            raise ShardRefused(
                "its vectors are of other settings:"
                f" {recipe_differences(there.recipe, self.recipes)}"
            )
        missing = self._missing(there.recipe, there.tracks)
        compared = self.checking.compare(shard, missing)
        self.result.known += len(there.tracks) - len(missing)
        self.result.checked += compared.tracks
        self.result.unchecked += compared.nothing
        self.result.clip_only += compared.clip_only
        if compared.warning:
            self.result.warnings.append(f"{shard.path.name}: taken, but {compared.warning}")
        before = self.result.new
        damaged: list[str] = []
        for start in range(0, len(missing), TRACKS_AT_ONCE):
            self._take_some(shard, missing[start : start + TRACKS_AT_ONCE], damaged)
        if damaged:
            why = f"damaged: {damaged[0]}: copy the shard again, or embed them here"
            self.result.refused.append(Refused(str(shard.path), len(damaged), why))
        self._take_rejected(shard)
        return self.result.new - before

    def _missing(self, recipe: Recipe, tracks: Sequence[ShardTrack]) -> list[ShardTrack]:
        """Those of these tracks that have no vectors here."""
        missing: list[ShardTrack] = []
        for start in range(0, len(tracks), HASHES_PER_CALL):
            some = tracks[start : start + HASHES_PER_CALL]
            known = shard_rows.reasons(self.tables, recipe.digest, [t.audio for t in some])
            embedded = {audio for audio, reason in known.items() if reason is None}
            embedded.difference_update(self.store.known_lost(recipe.digest, embedded))
            missing += [track for track in some if track.audio not in embedded]
        return missing

    def _take_some(self, shard: Shard, tracks: Sequence[ShardTrack], damaged: list[str]) -> None:
        digest, now = shard.manifest.recipe.digest, time.time()
        # A run may have embedded some of them while others were compared.
        missing = self._missing(shard.manifest.recipe, tracks)
        self.result.known += len(tracks) - len(missing)

        def intact() -> Iterator[tuple[Embedding, np.ndarray]]:
            for track in missing:
                try:
                    windows = shard.read(track)
                    pool(windows, "mean")
                except (EntryDamaged, TrackRejected) as e:
                    damaged.append(f"{track.audio_hash}: {e}")
                    continue
                yield track.row(digest, shard.path.stem, now), windows

        def write(one: tuple[Embedding, np.ndarray]) -> Embedding:
            row, windows = one
            # An entry without a row is replaced: the row says how this one was made.
            self.store.write(digest, row.audio_hash, windows, embedded_at=int(row.at), replace=True)
            return row

        rows = list(map_parallel(write, intact()))
        # What a person asked to be embedded again is embedded again.
        self.tables.put_embeddings(rows, finished=False)
        there = shard_rows.tracks_with(self.tables, [row.audio_hash for row in rows])
        self.result.new += len(rows)
        self.result.not_in_library += len(rows) - len(there)

    def _take_rejected(self, shard: Shard) -> None:
        digest, rejected = shard.manifest.recipe.digest, shard.manifest.rejected
        new: list[ShardReject] = []
        for start in range(0, len(rejected), HASHES_PER_CALL):
            some = rejected[start : start + HASHES_PER_CALL]
            known = shard_rows.reasons(self.tables, digest, [row.audio for row in some])
            new += [row for row in some if row.audio not in known]
        if unknown := [row.reason for row in new if row.known_reason is None]:
            self.result.warnings.append(
                f"{shard.path.name}: taken, but it rejects {counted(len(unknown), 'track')} for"
                f" reasons that this version does not know ({unknown[0]!r}): `sync` tries them here"
            )
        new = [row for row in new if row.known_reason and row.known_reason not in OF_ITS_MACHINE]
        compared = self.checking.compare_rejected(shard, new)
        if compared.refused:
            self.result.refused.append(Refused(str(shard.path), len(new), compared.refused))
            return
        now = time.time()
        for start in range(0, len(new), TRACKS_AT_ONCE):
            some = new[start : start + TRACKS_AT_ONCE]
            rows = [row.row(digest, shard.path.stem, now) for row in some]
            # A run may have embedded some of them since.
            self.tables.put_embeddings(rows, finished=False, keep=True)
        self.result.rejected += len(new)
        self.result.rejected_checked += compared.tracks
        self.result.rejected_unchecked += len(new) if compared.nothing else 0
