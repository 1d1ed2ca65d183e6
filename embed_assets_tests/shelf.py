"""A library without audio: tables, store and a Lite index of made-up tracks, for questions."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from embed_assets.context import IndexContext
from embed_assets.identity import IndexSpec, Recipe, digest, folder_id, track_id
from embed_assets.index.connection import connect
from embed_assets.index.folders import index_library
from embed_assets.index.promotion import promote_if_ready
from embed_assets.library.manifest import MusicFolder
from embed_assets.search.searcher import Searcher
from embed_assets.storage.folder_store import FolderStore
from embed_assets.storage.records import Embedding, Track
from embed_assets.storage.tables import Tables
from embed_assets_tests.indexing import note_indexed
from embed_assets_tests.postgres import tables_at

DIM = 16
SPEC = IndexSpec(Recipe("acoustic", "weights", 24000, DIM, 10.0, 3))


@dataclass
class Shelf:
    """Tracks with vectors of their own, put where `Searcher` and Milvus find them."""

    root: Path
    library: MusicFolder = field(default_factory=lambda: MusicFolder(None))
    at: float = 1000.0

    @property
    def tables(self) -> Tables:
        return tables_at(self.root / "tables.sqlite")

    @property
    def store(self) -> FolderStore:
        return FolderStore(self.root / "vectors")

    @property
    def uri(self) -> str:
        return str(self.root / "milvus.db")

    @property
    def collection_key(self) -> str:
        return SPEC.collection_key(self.uri)

    def track(self, path: str | bytes, audio: str = "", **tags: object) -> Track:
        raw = path if isinstance(path, bytes) else path.encode()
        folder = folder_id("music", raw.rpartition(b"/")[0])
        audio_hash = digest("audio", audio or raw)
        return Track(track_id("music", raw), folder, raw, 1, 10**9, 1, audio_hash, **tags)

    def put(self, rows: list[Track], vectors: np.ndarray, index: bool = False) -> None:
        """Have whole folders hold exactly these tracks; `vectors`: `[len(rows), DIM]`."""
        self.at += 1
        for row, vector in zip(rows, vectors, strict=True):
            if not self.store.has(SPEC.recipe.digest, row.audio_hash):
                windows = np.asarray(vector, np.float32)[None, None]
                self.store.write(SPEC.recipe.digest, row.audio_hash, windows, replace=True)
        known = self.known()
        self.tables.put_embeddings(
            Embedding(SPEC.recipe.digest, r.audio_hash, 1, at=self.at, engine="torch")
            for r in rows
            if r.audio_hash not in known
        )
        folders = {r.folder_id: r.path.rpartition(b"/")[0] for r in rows}
        for folder, path in folders.items():
            here = [r for r in rows if r.folder_id == folder]
            scan = f"scan {self.at}"
            self.tables.begin_scan(folder, path, scan)
            self.tables.put_tracks(here, scan)
            self.tables.finish_scan(folder, scan, digest(str(here)), len(here))
            note_indexed(self.tables, self.collection_key, (folder, f"v{self.at}", len(here)))
        if index:
            self.index(list(folders.values()))

    def index(self, paths: list[bytes]) -> None:
        with connect(self.uri) as client:
            context = IndexContext(self.library, self.tables, self.store, SPEC, self.uri)
            for report in index_library(client, context, paths):
                assert not isinstance(report, tuple), report
            promote_if_ready(client, context)

    def remove(self, path: bytes) -> None:
        self.tables.forget_folder(folder_id("music", path))

    def known(self) -> set[str]:
        with self.tables.connect() as db:
            return {h for (h,) in db.execute("SELECT audio_hash FROM embeddings")}

    def searcher(self) -> Searcher:
        return Searcher(self.tables, self.store, SPEC, self.collection_key)


def random_vectors(n: int, seed: int = 0) -> np.ndarray:
    made = np.random.default_rng(seed).standard_normal((n, DIM)).astype(np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)
