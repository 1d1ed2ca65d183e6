"""Every benchmark still runs, and prints the figures that benchmarks/README.md publishes for it.

`--small` runs the same code with small numbers; its figures mean nothing.
"""

import importlib
import json
import os
import random
import re
import shutil
import sys
from collections import Counter
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from embed_assets_tests.ray_hosts import why_not
from embed_assets_tests.synth import music, write_audio, write_track

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"
NAMES = sorted(p.stem for p in FOLDER.glob("*.py") if p.stem != "common")
REJECTED = {"too short": 2, "silent": 1, "not audio": 1}


def published() -> dict[str, list[str]]:
    """Benchmark -> names of its figures, as the table of the README has them."""
    row = r"^\| `python benchmarks/(\w+)\.py[^|]*\|[^|]*\|([^|]*)\|"
    found = re.findall(row, (FOLDER / "README.md").read_text(), re.MULTILINE)
    return {name: re.findall(r"`([^`]+)`", figures) for name, figures in found}


@pytest.fixture
def load(monkeypatch):
    """Imports a benchmark; what it changes in this process is put back."""
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    before = set(sys.modules)
    with mock.patch.dict(os.environ):
        yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(FOLDER)):
            del sys.modules[name]
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(len(os.sched_getaffinity(0)))


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    """Three tracks, and four files that are called tracks."""
    folder = tmp_path_factory.mktemp("faulty")
    for seed in range(3):
        write_track(folder / f"Album {seed}" / "track.ogg", seconds=32.0, seed=seed, channels=1)
    write_track(folder / "half a second.ogg", seconds=0.5)
    write_audio(folder / "silent.flac", np.zeros((1, 44_100 * 3), np.float32))
    (folder / "text.mp3").write_text("this is not music\n" * 300)
    whole = write_audio(folder / "cut off.mp3", music(3.0, 9)).read_bytes()
    (folder / "cut off.mp3").write_bytes(whole[:2000])
    return folder


@pytest.fixture(scope="module")
def converted(small, tmp_path_factory):
    """A cache with the small model as OpenVINO runs it; converting takes seconds of a processor."""
    from embed_assets.encoders import load

    cache = tmp_path_factory.mktemp("cache")
    load("muq", str(small), "cpu", cache)
    return cache


def names_in(figures) -> set[str]:
    if not isinstance(figures, dict):
        return set()
    return set(figures).union(*(names_in(value) for value in figures.values()))


def test_the_readme_publishes_figures_of_every_benchmark_there_is():
    table = published()
    assert sorted(table) == NAMES
    assert all(table.values()), table


@pytest.mark.bench
@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_prints_the_figures_that_are_published_for_it(
    name, load, request, capsys, tmp_path
):
    if name == "two_hosts" and (said := why_not()):
        pytest.skip(said)
    mine = [str(tmp_path / "model")] if name == "full_muq" else []
    if option := {"gpu": "--cache", "muq_pipeline": "--models"}.get(name):
        cache = request.getfixturevalue("converted")
        mine = ["--model", str(request.getfixturevalue("small")), option, str(cache)]
    assert load(name).main([*mine, "--small", "--json", "--dir", str(tmp_path)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["benchmark"] == name
    assert told["small"], "nobody may take these for figures"
    assert set(published()[name]) <= names_in(told)


def test_tracks_that_would_be_rejected_are_left_out_and_counted(load, faulty):
    common, left_out = load("common"), Counter()
    usable = list(common.playable(common.tracks_in(faulty), left_out))
    assert [p.name for p in usable] == ["track.ogg"] * 3
    assert left_out == REJECTED

    left_out.clear()
    windows = common.middles(common.tracks_in(faulty), 30.0, left_out)
    assert [len(w) for w in windows] == [30 * 24_000] * 3
    assert left_out.total() == 4


def test_retrieval_says_how_many_tracks_it_left_out(load, faulty, capsys, tmp_path):
    assert load("retrieval").main([str(faulty), "--json", "--dir", str(tmp_path)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["tracks"] == 3
    assert sum(told["left_out"].values()) == 4


def test_albums_are_dropped_without_the_tracks_that_would_be_rejected(load, faulty, tmp_path):
    drop, left_out = load("drop"), Counter()
    args = mock.Mock(music=faulty, drops=2, tracks=1)
    albums = drop.made_albums(args, tmp_path, random.Random(0), left_out)
    assert [[p.name for p in album] for album in albums] == [["track.ogg"]] * 3
    args.drops = 3
    with pytest.raises(SystemExit, match="3 tracks can be used, 4 are needed"):
        drop.made_albums(args, tmp_path, random.Random(0), left_out)


def test_a_bulk_load_cuts_few_tracks_into_many_of_audio_of_their_own(load, faulty, tmp_path):
    from embed_assets.library.probe import probe

    bulk, left_out = load("bulk"), Counter()
    args = mock.Mock(music=faulty, tracks=10, per_folder=4)
    assert bulk.make_library(args, tmp_path / "library", left_out) == 10
    made = [p for p in (tmp_path / "library").rglob("*") if p.is_file()]
    assert len({probe(os.fsencode(p)).audio_hash for p in made}) == 10
    assert left_out == REJECTED


def test_both_loads_of_the_pipeline_get_only_tracks_that_both_hear_alike(load, faulty, tmp_path):
    folder = tmp_path / "music"
    shutil.copytree(faulty, folder)
    whole = write_audio(folder / "0 half.mp3", music(64.0, 5, channels=1)).read_bytes()
    (folder / "0 half.mp3").write_bytes(whole[: len(whole) // 2])
    args = mock.Mock(music=folder, tracks=3, per_folder=12)
    left_out = load("muq_pipeline").choose(args, tmp_path / "library")
    assert len(list((tmp_path / "library").rglob("*track.ogg"))) == 3
    assert left_out["damaged"] == 1


def test_made_up_tracks_have_audio_of_their_own(load, tmp_path):
    from embed_assets.library.probe import probe

    made = load("common").make_tracks(tmp_path / "made", 15, 2.0)
    found = [probe(os.fsencode(p)) for p in made]
    assert len({f.audio_hash for f in found}) == 15
    assert all(f.duration == pytest.approx(2.0, abs=0.3) for f in found)
