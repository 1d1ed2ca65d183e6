"""The index holds exactly what the library has, whatever happens on the way.

On real Milvus Lite, and what is not about Lite's files on a real server as well where there is one.
"""

from __future__ import annotations

import math
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from embed_assets.errors import ConfigurationError, TrackRejected, TransientError
from embed_assets.identity import IndexSpec, Recipe, digest, folder_id, track_id
from embed_assets.index.collection import (
    count,
    drop,
    ensure,
    load,
    rows_by_folder,
    serve,
    served,
)
from embed_assets.index.connection import connect
from embed_assets.index.row import TrackRow, fit
from embed_assets.index.search import exact, similar, vectors_of
from embed_assets.index.write import FolderFailed, FolderRows, FolderWritten, index_folders

DIM = 64
CHILDREN = """
import os, sys, time
from embed_assets_tests.test_index import *
"""


def spec_of(dim: int = DIM, weights: str = "w") -> IndexSpec:
    return IndexSpec(Recipe("acoustic", weights, 24000, dim, 10.0, 3))


SPEC = spec_of()


def vector_of(audio_hash: str, dim: int = DIM) -> np.ndarray:
    rng = np.random.default_rng(int(audio_hash[:15], 16))
    return (rng.standard_normal(dim) * 7).astype(np.float32)


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


@pytest.fixture
def lite(tmp_path: Path) -> str:
    return str(tmp_path / "home" / "milvus.db")


def child(code: str, *arguments: str) -> subprocess.Popen:
    root = Path(__file__).resolve().parents[1]
    return subprocess.Popen(
        [sys.executable, "-c", CHILDREN + code, *arguments],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_new_changed_retagged_and_removed_tracks_reach_the_index(uri):
    first = [album("a", 3), album("b", 2), album("c", 2)]
    assert [(w.rows, w.written, w.deleted) for w in write(uri, first)] == [
        (3, 3, 0),
        (2, 2, 0),
        (2, 2, 0),
    ]
    assert_holds(uri, first)
    a = list(first[0].rows())
    second = [
        album("a", [replace(a[0], title="new tag"), track("a", "1.mp3", take="remaster"), a[2]]),
        album("b", 3),
        album("c", 0),
    ]
    told = [(w.rows, w.written, w.deleted, w.unchanged) for w in write(uri, second)]
    assert told == [(3, 2, 0, 1), (3, 1, 0, 2), (0, 0, 2, 0)]
    assert_holds(uri, second)


def test_unchanged_folders_ask_for_no_vector_and_a_rewrite_asks_for_all(uri):
    write(uri, [album("a", 5)])
    asked = []

    def watched(audio_hash):
        asked.append(audio_hash)
        return vector_of(audio_hash)

    with connect(uri) as client:
        assert [w.unchanged for w in index_folders(client, SPEC, [album("a", 5)], watched)] == [5]
        assert asked == []
        again = list(index_folders(client, SPEC, [album("a", 5)], watched, rewrite=True))
    assert (again[0].written, len(asked)) == (5, 5)
    assert_holds(uri, [album("a", 5)])


def test_a_moved_track_is_found_only_where_it_is_now(uri):
    write(uri, [album("a", 2), album("b", 1)])
    now = [album("a", 1), album("b", [*album("b", 1).rows(), track("b", "1.mp3")])]
    write(uri, now)
    assert_holds(uri, now)


def test_a_flat_folder_of_3000_tracks_holds_one_batch_of_vectors_at_a_time(uri):
    asked, batches = 0, []

    def counted(audio_hash):
        nonlocal asked
        asked += 1
        return vector_of(audio_hash)

    folder = album("flat", 3000)
    with connect(uri) as client:
        really = client.upsert

        def watched(name, rows):
            nonlocal asked
            batches.append((len(rows), asked))
            asked = 0
            return really(name, rows)

        client.upsert = watched
        (told,) = index_folders(client, SPEC, [folder], counted)
    assert (told.rows, told.written) == (3000, 3000)
    assert batches == [(500, 500)] * 6
    assert_holds(uri, [folder])


def test_names_with_quotes_newlines_emojis_and_very_long_paths_survive(uri):
    names = [
        "He said \"no\" and 'yes'.mp3",
        "line\nbreak\ttab\0nul.mp3",
        "back\\slash %s {x} $.mp3",
        "\U0001f3b5 \u65e5\u672c\u8a9e \u0416.mp3",
        "/".join(["\u00e9" * 100] * 20) + ".mp3",
    ]
    assert len(names[-1].encode()) > 4000
    folder = album('o\'dd "[]"', [track('o\'dd "[]"', n, artist=n) for n in names])
    write(uri, [folder])
    assert_holds(uri, [folder])
    with connect(uri) as client:
        serve(client, SPEC)
        found = {m.path for m in similar(client, vector_of("1" * 32), 10)}
    assert found == {r.path for r in folder.rows()}


def test_tags_are_cut_to_what_a_server_takes():
    assert fit("\u00e9" * 10, 5) == "\u00e9\u00e9"
    assert fit("bad \udcff", 100) == "bad \\udcff"
    row = track("a", "x" * 20_000, title="\U0001f3b5" * 1000)
    assert len(row.path.encode()) == 16_384
    assert len(row.title.encode()) == 2048
    assert row.stored()["title"] == row.title
    absurd = track("a", "b", year=10**30, track_number=-1, duration=math.nan)
    assert (absurd.year, absurd.track_number, absurd.duration) == (2**31 - 1, 0, 0.0)


def test_a_vector_of_the_wrong_width_stops_before_anything_is_written(uri):
    with connect(uri) as client:
        with pytest.raises(ConfigurationError, match=r"holds width 64.*EMBED_ENCODER"):
            list(index_folders(client, SPEC, [album("a", 1)], lambda h: vector_of(h, 32)))
        assert count(client, SPEC.collection) == 0


@pytest.mark.parametrize("poison", [math.nan, math.inf, 0.0])
def test_a_bad_vector_fails_its_folder_and_no_other(uri, poison):
    bad = track("bad", "1.mp3")

    def vectors(audio_hash):
        return (
            np.full(DIM, poison, np.float32)
            if audio_hash == bad.audio_hash
            else vector_of(audio_hash)
        )

    with connect(uri) as client:
        told = list(index_folders(client, SPEC, [album("bad", [bad]), album("good", 2)], vectors))
    assert isinstance(told[0], FolderFailed)
    assert isinstance(told[0].error, TrackRejected)
    assert "bad/1.mp3" in str(told[0].error)
    assert isinstance(told[1], FolderWritten)
    assert_holds(uri, [album("good", 2)])


def test_a_folder_whose_tables_cannot_be_read_keeps_its_rows(uri):
    write(uri, [album("a", 3)])

    def broken():
        yield next(album("a", 1).rows())
        raise OSError("input/output error")

    told = write(uri, [FolderRows(album("a", 0).folder_id, broken)])
    assert isinstance(told[0], FolderFailed)
    assert_holds(uri, [album("a", 3)])


def test_a_collection_made_otherwise_is_refused_with_what_to_do(uri):
    with connect(uri) as client:
        client.create_collection(SPEC.collection, dimension=32)
        with pytest.raises(
            ConfigurationError, match=r"EMBED_ENCODER.*vector is FLOAT_VECTOR\(32\)"
        ):
            ensure(client, SPEC)


def test_searching_before_anything_is_indexed_says_what_to_run(uri):
    with connect(uri) as client, pytest.raises(ConfigurationError, match="embed-assets sync"):
        similar(client, np.ones(DIM, np.float32))


def test_search_gives_cosines_best_first_and_leaves_out_what_it_is_told_to(uri):
    folder = album("a", 40)
    rows = list(folder.rows())
    write(uri, [folder])
    with connect(uri) as client:
        serve(client, SPEC)
        query = vectors_of(client, [rows[7].track_id])[rows[7].track_id]
        found = similar(client, query * 5, 10)
        others = similar(client, query, 10, [rows[7].track_id])
        with pytest.raises(ConfigurationError, match="width 64"):
            similar(client, np.ones(32, np.float32))
    assert found[0].path == rows[7].path
    assert found[0].score == pytest.approx(1.0, abs=1e-5)
    assert [m.score for m in found] == sorted((m.score for m in found), reverse=True)
    assert [m.path for m in others[:9]] == [m.path for m in found[1:]]
    stack = np.stack([vector_of(r.audio_hash) for r in rows])
    order, scores = exact(query, stack, 10)
    assert [rows[i].path for i in order] == [m.path for m in found]
    assert scores == pytest.approx([m.score for m in found], abs=1e-4)


def test_identical_tracks_are_listed_by_path_each_time(uri):
    twins = [replace(track("a", f"{i}.mp3"), audio_hash="ab" * 16) for i in (3, 1, 2)]
    write(uri, [album("a", twins)])
    with connect(uri) as client:
        serve(client, SPEC)
        found = [[m.path for m in similar(client, vector_of("ab" * 16), 2)] for _ in range(3)]
    assert found == [["a/1.mp3", "a/2.mp3"]] * 3


def test_the_alias_moves_under_a_searcher_that_never_fails(uri):
    other = spec_of(weights="other")
    with connect(uri) as client:
        for spec in (SPEC, other):
            list(index_folders(client, spec, [album("a", 20)], vector_of))
        serve(client, SPEC)
        failures, searches, done = [], 0, threading.Event()

        def search():
            nonlocal searches
            while not done.is_set():
                try:
                    assert len(similar(client, vector_of("ab"), 5)) == 5
                    searches += 1
                except Exception as e:
                    failures.append(e)

        searcher = threading.Thread(target=search)
        searcher.start()
        deadline = time.monotonic() + 30
        while searches <= 10 and not failures and time.monotonic() < deadline:
            for spec in (other, SPEC):
                serve(client, spec)
                time.sleep(0.01)
        done.set()
        searcher.join()
        assert failures == []
        assert searches > 10
        assert served(client) == SPEC.collection
        with pytest.raises(ConfigurationError, match="serve another"):
            drop(client, SPEC.collection)
        drop(client, other.collection)
        assert not client.has_collection(other.collection)


@pytest.mark.parametrize("keep", [0, 10, 0.5])
def test_a_half_written_index_file_is_built_again(lite, keep):
    write(lite, [album("a", 300)])
    files = list(Path(lite).glob("collections/*/partitions/*/indexes/*.idx"))
    assert files
    for file in files:
        raw = file.read_bytes()
        file.write_bytes(raw[: int(len(raw) * keep) if keep < 1 else keep])
    assert_holds(lite, [album("a", 300)])


def test_a_collection_whose_creation_was_killed_is_created_again(lite):
    with connect(lite):
        pass
    (Path(lite) / "collections" / SPEC.collection).mkdir()
    write(lite, [album("a", 2)])
    assert_holds(lite, [album("a", 2)])


def test_rows_that_a_crash_has_doubled_are_single_again(lite):
    write(lite, [album("a", 3)])
    # What a kill between Lite's manifest and its log leaves: the log is replayed over the segment.
    with connect(lite) as client:
        load(client, SPEC.collection)
        rows = [r.stored() | {"vector": vector_of(r.audio_hash)} for r in album("b", 4).rows()]
        client.upsert(SPEC.collection, rows)
        wal = Path(lite) / "collections" / SPEC.collection / "wal"
        kept = {f.name: f.read_bytes() for f in wal.iterdir()}
    for name, raw in kept.items():
        (wal / name).write_bytes(raw)
    with connect(lite) as client:
        load(client, SPEC.collection)
        assert len(list(rows_by_folder(client, SPEC.collection))) == 3 + 2 * 4
        (told,) = index_folders(client, SPEC, [album("b", 4)], vector_of)
        assert told.written == 4
        assert len(list(rows_by_folder(client, SPEC.collection))) == 3 + 4
    assert_holds(lite, [album("a", 3), album("b", 4)])


KILLED = """
uri, seed = sys.argv[1:]
folders = killed_folders(int(seed))
with connect(uri) as client:
    print("go", flush=True)
    for told in index_folders(client, SPEC, folders, vector_of):
        print(told.folder_id, flush=True)
"""


def killed_folders(seed: int) -> list[FolderRows]:
    """Another mix of added, retagged and removed tracks for each seed."""
    rng = random.Random(seed)
    return [
        album(f"f{i}", [track(f"f{i}", f"{n}.mp3", genre=str(rng.random())) for n in range(size)])
        for i, size in enumerate(rng.choice([0, 3, 12, 300]) for _ in range(8))
    ]


def test_a_writer_killed_at_any_moment_leaves_nothing_that_a_repeat_does_not_mend(uri):
    rng = random.Random(int(os.environ.get("SEED", "1")))
    unfinished = 0
    for kill in range(int(os.environ.get("KILLS", "12"))):
        writer = child(KILLED, uri, str(kill))
        assert writer.stdout.readline() == "go\n"
        time.sleep(rng.uniform(0.0, 0.9))
        unfinished += writer.poll() is None
        writer.send_signal(signal.SIGKILL)
        reported = writer.communicate()[0].split()
        folders = killed_folders(kill)
        assert_has(uri, [f for f in folders if f.folder_id in reported])
        if kill % 3 == 2:
            continue  # the next writer finds what two kills have left
        assert all(isinstance(w, FolderWritten) for w in write(uri, folders))
        assert_holds(uri, folders)
    print(unfinished, "kills hit a writer at work")
    assert unfinished >= 3


BUSY = """
uri, = sys.argv[1:]
with connect(uri) as client:
    folders = [album(f"f{i}", 12) for i in range(2000)]
    for n, _ in enumerate(index_folders(client, SPEC, folders, vector_of)):
        if n == 0:
            serve(client, SPEC)
            print("go", flush=True)
"""


def test_a_reader_gets_its_turn_while_a_writer_is_busy(lite):
    writer = child(BUSY, lite)
    try:
        assert writer.stdout.readline() == "go\n"
        waits = []
        for _ in range(4):
            start = time.monotonic()
            with connect(lite, wait_seconds=30) as client:
                waits.append(time.monotonic() - start)
                assert similar(client, vector_of("ab"), 5)
            time.sleep(0.1)
        assert writer.poll() is None, "the writer was done too soon to prove anything"
    finally:
        writer.kill()
        writer.wait()
        writer.stdout.close()
    assert max(waits) < 10


def test_an_index_that_is_never_let_go_says_who_has_it(lite):
    told = rf"in use by process {os.getpid()}.*server"
    with connect(lite), pytest.raises(TransientError, match=told), connect(lite, wait_seconds=0.2):
        pass


def test_a_notebook_that_holds_lite_is_waited_for(lite):
    from milvus_lite.db import MilvusLite

    Path(lite).parent.mkdir()
    foreign = MilvusLite(lite)
    told = "outside embed_assets"
    with pytest.raises(TransientError, match=told), connect(lite, wait_seconds=0.3):
        pass
    threading.Timer(0.5, foreign.close).start()
    with connect(lite, wait_seconds=10) as client:
        assert served(client) is None


def test_addresses_that_cannot_work_say_what_to_change(tmp_path):
    for uri in ("milvus", "ftp://x/milvus.db", str(tmp_path / "milvus.sqlite")):
        with pytest.raises(ConfigurationError, match=r"EMBED_MILVUS_URI.*\.db"), connect(uri):
            pass
    (tmp_path / "old.db").write_bytes(b"SQLite format 3")
    with pytest.raises(ConfigurationError, match="move it away"), connect(str(tmp_path / "old.db")):
        pass
    with pytest.raises(ConfigurationError, match="/proc"), connect("/proc/nowhere/milvus.db"):
        pass


def test_a_server_that_is_away_is_a_passing_trouble_with_its_address():
    start = time.monotonic()
    told = r"http://127\.0\.0\.1:9.*EMBED_MILVUS_URI"
    with pytest.raises(TransientError, match=told), connect("http://127.0.0.1:9"):
        pass
    assert time.monotonic() - start < 20


def test_what_is_released_can_be_opened_by_another_process(lite):
    write(lite, [album("a", 1)])
    with connect(lite) as client:
        serve(client, SPEC)
    other = child("with connect(sys.argv[1], wait_seconds=2) as c: print(served(c))", lite)
    out, _ = other.communicate(timeout=60)
    assert out.strip() == SPEC.collection
