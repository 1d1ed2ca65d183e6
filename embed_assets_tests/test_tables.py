"""What the tables promise, in SQLite and in PostgreSQL alike."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace

import psutil
import pytest

from embed_assets.errors import FolderChanged
from embed_assets.identity import display_path
from embed_assets.index.folders import EMPTY
from embed_assets.storage import embedded_tracks, looks, queries, retry_requests
from embed_assets.storage.find_tracks import track_by_name, tracks_below
from embed_assets.storage.golden_tracks import golden_tracks
from embed_assets.storage.records import CHANGED, Embedding, IndexedFolder, Track
from embed_assets.storage.tables import Tables
from embed_assets_tests.patience import PATIENCE
from embed_assets_tests.postgres import tables_at

ODD = [b"\xff\xfe/%s?:x'\".mp3", "Łódź/ü.flac".encode(), b"a\\b/100% %(x)s.ogg", b"c/\n\t.wav"]


@pytest.fixture
def tables(each_database, tmp_path):
    return tables_at(tmp_path / "tables.sqlite")


def track(path: bytes, folder: str = "f", **tags: object) -> Track:
    return Track(f"id of {path!r}", folder, path, 1, 10**18 + 1, 2**62, f"audio {path!r}", **tags)


def scan(tables, *rows: Track, folder: str = "f", name: str = "scan") -> None:
    tables.begin_scan(folder, b"Folder " + folder.encode(), name)
    tables.put_tracks(rows, name)
    tables.finish_scan(folder, name, f"digest of {name}", len(rows))


def test_paths_of_any_bytes_and_texts_of_any_signs_come_back_as_they_were(tables):
    text = "100 % of 'it'? :name \"%s\" \\ £ 🎷"
    rows = [track(path, title=text, duration=1 / 3) for path in ODD]
    scan(tables, *rows)
    found = {t.path: t for t in queries.every_track(tables)}
    assert found == {t.path: replace(t, added_at=found[t.path].added_at) for t in rows}
    assert [t.path for t in tracks_below(tables, b"")] == sorted(ODD)
    assert set(queries.tracks_frame(tables, "recipe")["path"]) == set(map(display_path, ODD))
    for path in ODD:
        assert track_by_name(tables, display_path(path)).path == path


def test_a_file_is_found_by_its_name_in_any_case(tables):
    scan(tables, track(b"A/Blue_Train.mp3"), track(b"A/BlueXTrain.mp3"))
    assert track_by_name(tables, "blue_train.MP3").path == b"A/Blue_Train.mp3"
    assert track_by_name(tables, "Train.mp3") is None


def test_what_was_read_embedded_and_indexed_is_counted(tables):
    good, bad = track(b"a.mp3", duration=2.5), track(b"b.mp3")
    bad = replace(bad, audio_hash=None, reason="corrupt", message="cut off")
    scan(tables, good, bad)
    empty = (None, queries.last_engine(tables, "r"), queries.seconds_per_track(tables, "r"))
    assert empty == (None, "", None)
    tables.put_embeddings([Embedding("r", good.audio, 3, 2.5, engine="torch", dtype="f", at=5.0)])
    tables.put_embeddings([Embedding("r", "other", 3, 2.5, engine="x", device="cpu", at=7.0)])
    counts = queries.counts(tables, "r", "key")
    assert (counts.folders, counts.tracks, counts.embedded, counts.rejected) == (1, 2, 1, 1)
    assert (counts.folders_indexed, counts.pending, counts.audio_seconds) == (0, 0, 2.5)
    tables.put_indexed("key", [IndexedFolder("f", "digest of scan.spec", 1, 0)])
    assert queries.counts(tables, "r", "key").folders_indexed == 1
    assert tables.indexed("key") == {b"Folder f": "digest of scan.spec"}
    assert queries.seconds_per_track(tables, "r") == 2.0
    assert queries.last_engine(tables, "r") == "x in  on cpu"
    assert queries.folder_states(tables, ["f", "none"], "r")["f"].ready
    assert [p.message for p in queries.rejected_tracks(tables, "r")] == ["cut off"]
    assert embedded_tracks.named_audio(tables, [good.audio, "x"]) == {good.audio}
    assert embedded_tracks.named_audio(tables, []) == set()
    state = queries.manifest_state(tables)
    scan(tables, replace(good, title="New"), bad, name="again")
    assert queries.manifest_state(tables) != state
    assert queries.counts(tables, "r", "key").folders_indexed == 0, "its rows are written again"


def test_tracks_that_were_embedded_in_part_are_counted(tables):
    notes = {
        "a.mp3": "18 of 35 s could be decoded; 1 damaged packet was skipped",
        "b.mp3": "3 damaged packets were skipped",
        "c.mp3": "decoded by libsndfile, because FFmpeg cannot",
        "d.mp3": "",
    }
    tracks = {name: track(name.encode()) for name in notes}
    scan(tables, *tracks.values())
    made = [Embedding("r", tracks[n].audio, 3, 2.5, note=note) for n, note in notes.items()]
    tables.put_embeddings(made)
    assert queries.damaged_tracks(tables, "r") == 2
    assert queries.damaged_tracks(tables, "another") == 0


def test_a_removed_folder_is_gone_and_its_audio_is_remembered(tables):
    scan(tables, track(b"a.mp3"))
    (added,) = (t.added_at for t in queries.every_track(tables))
    tables.put_indexed("key", [IndexedFolder("f", EMPTY, 0, 0)])
    tables.forget_folder("f")
    assert not queries.any_track(tables)
    assert not tables.holds("key")
    again = replace(track(b"b.mp3", "g"), audio_hash=track(b"a.mp3").audio)
    scan(tables, again, folder="g")
    assert [t.added_at for t in queries.every_track(tables)] == [added]


def test_a_reason_is_replaced_by_the_next_unless_it_is_the_better_one(tables):
    tables.put_failures([("f", b"F")], "milvus_index", "Milvus is away", "run", shared=True)
    tables.put_failures([("f", b"F")], CHANGED, "it changed", "run", unless_known=True)
    assert queries.failures(tables) == {b"F": False}
    tables.put_failures([("f", b"F")], CHANGED, "it changed", "run")
    assert queries.failures(tables) == {}
    assert [p.message for p in queries.failed_folders(tables)] == ["it changed"]


def test_looks_that_wait_are_one(tables):
    first = looks.request(tables)
    assert looks.request(tables) == first
    assert looks.begin(tables) == [first.id]
    second = looks.request(tables)
    assert second.id > first.id
    looks.finish(tables, [first.id])
    assert looks.find(tables, first.id).done_at
    assert looks.newest(tables) == second


def test_a_text_with_nul_stops_nothing(tables):
    tables.put_failures([("f", b"F")], "embed", "the decoder said \0", "run")
    (problem,) = queries.failed_folders(tables)
    assert problem.message.startswith("the decoder said")


def test_what_fails_in_the_middle_was_never_written(tables):
    def rows():
        yield track(b"a.mp3")
        raise OSError("the disk fails")

    tables.begin_scan("f", b"F", "scan")
    with pytest.raises(Exception, match="the disk fails"):
        tables.put_tracks(rows(), "scan")
    assert not queries.any_track(tables)


def test_audio_that_another_host_embedded_meanwhile_is_not_indexed_again(tables):
    scan(tables, track(b"a.mp3"))

    def revision():
        with tables.connect() as db:
            return db.execute("SELECT revision FROM folders").fetchall()

    audio = track(b"a.mp3").audio
    first = Embedding("r", audio, 3, device="cuda", run_id="first", at=1.0)
    late = replace(first, device="cpu", run_id="late", at=2.0)
    tables.put_embeddings([first], keep=True)
    before = revision()
    tables.put_embeddings([late], keep=True)
    assert queries.embeddings_of(tables, "r", [audio]) == {audio: first}
    assert revision() == before
    tables.put_embeddings([late])
    assert queries.embeddings_of(tables, "r", [audio]) == {audio: late}
    assert revision() != before, "vectors that were asked for again are indexed again"


def test_golden_tracks_are_the_same_few_whatever_else_there_is(tables):
    def embedded(audio: str, at: float, **more: str) -> Embedding:
        return Embedding("recipe", audio, 1, at=at, **more)

    rows = [replace(track(f"{n}.mp3".encode()), audio_hash=n) for n in ("1", "2", "3", "4", "5")]
    scan(tables, *rows, replace(track(b"0, a copy.mp3"), audio_hash="3"))
    tables.put_embeddings(
        [
            embedded("0", 9.0),  # No track has it any more.
            embedded("1", 9.0, note="damaged"),
            embedded("2", 9.0, reason="bad_vector"),
            *(embedded(audio, 5.0 + int(audio)) for audio in ("3", "4", "5")),
        ]
    )

    def found(limit: int, **more: object) -> list[tuple[str, bytes]]:
        chosen = golden_tracks(tables, "recipe", limit, **more)
        assert all(row.audio_hash == one.audio for one, row in chosen)
        return [(one.audio, one.path) for one, _ in chosen]

    assert found(2) == [("3", b"0, a copy.mp3"), ("4", b"4.mp3")]
    assert [audio for audio, _ in found(9)] == ["3", "4", "5"]
    assert [audio for audio, _ in found(2, since=9.5)] == ["5"]
    assert [audio for audio, _ in found(2, since=9.5, also=["3"])] == ["3", "5"]


def test_searches_notice_what_is_indexed_and_nothing_else_is_needed(tables, each_database):
    seen = [tables.database.revision()]
    tables.put_indexed("key", [IndexedFolder("f", "v", 1, 0)])
    seen.append(tables.database.revision())
    scan(tables, track(b"a.mp3"))
    if each_database == "postgres":
        assert tables.database.revision() == seen[-1], "nothing that a search sees"
    tables.forget_folder("f")
    seen.append(tables.database.revision())
    assert len({str(s) for s in seen}) == 3


def test_writers_of_the_same_audio_do_not_wait_for_each_other_for_ever(tables):
    hashes = [f"{i:032x}" for i in range(40)]

    def embed(order: int) -> None:
        for _ in range(2):
            tables.put_embeddings(Embedding("r", h, 1, at=1.0) for h in hashes[::order])

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(embed, order) for order in (1, -1, 1, -1)]:
            done.result(PATIENCE)
    with tables.connect() as db:
        assert db.execute("SELECT count(*) FROM embeddings").fetchone()[0] == 40


def test_writers_of_every_kind_at_once_leave_no_rows_without_their_folder(tables):
    def work(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(20):
            write(tables, rng)

    with ThreadPoolExecutor(6) as pool:
        for done in [pool.submit(work, seed) for seed in range(6)]:
            done.result(PATIENCE)
    with tables.connect() as db:
        lost = db.execute(
            "SELECT count(*) FROM tracks WHERE folder_id NOT IN (SELECT folder_id FROM folders)"
        ).fetchone()[0]
    assert lost == 0


def write(tables, rng: random.Random) -> None:
    """One of the things that runs, `retry` and `gc` do, with folders and audio that all share."""
    folders, audio = [f"f{i}" for i in range(6)], [f"audio {i}" for i in range(8)]
    folder, name = rng.choice(folders), str(rng.random())
    kind = rng.choice(["scan", "scan", "embed", "retry", "forget", "index", "gc", "fail"])
    if kind == "scan":
        rows = [
            replace(track(b"%d" % i, folder, title=name), audio_hash=rng.choice(audio))
            for i in range(rng.randrange(1, 6))
        ]
        rows = [replace(r, track_id=f"{folder} {r.path!r}") for r in rows]
        with suppress(FolderChanged):
            scan(tables, *rows, folder=folder, name=name)
    elif kind == "embed":
        tables.put_embeddings(Embedding("r", a, 1, at=1.0) for a in rng.sample(audio, 4))
    elif kind == "retry":
        retry_requests.ask(tables, lambda path: path.endswith(folder.encode()), [])
    elif kind == "forget":
        tables.forget_folder(folder)
    elif kind == "index":
        tables.put_indexed("k", [IndexedFolder(f, "v", 1, 0) for f in rng.sample(folders, 3)])
    elif kind == "gc":
        embedded_tracks.forget_embeddings(tables, "r", audio[:4], unless_named=True)
    else:
        tables.put_failures([(f, b"F") for f in rng.sample(folders, 3)], "step", "why", "run")


# Other processes

BEGIN = """
import pathlib, sys
from embed_assets.errors import FolderChanged
from embed_assets.project import tables_in
from embed_assets.storage.postgres_address import PostgresAddress
from embed_assets.storage.records import Track
where = sys.argv[1]
postgres = where.startswith("postgresql:")
tables = tables_in(pathlib.Path(where), PostgresAddress(where) if postgres else None)
"""
SLOW_WORKER = f"""{BEGIN}
tables.begin_scan("f", b"Folder f", "slow")
print("began", flush=True)
sys.stdin.readline()
row = Track("id", "f", b"a.mp3", 1, 1, 1, "audio", title="old")
for step in (
    lambda: tables.put_tracks([row], "slow"),
    lambda: tables.keep_tracks("f", ["id"], "slow"),
    lambda: tables.finish_scan("f", "slow", "old digest", 1),
):
    try:
        step()
        print("written", flush=True)
    except FolderChanged as e:
        print("refused:", e, flush=True)
"""
MAKER = f"""{BEGIN}
print("ready", flush=True)
sys.stdin.readline()
with tables.connect() as db:
    print(db.execute("SELECT count(*) FROM tracks").fetchone()[0], flush=True)
"""


def where(tables) -> str:
    path = getattr(tables.database, "path", None)
    return str(path.parent) if path else tables.database.address.url


def begin(script: str, tables) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", script, where(tables)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline()
    return process


def end(process: subprocess.Popen[str]) -> list[str]:
    out, _ = process.communicate("go on\n", timeout=PATIENCE)
    assert process.returncode == 0
    return out.splitlines()


def test_a_worker_that_was_frozen_and_wakes_writes_nothing_over_newer_rows(tables):
    worker = begin(SLOW_WORKER, tables)
    worker.send_signal(signal.SIGSTOP)
    frozen = psutil.Process(worker.pid)
    deadline = time.monotonic() + PATIENCE
    while frozen.status() != psutil.STATUS_STOPPED and time.monotonic() < deadline:
        time.sleep(0.01)
    new = replace(track(b"a.mp3"), track_id="id", title="new")
    scan(tables, new, name="newer")
    worker.send_signal(signal.SIGCONT)
    answers = end(worker)
    assert [a.partition(":")[0] for a in answers] == ["refused"] * 3
    assert [t.title for t in queries.every_track(tables)] == ["new"]
    assert tables.digest("f") == "digest of newer"


def test_a_folder_that_was_removed_meanwhile_gets_no_rows(tables):
    tables.begin_scan("f", b"F", "scan")
    tables.forget_folder("f")
    with pytest.raises(FolderChanged):
        tables.put_tracks([track(b"a.mp3")], "scan")
    assert not queries.any_track(tables)


def test_another_scan_waits_until_rows_are_written_and_then_goes_first(tables):
    tables.begin_scan("f", b"F", "one")
    written, begun = threading.Event(), threading.Event()

    def another() -> None:
        written.wait(PATIENCE)
        tables.begin_scan("f", b"F", "another")
        begun.set()

    def rows():
        yield track(b"a.mp3")
        written.set()
        assert not begun.wait(0.5)
        yield track(b"b.mp3")

    thread = threading.Thread(target=another)
    thread.start()
    tables.put_tracks(rows(), "one")
    thread.join(PATIENCE)
    assert begun.is_set()
    with pytest.raises(FolderChanged):
        tables.put_tracks([track(b"c.mp3")], "one")


def test_processes_may_make_the_tables_at_the_same_time(tables):
    makers = [begin(MAKER, tables) for _ in range(3)]
    for maker in makers:
        maker.stdin.write("go on\n")
        maker.stdin.flush()
    assert [end(maker) for maker in makers] == [["0"]] * 3


def test_a_process_that_makes_the_tables_waits_for_another_one(tmp_path):
    path = tmp_path / "tables.sqlite"
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as another:
        another.execute("BEGIN IMMEDIATE")
        threading.Timer(0.5, another.execute, ("COMMIT",)).start()
        with Tables(path).connect() as db:
            assert db.execute("SELECT count(*) FROM tracks").fetchone()[0] == 0
