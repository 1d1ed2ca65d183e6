"""What kills, crashes and other processes do to an index, most of all to Lite's files."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest

from embed_assets.errors import ConfigurationError, TransientError
from embed_assets.index.collection import load, rows_by_folder, served
from embed_assets.index.connection import connect
from embed_assets.index.nearest import similar
from embed_assets.index.writer import FolderWritten
from embed_assets_tests.indexing import (
    SPEC,
    album,
    assert_has,
    assert_holds,
    child,
    index_folders,
    killed_folders,
    serve,
    vector_of,
    write,
)
from embed_assets_tests.patience import PATIENCE


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
        for _ in range(4):
            with connect(lite, wait_seconds=PATIENCE) as client:
                assert similar(client, vector_of("ab"), 5)
            time.sleep(0.1)
        assert writer.poll() is None, "it had to wait until the writer was done"
    finally:
        writer.kill()
        writer.wait()
        writer.stdout.close()


def test_an_index_that_is_never_let_go_says_who_has_it(lite):
    told = rf"in use by process {os.getpid()}.*server"
    with connect(lite), pytest.raises(TransientError, match=told), connect(lite, wait_seconds=0.2):
        pass


def test_a_notebook_that_holds_lite_is_waited_for(lite):
    from milvus_lite.db import MilvusLite

    Path(lite).parent.mkdir()
    foreign = MilvusLite(lite)
    told = "other than embed_assets"
    with pytest.raises(TransientError, match=told), connect(lite, wait_seconds=0.3):
        pass
    threading.Timer(0.5, foreign.close).start()
    with connect(lite, wait_seconds=PATIENCE) as client:
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
    told = r"http://127\.0\.0\.1:9.*EMBED_MILVUS_URI"
    with pytest.raises(TransientError, match=told), connect("http://127.0.0.1:9"):
        pass


def test_what_is_released_can_be_opened_by_another_process(lite):
    write(lite, [album("a", 1)])
    with connect(lite) as client:
        serve(client, SPEC)
    other = child("with connect(sys.argv[1], wait_seconds=60) as c: print(served(c))", lite)
    out, _ = other.communicate(timeout=PATIENCE)
    assert out.strip() == SPEC.collection
