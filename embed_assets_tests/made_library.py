"""A made-up library in tables and store, without audio: for what is between them and the index."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from embed_assets.context import IndexContext
from embed_assets.identity import IndexSpec, Recipe, digest, folder_id, track_id
from embed_assets.index.folders import index_library, mirror_to_served
from embed_assets.index.promotion import ServingStatus, promote_if_ready
from embed_assets.library.manifest import MusicFolder
from embed_assets.storage.folder_store import FolderStore
from embed_assets.storage.records import Embedding, Track
from embed_assets.storage.tables import Tables
from embed_assets_tests.postgres import tables_at

DIM = 16


def spec_of(pooling: str = "mean", weights: str = "w") -> IndexSpec:
    return IndexSpec(Recipe("acoustic", weights, 24000, DIM, 10.0, 3), pooling)


MEAN, ENRICHED, OTHER = spec_of(), spec_of("enriched"), spec_of(weights="other")


def windows_of(audio_hash: str, weights: str = "w") -> np.ndarray:
    rng = np.random.default_rng(int(digest(audio_hash, weights)[:15], 16))
    return rng.standard_normal((3, 1, DIM)).astype(np.float32)


@dataclass
class Shelf:
    """Albums of three tracks, scanned and embedded."""

    root: Path
    address: str
    albums: dict[bytes, list[Track]] = field(default_factory=dict)

    @property
    def library(self) -> MusicFolder:
        return MusicFolder(self.root / "music")

    @property
    def tables(self) -> Tables:
        return tables_at(self.root / "home/tables.sqlite")

    @property
    def store(self) -> FolderStore:
        return FolderStore(self.root / "home/vectors")

    def put(self, path: bytes, *specs: IndexSpec, tracks: list[Track] | None = None) -> None:
        """Scan an album (again), and embed it for these specs."""
        folder = folder_id(self.library.name, path)
        if tracks is None:
            tracks = [self._track(path, folder, i) for i in range(3)]
        self.tables.begin_scan(folder, path, "scan")
        self.tables.put_tracks(tracks, "scan")
        version = digest("version", *(repr(t) for t in tracks))
        # A scan of its own, so that what is not among `tracks` goes.
        self.tables.begin_scan(folder, path, version)
        self.tables.keep_tracks(folder, [t.track_id for t in tracks], version)
        self.tables.finish_scan(folder, version, version, len(tracks))
        self.albums[path] = tracks
        self.embed(specs, tracks)

    def embed(self, specs: Iterable[IndexSpec], tracks: list[Track]) -> None:
        """Store windows of these tracks under the recipes of these specs."""
        for recipe in {s.recipe.digest: s.recipe for s in specs}.values():
            for t in tracks:
                windows = windows_of(t.audio_hash or "", recipe.weights)
                self.store.write(recipe.digest, t.audio_hash or "", windows, replace=True)
            self.tables.put_embeddings(
                [Embedding(recipe.digest, t.audio_hash or "", 3, 30.0) for t in tracks]
            )

    def retag(self, path: bytes, title: str) -> None:
        """Give the tracks of an album another title."""
        self.put(path, tracks=[replace(t, title=title) for t in self.albums[path]])

    def index(self, client, spec: IndexSpec, paths: Iterable[bytes] | None = None) -> ServingStatus:
        """What a run of these folders (all) does to the index."""
        paths = list(self.albums if paths is None else paths)
        context = self.context(spec)
        for report in index_library(client, context, paths):
            assert not isinstance(report, tuple), report
        mirror_to_served(client, context, paths)
        return promote_if_ready(client, context)

    def context(self, spec: IndexSpec) -> IndexContext:
        return IndexContext(self.library, self.tables, self.store, spec, self.address)

    def _track(self, path: bytes, folder: str, i: int) -> Track:
        full = os.path.join(path, b"%d.ogg" % i)
        return Track(
            track_id(self.library.name, full),
            folder,
            full,
            1,
            1,
            1,
            digest("audio", full),
            duration=180.0,
            title=f"Title {i}",
        )


def shelf_of(root: Path, address: str, albums: int, *specs: IndexSpec) -> Shelf:
    """A shelf of so many albums, embedded for these specs; not indexed."""
    made = Shelf(root, address)
    for i in range(albums):
        made.put(b"Artist/Album %02d" % i, *specs)
    return made
