"""`embed --into`: it continues wherever it was stopped, and holds nothing back."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from filelock import FileLock
from typer.testing import CliRunner

from embed_assets.cli.command_line import app
from embed_assets.embedding import scan_and_embed
from embed_assets.errors import AlreadyRunning, ConfigurationError, ExitCode, NotFound
from embed_assets.operations import embed as operation
from embed_assets.operations.embed import embed_into
from embed_assets.operations.known_audio import read_known, write_known
from embed_assets.operations.union import union
from embed_assets.project import Project
from embed_assets.storage.folder_store import FolderStore
from embed_assets.storage.shard_file import open_shard, shards_in
from embed_assets_tests.borrowed import Borrowed, settings_at
from embed_assets_tests.live_project import LiveProject
from embed_assets_tests.patience import PATIENCE
from embed_assets_tests.synth import write_track


def make_library(root: Path, *albums: int) -> Path:
    """Albums with these numbers of tracks."""
    seed = 0
    for i, tracks in enumerate(albums):
        for _ in range(tracks):
            write_track(root / f"Album {i}" / f"{seed}.ogg", seconds=3, seed=seed)
            seed += 1
    return root


def audio_in(folder: Path) -> list[str]:
    """The audio hashes of all shards, as often as they are there."""
    found = []
    for path in shards_in(folder):
        with open_shard(path) as shard:
            found += [track.audio_hash for track in shard.manifest.tracks]
            for track in shard.manifest.tracks:
                shard.read(track)
    return found


def unpacked(folder: Path) -> int:
    return len(list((folder / "work/vectors").glob("*/*/*.npy")))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_killed_while_it_embeds_it_continues(tmp_path, how):
    borrowed = Borrowed(tmp_path, make_library(tmp_path / "music", *[3] * 6))
    process = borrowed.start()
    deadline = time.monotonic() + PATIENCE
    while unpacked(borrowed.shards) < 3:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(how)
    process.communicate(timeout=PATIENCE)
    done = unpacked(borrowed.shards) + len(audio_in(borrowed.shards))
    assert 3 <= done < 18
    if how == signal.SIGTERM:
        assert process.returncode == ExitCode.INTERRUPTED
        assert len(shards_in(borrowed.shards)) == 1
    printed = json.loads(borrowed.embed("--json"))
    # Of those that were stored at the end, the tables may not have had the last ones.
    assert 0 < printed["embedded"] <= 18 - done + 4
    assert len(audio_in(borrowed.shards)) == len(set(audio_in(borrowed.shards))) == 18
    assert unpacked(borrowed.shards) == 0


def test_killed_before_packed_vectors_are_deleted_it_packs_none_twice(tmp_path, monkeypatch):
    settings = settings_at(tmp_path, make_library(tmp_path / "music", 3))
    into = tmp_path / "shards"

    def killed(_store, _recipe, hashes) -> None:
        if hashes:
            raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr(FolderStore, "delete", killed)
        with pytest.raises(SystemExit):
            embed_into(settings, into)
    assert unpacked(into) == len(audio_in(into)) == 3
    (into / ".shard-half.npz.tmp").write_bytes(b"half")
    again = embed_into(settings, into)
    assert (again.embedded, again.reused, again.shards) == (0, 3, [])
    assert unpacked(into) == 0
    assert not list(into.glob(".*"))

    shutil.rmtree(into / "work")
    again = embed_into(settings, into)
    assert (again.embedded, again.reused, again.shards) == (0, 3, [])

    (damaged,) = shards_in(into)
    damaged.write_bytes(b"damaged")
    notes: list[str] = []
    again = embed_into(settings, into, progress=notes.append)
    assert again.embedded == 3
    assert str(damaged) in notes[0]
    assert "embedded again" in notes[0]


def test_what_is_at_home_is_left_out(tmp_path):
    library = make_library(tmp_path / "music", 2, 2)
    there, home = settings_at(tmp_path / "there", library), settings_at(tmp_path, library)
    first = embed_into(there, tmp_path / "first", ["Album 0"])
    assert (first.folders, first.tracks, first.embedded) == (1, 2, 2)
    union(home, [tmp_path / "first"], check=0)
    assert write_known(home, tmp_path / "known.txt") == 2
    second = embed_into(there, tmp_path / "second", known=tmp_path / "known.txt")
    assert (second.tracks, second.embedded, second.reused) == (4, 2, 2)
    assert not set(audio_in(tmp_path / "first")) & set(audio_in(tmp_path / "second"))
    without = embed_into(there, tmp_path / "second")
    assert (without.embedded, without.reused) == (2, 2)

    other = settings_at(tmp_path / "there", library, windows=5)
    with pytest.raises(ConfigurationError, match="EMBED_WINDOWS: 3 there, 5 here"):
        embed_into(other, tmp_path / "third", known=tmp_path / "known.txt")
    with pytest.raises(ConfigurationError, match="did not write it"):
        embed_into(there, tmp_path / "third", known=library / "Album 0/0.ogg")


def test_vectors_for_find_come_along(tmp_path, small_mulan):
    words = {"words": True, "words_model": str(small_mulan), "device": "cpu"}
    library = make_library(tmp_path / "music", 2)
    there = settings_at(tmp_path / "there", library, **words)
    made = embed_into(there, tmp_path / "shards")
    assert (made.tracks, made.embedded, made.rejected, len(made.shards)) == (2, 4, [], 2)
    home = settings_at(tmp_path / "there", **words)
    found = union(home, [tmp_path / "shards"], check=0)
    assert (found.shards, found.new, found.refused) == (2, 4, [])
    assert write_known(home, tmp_path / "known.txt") == 4
    known = read_known(tmp_path / "known.txt", Project.of(home).spec().recipes)
    assert [len(audio) for audio in known.values()] == [2, 2]
    only_tracks = settings_at(tmp_path / "other", library)
    found = union(only_tracks, [tmp_path / "shards"], check=0)
    assert (found.new, len(found.refused)) == (2, 1)


def test_a_wrong_folder_is_named_before_any_work(tmp_path):
    settings = settings_at(tmp_path, make_library(tmp_path / "music", 1))
    with pytest.raises(NotFound, match="Nowhere"):
        embed_into(settings, tmp_path / "shards", ["Nowhere"])
    with pytest.raises(NotFound, match=r"\.\./\.\."):
        embed_into(settings, tmp_path / "shards", ["../.."])
    assert not (tmp_path / "shards").exists()


@pytest.mark.parametrize("words", [["embed", "--into", ""], ["union", ""]])
def test_the_value_of_an_unset_variable_is_no_folder(tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EMBED_LIBRARY", str(make_library(tmp_path / "music", 1)))
    found = CliRunner().invoke(app, words)
    assert found.exit_code == 2
    assert "is empty" in found.output
    assert [path.name for path in tmp_path.iterdir()] == ["music"]


def test_two_processes_do_not_write_into_one_folder(tmp_path):
    settings = settings_at(tmp_path, make_library(tmp_path / "music", 1))
    (tmp_path / "shards/work").mkdir(parents=True)
    with FileLock(tmp_path / "shards/work/lock"), pytest.raises(AlreadyRunning, match="shards"):
        embed_into(settings, tmp_path / "shards")


def test_a_folder_that_cannot_be_read_holds_nothing_back(tmp_path):
    borrowed = Borrowed(tmp_path, make_library(tmp_path / "music", 1, 1))
    (borrowed.library / "Album 0").chmod(0)
    printed = json.loads(borrowed.embed("--json", code=ExitCode.FAILED))
    (failed,) = printed["failed"]
    assert failed["path"] == "Album 0"
    assert "Permission denied" in failed["message"]
    assert (printed["folders"], printed["embedded"]) == (2, 1)


def test_a_folder_that_changes_meanwhile_is_tried_again(tmp_path, monkeypatch):
    library = make_library(tmp_path / "music", 2, 1)
    monkeypatch.setattr(operation, "PAUSES", (0.0, 0.0))
    real, changes = scan_and_embed.embed_folders, [2e9]

    def changing(context, paths, *rest, **options):
        scanned = list(paths)
        os.utime(library / "Album 0/0.ogg", (2e9, changes.pop() if changes else 2e9))
        return real(context, scanned, *rest, **options)

    monkeypatch.setattr(scan_and_embed, "embed_folders", changing)
    found = embed_into(settings_at(tmp_path, library), tmp_path / "shards")
    assert (found.embedded, found.failed) == (3, [])
    assert len(audio_in(tmp_path / "shards")) == 3


def test_sync_at_home_embeds_nothing_and_the_index_is_that_of_the_library(world: LiveProject):
    world.album("Artist/Album", 1, 2, 3)
    world.album("Other", 4)
    world.put_bad("Other/bad.mp3", b"no audio")
    borrowed = Borrowed(world.root, shutil.copytree(world.library, world.root / "mnt"))
    borrowed.embed()
    taken = world.run("union", str(borrowed.shards), "--json")
    assert (taken.returncode, json.loads(taken.stdout)["new"]) == (0, 4)
    done = world.sync()
    assert (done["embedded"], done["reused"], done["rejected"]) == (0, 4, 1)
    world.assert_index_is_library()
