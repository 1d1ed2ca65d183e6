"""`union`: takes shards of other machines into the stored vectors and the tables.

Nothing of a shard is trusted: its recipe, its checksums, shapes and values are checked, and a few
tracks are embedded again. What the library has already stays as it is, so a union can be repeated.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embed_assets.embedding.canary.spot_check import Sample, SpotChecker
from embed_assets.embedding.embed_folders import EmbedContext
from embed_assets.errors import LibraryUnavailable, Reason
from embed_assets.formats import counted
from embed_assets.identity import Recipe
from embed_assets.library.walk import require_library
from embed_assets.operations.recipe_differences import recipe_differences
from embed_assets.project import Project
from embed_assets.settings import Settings
from embed_assets.storage import shard_rows
from embed_assets.storage.records import Embedding
from embed_assets.storage.shard_file import EntryDamaged, Shard, open_shard, shards_in
from embed_assets.storage.shard_manifest import ShardRefused, ShardTrack
from embed_assets.workers import open_pool

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
    """How many of its tracks were refused; null: all of it."""
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
    """Tracks that the other machine could not embed, and that were not known here."""
    not_in_library: int = 0
    """Of the new tracks, those whose audio no scanned file of the library has, so far."""
    checked: int = 0
    """Tracks that were embedded again to compare their vectors, beside the canary's clip."""
    unchecked: int = 0
    """Shards with new tracks that could not be compared: they have neither clip nor known music."""
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

    `check`: how many tracks of each shard are embedded again and compared.

    Raises:
        ConfigurationError: no such encoder, or its weights are not on this machine.
        TransientError: the tables or the stored vectors cannot be written.
    """
    started = time.monotonic()
    project = Project.of(settings)
    recipe = project.spec().recipe
    result = UnionResult()
    with _Checking(project, recipe, check, progress) as checking:
        taking = _Taking(project, recipe, checking, result)
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
        self, project: Project, recipe: Recipe, checking: _Checking, result: UnionResult
    ) -> None:
        self.tables, self.store, self.recipe = project.tables, project.store, recipe
        self.checking, self.result = checking, result

    def take(self, shard: Shard) -> int:
        """Take what is new in a shard; returns how many tracks.

        Raises:
            ShardRefused: its recipe or its vectors are not those of this machine.
            OSError: it cannot be read.
        """
        there = shard.manifest
        if there.recipe_digest != self.recipe.digest:
            raise ShardRefused(
                "its vectors are of other settings:"
                f" {recipe_differences(there.recipe, self.recipe)}"
            )
        missing = list(self._missing(shard))
        self.checking.compare(shard, missing, self.result)
        before = self.result.new
        damaged: list[str] = []
        for start in range(0, len(missing), TRACKS_AT_ONCE):
            self._take_some(shard, missing[start : start + TRACKS_AT_ONCE], damaged)
        if damaged:
            why = f"damaged: {damaged[0]}: copy the shard again, or embed them here"
            self.result.refused.append(Refused(str(shard.path), len(damaged), why))
        self._take_rejected(shard)
        return self.result.new - before

    def _missing(self, shard: Shard) -> Iterator[ShardTrack]:
        """The tracks of a shard that have no vectors here."""
        digest, tracks = self.recipe.digest, shard.manifest.tracks
        for start in range(0, len(tracks), shard_rows.HASHES_AT_ONCE):
            some = tracks[start : start + shard_rows.HASHES_AT_ONCE]
            known = shard_rows.reasons(self.tables, digest, [t.audio for t in some])
            for track in some:
                embedded = track.audio in known and known[track.audio] is None
                if embedded and self.store.has(digest, track.audio):
                    self.result.known += 1
                else:
                    yield track

    def _take_some(self, shard: Shard, tracks: Sequence[ShardTrack], damaged: list[str]) -> None:
        rows: list[Embedding] = []
        now = time.time()
        for track in tracks:
            try:
                windows = shard.read(track)
            except EntryDamaged as e:
                damaged.append(f"{track.audio_hash}: {e}")
                continue
            self.store.write(self.recipe.digest, track.audio, windows)
            rows.append(track.row(self.recipe.digest, shard.path.stem, now))
        self.tables.put_embeddings(rows)
        there = shard_rows.tracks_with(self.tables, [row.audio_hash for row in rows])
        self.result.new += len(rows)
        self.result.not_in_library += len(rows) - len(there)

    def _take_rejected(self, shard: Shard) -> None:
        digest, rejected = self.recipe.digest, shard.manifest.rejected
        for start in range(0, len(rejected), shard_rows.HASHES_AT_ONCE):
            some = [
                row
                for row in rejected[start : start + shard_rows.HASHES_AT_ONCE]
                if row.reason not in OF_ITS_MACHINE
            ]
            known = shard_rows.reasons(self.tables, digest, [row.audio for row in some])
            new = [row for row in some if row.audio not in known]
            now = time.time()
            self.tables.put_embeddings(row.row(digest, shard.path.stem, now) for row in new)
            self.result.rejected += len(new)


class _Checking:
    """Embeds a few tracks of each shard again, in a process that is started for the first one."""

    def __init__(
        self, project: Project, recipe: Recipe, number: int, progress: Callable[[str], None]
    ) -> None:
        self.number, self.progress = number, progress
        self.context = EmbedContext(
            project.library, recipe, project.choice, project.tables, project.store
        )
        self._processes = ExitStack()
        # Which tracks are chosen should not be known to who made the shard.
        self._random = random.SystemRandom()

    def __enter__(self) -> _Checking:
        return self

    def __exit__(self, *failed: Any) -> None:
        self._processes.__exit__(*failed)

    @cached_property
    def _checker(self) -> SpotChecker:
        if notice := self.context.choice.first_load_notice():
            self.progress(notice)
        return SpotChecker(self.context, self._processes.enter_context(open_pool(1)))

    def compare(self, shard: Shard, tracks: Sequence[ShardTrack], result: UnionResult) -> None:
        """Compare the clip and some of these tracks with what this machine makes of them.

        Raises:
            ShardRefused: they differ; says by how much.
        """
        if not self.number or not tracks:
            return
        found = self._checker.check(_clips(shard), self._samples(shard, tracks), self.number)
        result.checked += len(found.tracks)
        result.unchecked += not found.comparisons
        worst = found.worst
        if worst is None:
            return
        far = (
            f"{worst.name} has other vectors here (cosine distance {worst.distance:.2g}), made"
            f" there by {_maker(shard)}"
        )
        if found.passed:
            result.warnings.append(f"{shard.path.name}: taken, but {far}")
            return
        raise ShardRefused(
            f"{far}; {found.limit:.1g} is allowed. See docs/shards.md; `--check 0` takes it all the"
            " same"
        )

    def _has_library(self) -> bool:
        try:
            require_library(self.context.library.root)
        except LibraryUnavailable:
            return False
        return True

    def _samples(self, shard: Shard, tracks: Sequence[ShardTrack]) -> Iterator[Sample]:
        """Tracks that the library has, in random order."""
        if not self._has_library():
            return
        shuffled = self._random.sample(tracks, len(tracks))
        for start in range(0, len(shuffled), shard_rows.HASHES_AT_ONCE):
            some = shuffled[start : start + shard_rows.HASHES_AT_ONCE]
            there = shard_rows.tracks_with(self.context.tables, [t.audio for t in some])
            for track in some:
                if track.audio in there:
                    try:
                        yield Sample(there[track.audio], shard.read(track), track.dtype)
                    except EntryDamaged:
                        continue


def _clips(shard: Shard) -> Iterator[tuple[str, np.ndarray, str]]:
    """Formats of the clip, their vectors and dtype, as its machine made them."""
    for clip in shard.manifest.clips:
        with suppress(EntryDamaged):
            yield clip.format, shard.read_clip(clip), clip.dtype


def _maker(shard: Shard) -> str:
    origin, made = shard.manifest.origin, shard.manifest.tracks[0]
    host = f" on {origin.host}" if origin.host else ""
    return f"{made.engine}, {made.dtype}, {made.device}{host}"
