"""Moves finished vectors from a folder of work into portable shards; each lies in one place.

A kill at any moment leaves whole shards, and vectors that the next start packs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embed_assets.embedding.canary.spot_check import clips_of
from embed_assets.errors import TransientError
from embed_assets.identity import AudioHash, Recipe, RecipeDigest
from embed_assets.storage import shard_rows
from embed_assets.storage.database import HASHES_PER_CALL
from embed_assets.storage.folder_store import FolderStore
from embed_assets.storage.records import Embedding
from embed_assets.storage.shard_file import Contents, open_shard, shards_in, write_shard
from embed_assets.storage.shard_manifest import Origin, ShardManifest, ShardRefused
from embed_assets.storage.tables import Tables

MOST_TRACKS = 4096
MOST_BYTES = 256 << 20
"""Most tracks, and most bytes of vectors, in a shard."""

PACK_SECONDS = 600.0
"""After this time what is finished becomes a shard, so that it can be copied away."""

AT_HOME = "known at home"
"""The `note` of audio that is not to be embedded, as the library at home has its vectors."""


@dataclass(frozen=True)
class WorkStore(FolderStore):
    """The vectors under a recipe that are not packed yet.

    `elsewhere`: audio whose vectors are in shards, or at home; worker processes do not get it.
    """

    elsewhere: set[AudioHash] = field(default_factory=set, compare=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return FolderStore, (self.root,)

    def has(self, recipe_digest: RecipeDigest, audio_hash: AudioHash) -> bool:
        """Whether the audio need not be embedded."""
        return audio_hash in self.elsewhere or super().has(recipe_digest, audio_hash)

    def holds(self, audio: AudioHash, recipe: RecipeDigest) -> bool:
        """Whether its vectors are here, and not packed yet."""
        return super().has(recipe, audio)


class Packer:
    """Packs what is embedded under a recipe into shards of a folder.

    Methods raise TransientError if the disk fails or is full.
    """

    def __init__(
        self,
        folder: Path,
        recipe: Recipe,
        origin: Origin,
        tables: Tables,
        store: WorkStore,
    ) -> None:
        self.folder, self.recipe, self.origin = folder, recipe, origin
        self.tables, self.store = tables, store
        self.written: list[Path] = []
        """The shards that were written."""
        self._pending: dict[AudioHash, Embedding] = {}
        self._bytes = 0
        self._packed_at = time.monotonic()
        self._thread = ThreadPoolExecutor(1)
        self._packing: tuple[Future[None], dict[AudioHash, Embedding]] | None = None

    def resume(self, note: Callable[[str], None]) -> None:
        """Find out what the folder has already; `note` gets a line for each shard that is damaged.

        Call it before anything is embedded, once.
        """
        digest = self.recipe.digest
        rejected: set[AudioHash] = set()
        try:
            for unfinished in self.folder.glob(".shard-*.npz.tmp"):
                unfinished.unlink()
            shards = shards_in(self.folder)
            for path in shards:
                try:
                    with open_shard(path) as shard:
                        manifest = shard.manifest
                except ShardRefused as e:
                    note(f"{path}: {e}; what it had is embedded again")
                    continue
                if manifest.recipe_digest == digest:
                    rejected.update(row.audio for row in manifest.rejected)
                    self._know(manifest, path.stem)
        except OSError as e:
            raise TransientError(
                f"{self.folder}: {e.strerror or e}; check its permissions and the disk"
            ) from e
        known: set[AudioHash] = set()
        for row in shard_rows.embeddings(self.tables, digest):
            known.add(row.audio_hash)
            if row.reason is not None:
                unpacked = row.audio_hash not in rejected
            else:
                unpacked = self.store.holds(row.audio_hash, digest)
            if unpacked:
                self._add(row)
        # A worker was killed between storing vectors and telling how they were made.
        there = [entry.audio_hash for entry in self.store.entries(digest)]
        self.store.delete(digest, [audio for audio in there if audio not in known])

    def leave_out(self, hashes: Iterable[AudioHash]) -> None:
        """Do not embed this audio: its vectors are at home. Call it after `resume`."""
        digest = self.recipe.digest
        new = [h for h in hashes if not self.store.has(digest, h)]
        self.store.elsewhere.update(new)
        self._put_missing(Embedding(digest, h, note=AT_HOME) for h in new)

    def add(self, row: Embedding) -> None:
        """Take a finished embedding, or a rejection; writes a shard if there is enough for one.

        It is written in a thread, as a GPU would wait for it.
        """
        self._add(row)
        full = len(self._pending) >= MOST_TRACKS or self._bytes >= MOST_BYTES
        if full or time.monotonic() - self._packed_at >= PACK_SECONDS:
            self._begin_to_pack()

    def pack(self) -> None:
        """Write what was added as a shard, if there is anything; returns when it is on the disk."""
        self._begin_to_pack()
        self._end_packing()

    def _begin_to_pack(self) -> None:
        self._end_packing()
        self._packed_at = time.monotonic()
        rows = self._pending
        if rows:
            self._pending, self._bytes = {}, 0
            self._packing = self._thread.submit(self._write, list(rows.values())), rows

    def _end_packing(self) -> None:
        """Wait until the last shard is written; if that fails, its rows are pending again."""
        if self._packing is None:
            return
        (future, rows), self._packing = self._packing, None
        try:
            future.result()
        except BaseException:
            self._pending = rows | self._pending
            raise

    def _write(self, rows: list[Embedding]) -> None:
        durations = shard_rows.durations(self.tables, [row.audio_hash for row in rows])
        clips = clips_of(self.store, self.recipe.digest)
        contents = Contents(self.recipe, self.origin, rows, durations, clips, self.store)
        path, manifest = write_shard(self.folder, contents)
        self.written.append(path)
        packed = {track.audio for track in manifest.tracks}
        self.store.elsewhere.update(packed)
        self.store.delete(self.recipe.digest, packed)
        for row in rows:
            if row.reason is None and row.audio_hash not in packed:
                self.tables.forget_embedding(row.recipe, row.audio_hash)

    def _add(self, row: Embedding) -> None:
        self._pending[row.audio_hash] = row
        self._bytes += 4 * row.windows * len(self.recipe.frame_stats) * self.recipe.dim

    def _know(self, manifest: ShardManifest, name: str) -> None:
        """Have the tables and the store know what is in a shard."""
        digest, now = self.recipe.digest, time.time()
        packed = [track.audio for track in manifest.tracks]
        self.store.elsewhere.update(packed)
        self.store.delete(digest, packed)
        self._put_missing(row.row(digest, name, now) for row in manifest.tracks)
        self._put_missing(row.row(digest, name, now) for row in manifest.rejected)

    def _put_missing(self, rows: Iterable[Embedding]) -> None:
        every = {row.audio_hash: row for row in rows}
        hashes = list(every)
        for start in range(0, len(hashes), HASHES_PER_CALL):
            some = hashes[start : start + HASHES_PER_CALL]
            known = shard_rows.reasons(self.tables, self.recipe.digest, some)
            # What another shard rejected may have vectors in this one.
            new = [h for h in some if h not in known or (known[h] and not every[h].reason)]
            self.tables.put_embeddings(every[h] for h in new)
