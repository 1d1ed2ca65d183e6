"""File systems whose inode numbers and ctimes mean nothing: all is embedded, and then in step."""

from __future__ import annotations

import atexit
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from embed_assets.library.ctimes import TRIES
from embed_assets_tests.faults import compiled
from embed_assets_tests.synth import write_track

DECODE = """
import sys
from pathlib import Path
from embed_assets.identity import folder_id, local_path
from embed_assets.library.manifest import MusicFolder, scan_folder
from embed_assets.storage.folder_store import FolderStore
from embed_assets.storage.tables import Tables
from embed_assets.embedding.decode_ahead import decode_track
from embed_assets.embedding.device_pipeline import DecodedTrack
from embed_assets.encoders.config import EncoderConfig
from embed_assets.embedding.embed_track import Job, embed_track
from embed_assets.workers import open_pool

root = Path(sys.argv[1])
library, tables = MusicFolder(root / "library"), Tables(root / "tables.sqlite")
encoder_config = EncoderConfig("acoustic", "", "cpu", Path())
recipe = encoder_config.recipe(2.0, 1)
with open_pool(1) as pool:
    assert scan_folder(library, b"", tables, pool).rejected == 0
(track,) = tables.pending(folder_id("music", b""), recipe.digest)
path, store = local_path(library.root, track.path), FolderStore(root / "v")
job = Job(track, path, recipe, encoder_config, store, "", True)
assert isinstance(decode_track(job), DecodedTrack)
assert embed_track(job).row.windows == 1
"""


@functools.cache
def stats_library() -> Path:
    """The library to preload: one for all tests, as each has its own server of commands."""
    folder = Path(tempfile.mkdtemp(prefix="stats"))
    atexit.register(shutil.rmtree, folder)
    compiled("stats.c", folder / "stats.so")
    return folder / "stats.so"


def made_up(under: Path, **which: str) -> dict[str, str]:
    """The environment in which a folder lies on such a file system."""
    names = {f"STATS_{name.upper()}": value for name, value in which.items()}
    return {"LD_PRELOAD": str(stats_library()), "STATS_UNDER": str(under)} | names


KINDS = {
    "an inode that changes every second": {"inodes": "1"},
    "an inode that changes at each call": {"inodes": "0"},
    "an inode that changes for names only": {"inodes": "0", "names": "1"},
    "a ctime that is the present moment": {"ctimes": "0"},
    "a ctime that jumps every 2 seconds": {"ctimes": "2"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_library_is_indexed_and_then_in_step(world, kind):
    world.settings |= made_up(world.library, **KINDS[kind])
    world.album("Artist/Album", 1, 2)
    world.put_bad("Artist/Album/bad.mp3", b"this is no music at all\n" * 50)
    first = world.sync()
    assert (first["embedded"], first["failed_folders"]) == (2, 0)
    # Ctimes that jump are read for in vain a few times, and then no more.
    more = [world.sync() for _ in range(1 + (TRIES if "ctimes" in KINDS[kind] else 0))]
    assert all(m["embedded"] == m["failed_folders"] == 0 for m in more), more
    assert more[-1]["runs"] == []
    world.assert_index_is_library()
    (row,) = json.loads(world.run("errors", "--json").stdout)
    assert row["path"] == "Artist/Album/bad.mp3"
    if "ctimes" in KINDS[kind]:
        assert "in 1 folder they change although" in world.run("doctor").stdout


@pytest.mark.parametrize("kind", KINDS)
def test_a_track_is_decoded_ahead_and_embedded(tmp_path, kind):
    write_track(tmp_path / "library/a.ogg", seconds=3, seed=1)
    environment = made_up(tmp_path / "library", **KINDS[kind])
    command = [sys.executable, "-c", DECODE, str(tmp_path)]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
