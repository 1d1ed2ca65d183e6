"""Rows and folders for the tests of the index, without any audio; children import all of it."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pymilvus import MilvusClient

from embed_assets.identity import IndexSpec, Recipe, digest, folder_id, track_id
from embed_assets.index import writer
from embed_assets.index.collection import count, load, point, rows_by_folder, served
from embed_assets.index.connection import connect
from embed_assets.index.nearest import vectors_of
from embed_assets.index.row import SegmentRow, TrackRow, VectorKey
from embed_assets.index.writer import FolderFailed, FolderRows, FolderWritten
from embed_assets.storage.queries import folder_states
from embed_assets.storage.records import IndexedFolder
from embed_assets.storage.tables import Tables

DIM = 64
CHILDREN = """
import os, sys, time
from embed_assets.index.collection import served
from embed_assets_tests.indexing import *
"""


def spec_of(dim: int = DIM, weights: str = "w") -> IndexSpec:
    return IndexSpec(Recipe("acoustic", weights, 24000, dim, 10.0, 3))


SPEC = spec_of()


def by_brute_force(query: np.ndarray, vectors: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices and cosines of the `n` rows of float32 `[N, dim]` nearest to `[dim]`, best first."""
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors)) * np.linalg.norm(query)
    with np.errstate(divide="ignore", invalid="ignore"):
        scores = np.where(lengths > 0, (vectors @ query) / lengths, -1.0)
    scores = np.clip(scores, -1.0, 1.0).astype(np.float32)
    best = np.argsort(-scores, kind="stable")[:n]
    return best, scores[best]


def serve(client: MilvusClient, spec: IndexSpec) -> None:
    """Move the alias to the collection of `spec`, atomically; the collection must exist."""
    before = served(client)
    if before == spec.collection:
        return
    load(client, spec.collection)
    point(client, spec.collection, before)


def note_indexed(
    tables: Tables, collection_key: str, *rows: tuple[str, str, int], **how: bool
) -> None:
    """Record that a collection has these (folder id, end of the version, rows) as of now."""
    states = folder_states(tables, [folder for folder, _, _ in rows], "")
    written = [
        IndexedFolder(folder, f"{states[folder].digest}.{end}", n, states[folder].revision)
        for folder, end, n in rows
    ]
    tables.put_indexed(collection_key, written, **how)


def vector_of(audio_hash: str, dim: int = DIM) -> np.ndarray:
    rng = np.random.default_rng(int(audio_hash[:15], 16))
    return (rng.standard_normal(dim) * 7).astype(np.float32)


class VectorsBy:
    """The vectors that a function gives for an audio hash, or for it and a window's number."""

    def __init__(self, vector_of: Callable[[Any], np.ndarray]) -> None:
        self.vector_of = vector_of

    def of(self, keys: Sequence[VectorKey]) -> Iterator[np.ndarray]:
        for key in keys:
            sound = (key.audio_hash, key.number)
            yield self.vector_of(key.audio_hash if key.number is None else sound)


def index_folders(
    client: Any,
    spec: IndexSpec,
    folders: Iterable[FolderRows],
    vector_of: Callable[[Any], np.ndarray],
    **options: bool,
) -> Iterator[FolderWritten | FolderFailed]:
    """`writer.index_folders` with vectors from a function."""
    return writer.index_folders(client, spec, folders, VectorsBy(vector_of), **options)


def track(folder: str, name: str, take: str = "", **tags) -> TrackRow:
    path = f"{folder}/{name}"
    return TrackRow(
        track_id=track_id("music", path.encode()),
        audio_hash=digest("audio", path, take),
        folder_id=folder_id("music", folder.encode()),
        folder=folder,
        path=path,
        **{"title": name, "artist": "Nina", "duration": 61.5} | tags,
    )


def album(folder: str, rows: list[TrackRow] | int) -> FolderRows:
    if isinstance(rows, int):
        rows = [track(folder, f"{i}.mp3") for i in range(rows)]
    return FolderRows(folder_id("music", folder.encode()), lambda: iter(rows))


def write(uri: str, folders: list[FolderRows], **options) -> list[FolderWritten | FolderFailed]:
    with connect(uri) as client:
        return list(index_folders(client, SPEC, folders, vector_of, **options))


def assert_holds(uri: str, folders: list[FolderRows]) -> None:
    """The collection has the rows of these folders, each once and with its vector, and no other."""
    want = {(f.folder_id, r.track_id, r.row_digest): r for f in folders for r in f.rows()}
    with connect(uri) as client:
        load(client, SPEC.collection)
        have = Counter(rows_by_folder(client, SPEC.collection))
        assert have == Counter(want.keys())
        assert count(client, SPEC.collection) == len(want)
        rows = list(want.values())
        vectors = vectors_of(client, [r.track_id for r in rows], SPEC.collection)
        for row in rows:
            meant = vector_of(row.audio_hash)
            cosine = float(vectors[row.track_id] @ meant / np.linalg.norm(meant))
            assert cosine > 0.9999, row.path


def assert_has(uri: str, folders: list[FolderRows]) -> None:
    """The collection has at least the rows of these folders, as they should be."""
    if folders:
        with connect(uri) as client:
            load(client, SPEC.collection)
            have = set(rows_by_folder(client, SPEC.collection, [f.folder_id for f in folders]))
        assert have == {(f.folder_id, r.track_id, r.row_digest) for f in folders for r in f.rows()}


def child(code: str, *arguments: str) -> subprocess.Popen:
    root = Path(__file__).resolve().parents[1]
    return subprocess.Popen(
        [sys.executable, "-c", CHILDREN + code, *arguments],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        text=True,
    )


def killed_folders(seed: int) -> list[FolderRows]:
    """Another mix of added, retagged and removed tracks for each seed."""
    rng = random.Random(seed)
    return [
        album(f"f{i}", [track(f"f{i}", f"{n}.mp3", genre=str(rng.random())) for n in range(size)])
        for i, size in enumerate(rng.choice([0, 3, 12, 300]) for _ in range(8))
    ]


def sound_of(sound: tuple[str, int]) -> np.ndarray:
    """The vector of a part."""
    return vector_of(digest("part", *map(str, sound)))


def killed_parts(seed: int) -> list[FolderRows]:
    """The same folders, with 1, 3 or 24 parts of each track."""
    made = []
    for folder in killed_folders(seed):
        rng, rows = random.Random(seed), []
        for row in folder.rows():
            count = rng.choice([1, 3, 24])
            rows += [SegmentRow(row, i, 10.0 * i, 10.0 * i + 10) for i in range(count)]
        made.append(FolderRows(folder.folder_id, lambda rows=rows: iter(rows)))
    return made
