"""Embedding folders: audio that several files hold is embedded once, and none waits for another."""

from __future__ import annotations

import os
import shutil
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from embed_assets.embedding.embed_folders import EmbedContext, EmbedResult, embed_folders
from embed_assets.encoders.config import EncoderConfig
from embed_assets.errors import FolderChanged
from embed_assets.identity import folder_id
from embed_assets.library.manifest import MusicFolder, scan_folder
from embed_assets.storage.folder_store import FolderStore
from embed_assets.storage.records import Embedding
from embed_assets.storage.tables import Tables
from embed_assets.workers import Pool, open_pool
from embed_assets_tests.embedded import HERE, Here
from embed_assets_tests.encoded import silent_flac
from embed_assets_tests.synth import write_track

CHOICE = EncoderConfig("acoustic", "", "cpu", Path())
RECIPE = CHOICE.recipe(2.0, 1)
PATHS = [b"A", b"B", b"C"]


@pytest.fixture(scope="module")
def pool():
    with open_pool(2) as pool:
        yield pool


@pytest.fixture
def library(tmp_path: Path) -> MusicFolder:
    """Three folders: each has a track of its own, and one that all have."""
    for i, name in enumerate("ABC"):
        folder = tmp_path / "music" / name
        write_track(folder / "own.ogg", seconds=3, seed=i)
        if name == "A":
            write_track(folder / "same.ogg", seconds=3, seed=99)
        else:
            shutil.copy(tmp_path / "music" / "A" / "same.ogg", folder)
    return MusicFolder(tmp_path / "music")


def embed(library: MusicFolder, pool: Pool, root: Path, between=lambda: None):
    tables, store = Tables(root / "tables.sqlite"), FolderStore(root / "store")
    for path in PATHS:
        scan_folder(library, path, tables, pool)
    between()
    rows = []
    embedding = EmbedContext(library, RECIPE, CHOICE, tables, store)
    outcomes = dict(embed_folders(embedding, PATHS, pool, rows.append))
    return outcomes, rows


def counts(outcome) -> tuple[int, int, int]:
    assert isinstance(outcome, EmbedResult)
    return outcome.embedded, outcome.reused, outcome.rejected


def test_audio_that_several_folders_hold_is_embedded_once(library, pool, tmp_path):
    outcomes, rows = embed(library, pool, tmp_path)
    assert sorted(counts(o) for o in outcomes.values()) == [(1, 1, 0), (1, 1, 0), (2, 0, 0)]
    assert len({row.audio_hash for row in rows}) == 4
    again, rows = embed(library, pool, tmp_path)
    assert [counts(again[p]) for p in PATHS] == [(0, 2, 0)] * 3
    assert rows == []


class OneAhead(Here):
    """Takes the next task before it does one, as a pool of processes does."""

    def run(self, function, items):
        items = iter(items)
        waiting = list(islice(items, 1))
        for item in items:
            yield waiting[0], function(waiting[0])
            waiting = [item]
        yield from ((item, function(item)) for item in waiting)


def test_the_next_folder_keeps_what_is_noted_of_audio_that_was_just_embedded(library, tmp_path):
    outcomes, rows = embed(library, OneAhead(), tmp_path)
    assert [counts(outcomes[p]) for p in PATHS] == [(2, 0, 0), (1, 1, 0), (1, 1, 0)]
    assert {(row.engine, row.note) for row in rows} == {("numpy", "")}


def test_what_a_shard_brings_meanwhile_keeps_how_it_was_made(library, tmp_path):
    tables, store = Tables(tmp_path / "tables.sqlite"), FolderStore(tmp_path / "store")
    scan_folder(library, b"A", tables, HERE)
    embedding = EmbedContext(library, RECIPE, CHOICE, tables, store)

    def arrive() -> None:
        for track in tables.pending(folder_id(library.name, b"A"), RECIPE.digest):
            store.write(RECIPE.digest, track.audio, np.ones((1, 1, RECIPE.dim), np.float32))
            made = Embedding(RECIPE.digest, track.audio, 1, 2.0, engine="torch", device="cuda:0")
            tables.put_embeddings([made])

    ((_, outcome),) = embed_folders(embedding, [b"A"], HERE, before_first=arrive)
    assert counts(outcome) == (0, 2, 0)
    rows = [row for _, row in tables.indexable(folder_id(library.name, b"A"), RECIPE.digest)]
    assert {(row.engine, row.note) for row in rows} == {("torch", "")}


def test_what_changed_in_one_folder_is_had_from_another_that_holds_the_same(
    library, pool, tmp_path
):
    def touch() -> None:
        os.utime(library.root / "A" / "same.ogg", (1e9, 1e9))

    outcomes, rows = embed(library, pool, tmp_path, touch)
    assert isinstance(outcomes[b"A"], FolderChanged)
    assert sorted([counts(outcomes[b"B"]), counts(outcomes[b"C"])]) == [(1, 1, 0), (2, 0, 0)]
    assert len({row.audio_hash for row in rows}) == 4


def test_what_changed_everywhere_fails_everywhere_and_keeps_the_rest(library, pool, tmp_path):
    def touch() -> None:
        for path in library.root.glob("*/same.ogg"):
            os.utime(path, (1e9, 1e9))

    outcomes, rows = embed(library, pool, tmp_path, touch)
    assert [type(outcomes[p]) for p in PATHS] == [FolderChanged] * 3
    assert len(rows) == 3


def test_audio_that_is_rejected_is_rejected_wherever_it_lies(library, pool, tmp_path):
    for name in "ABC":
        (library.root / name / "same.ogg").unlink()
        (library.root / name / "same.flac").write_bytes(silent_flac(22_050, 1, 66_150))
    outcomes, rows = embed(library, pool, tmp_path)
    assert [counts(outcomes[p]) for p in PATHS] == [(1, 0, 1)] * 3
    assert {row.reason for row in rows} == {None, "silent"}
