"""What was embedded once is there for good, whole or not at all; damage never goes unnoticed.

The same of vectors in a folder and in an object store.
"""

from __future__ import annotations

import io
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embed_assets.errors import Reason, TrackRejected, TransientError
from embed_assets.storage.folder_store import FolderStore
from embed_assets.storage.object_store import ObjectStore
from embed_assets.storage.vector_store import Store, VectorsLost, Wanted
from embed_assets_tests.object_server import names_in, put_raw, raw_of
from embed_assets_tests.patience import PATIENCE

RECIPE = "a" * 32
HASH = "b7" * 16
NAME = f"{RECIPE}/b7/{HASH}.npy"


def windows(n: int = 3, stats: int = 3, dim: int = 64, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, stats, dim)).astype(np.float32)


@pytest.fixture(params=["folder", "object store"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return FolderStore(tmp_path / "store")
    bucket = request.getfixturevalue("bucket")
    return ObjectStore(f"s3://{bucket}/my/vectors", tmp_path / "home", 10**9)


@pytest.fixture
def folder(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


def start(store: Store, code: str, *args: object) -> subprocess.Popen[str]:
    """A process that uses the store."""
    preamble = (
        "import pickle, sys, numpy as np\n"
        "from embed_assets.errors import TransientError\n"
        "store = pickle.loads(bytes.fromhex(sys.argv.pop(1)))\n"
    )
    root = Path(__file__).resolve().parents[1]
    return subprocess.Popen(
        [sys.executable, "-c", preamble + code, pickle.dumps(store).hex(), *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(root)},
    )


def hashes(store: Store, recipe: str = RECIPE) -> list[str]:
    return sorted(entry.audio_hash for entry in store.entries(recipe))


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 3, 1024), (24, 3, 1024), (3, 1, 155)])
def test_what_was_written_is_read(store: Store, shape: tuple[int, int, int]) -> None:
    array = windows(*shape)
    store.write(RECIPE, HASH, array)
    read = store.read(RECIPE, HASH)
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, array)
    assert names_in(store) == [NAME]


def test_an_entry_lies_where_the_documents_say_and_numpy_opens_it(store: Store) -> None:
    store.write(RECIPE, HASH, windows())
    np.testing.assert_array_equal(np.load(io.BytesIO(raw_of(store, NAME))), windows())


def test_a_second_write_keeps_the_first_unless_it_is_to_replace_it(store: Store) -> None:
    store.write(RECIPE, HASH, windows(seed=1))
    store.write(RECIPE, HASH, windows(n=5, seed=2))
    np.testing.assert_array_equal(store.read(RECIPE, HASH), windows(seed=1))
    store.write(RECIPE, HASH, windows(n=5, seed=2), replace=True)
    np.testing.assert_array_equal(store.read(RECIPE, HASH), windows(n=5, seed=2))


def test_a_damaged_entry_is_replaced_by_the_next_write(store: Store) -> None:
    put_raw(store, NAME, b"half of it")
    store.write(RECIPE, HASH, windows())
    np.testing.assert_array_equal(store.read(RECIPE, HASH), windows())


def test_an_array_that_is_not_contiguous_is_kept_in_its_order(store: Store) -> None:
    array = windows().transpose(1, 0, 2)[:, ::-1]
    store.write(RECIPE, HASH, array)
    np.testing.assert_array_equal(store.read(RECIPE, HASH), array)


def test_recipes_do_not_mix(store: Store) -> None:
    store.write(RECIPE, HASH, windows(seed=1))
    other = "c" * 32
    assert not store.has(other, HASH)
    store.write(other, HASH, windows(seed=2))
    np.testing.assert_array_equal(store.read(RECIPE, HASH), windows(seed=1))
    assert set(store.recipes()) == {RECIPE, other}


def test_a_listing_has_entries_and_nothing_else_with_sizes_and_times(store: Store) -> None:
    many = {f"{i:032x}" for i in range(0, 2**124, 2**121)} | {HASH}
    for audio_hash in many:
        store.write(RECIPE, audio_hash, windows(1, 1, 4))
    put_raw(store, f"{RECIPE}/b7/.{HASH}.123.tmp", b"half")
    put_raw(store, f"{RECIPE}/.DS_Store", b"x")
    put_raw(store, f"{RECIPE}/b7/{'cd' * 16}.npy", b"in the wrong folder")
    put_raw(store, f"photos/b7/{HASH}.npy", b"of somebody else")
    assert list(store.recipes()) == [RECIPE]
    assert hashes(store) == sorted(many)
    assert hashes(store, "none") == []
    for entry in store.entries(RECIPE):
        assert entry.bytes == 128 + 16 + 12
        assert abs(entry.modified - store.now()) < 60


def test_an_empty_store_has_nothing(store: Store) -> None:
    assert list(store.recipes()) == []
    assert not store.has(RECIPE, HASH)


def test_delete_removes_entries_and_forgives_missing_ones(store: Store) -> None:
    store.write(RECIPE, HASH, windows())
    assert store.has(RECIPE, HASH)
    store.delete(RECIPE, ["cd" * 16, HASH])
    store.delete(RECIPE, [HASH])
    store.delete(RECIPE, [])
    assert not store.has(RECIPE, HASH)


def test_a_missing_entry_says_what_to_do(store: Store) -> None:
    with pytest.raises(VectorsLost, match=f"no vectors at .*{HASH}.npy: embed this audio again"):
        store.read(RECIPE, HASH)


def test_many_are_read_in_order_and_each_that_is_lost_has_its_place(store: Store) -> None:
    many = [f"{i:032x}" for i in range(5)]
    for i, audio_hash in enumerate(many):
        if i != 2:
            store.write(RECIPE, audio_hash, windows(seed=i))
    put_raw(store, f"{RECIPE}/00/{many[3]}.npy", b"damaged")
    found = list(store.read_many(RECIPE, map(Wanted, [*many, many[0]])))
    for i, seed in enumerate([0, 1, None, None, 4, 0]):
        if seed is None:
            assert isinstance(found[i], VectorsLost)
        else:
            np.testing.assert_array_equal(found[i], windows(seed=seed))
    assert list(store.read_many(RECIPE, [])) == []


@pytest.mark.parametrize("keep", [0, 1, 11, 60, 128, 500, -12, -5, -1])
def test_a_cut_off_entry_is_noticed(folder: FolderStore, keep: int) -> None:
    folder.write(RECIPE, HASH, windows())
    put_raw(folder, NAME, raw_of(folder, NAME)[:keep])
    with pytest.raises(VectorsLost, match=f"{HASH}.npy are damaged"):
        folder.read(RECIPE, HASH)


def test_an_empty_entry_is_none(store: Store) -> None:
    """Some disks leave an empty file if the power fails."""
    put_raw(store, NAME, b"")
    assert not store.has(RECIPE, HASH)


@pytest.mark.parametrize("at", [0, 8, 9, 30, 70, 127, 128, 1000, -13, -12, -4, -1])
def test_a_flipped_bit_is_noticed(folder: FolderStore, at: int) -> None:
    folder.write(RECIPE, HASH, windows())
    raw = bytearray(raw_of(folder, NAME))
    raw[at] ^= 4
    put_raw(folder, NAME, bytes(raw))
    with pytest.raises(VectorsLost, match="damaged"):
        folder.read(RECIPE, HASH)


def test_zeroed_blocks_and_foreign_files_are_noticed(store: Store) -> None:
    store.write(RECIPE, HASH, windows())
    raw = raw_of(store, NAME)
    foreign = io.BytesIO()
    np.save(foreign, windows())
    changed = b"\0" * len(raw), raw[:128] + b"\0" * (len(raw) - 128), raw + b"\0", raw[:500]
    for damaged in (*changed, foreign.getvalue()):
        put_raw(store, NAME, damaged)
        with pytest.raises(VectorsLost, match=f"{HASH}.npy are damaged"):
            store.read(RECIPE, HASH)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_never_get_in(store: Store, bad: float) -> None:
    array = windows()
    array[0, 1, 2] = bad
    with pytest.raises(TrackRejected) as caught:
        store.write(RECIPE, HASH, array)
    assert caught.value.reason is Reason.BAD_VECTOR
    assert not store.has(RECIPE, HASH)


@pytest.mark.parametrize(
    "array", [np.ones((2, 3, 4)), np.ones((3, 4), "f4"), np.ones((0, 3, 4), "f4")]
)
def test_other_arrays_are_refused(folder: FolderStore, array: np.ndarray) -> None:
    with pytest.raises(ValueError, match="windows must be float32"):
        folder.write(RECIPE, HASH, array)


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "a/b", "..", "x" * 300, "abc\n"])
def test_names_that_would_leave_the_store_are_refused(store: Store, name: str) -> None:
    calls: list[Any] = [store.has, store.read, lambda r, h: store.delete(r, [h])]
    for call in (*calls, lambda r, h: store.write(r, h, windows())):
        with pytest.raises(ValueError, match="is not a digest"):
            call(RECIPE, name)
        with pytest.raises(ValueError, match="is not a digest"):
            call(name, HASH)


def test_a_disk_that_takes_no_more_is_transient_and_leaves_nothing_behind(
    folder: FolderStore,
) -> None:
    code = (
        "import resource\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "try:\n"
        "    store.write(sys.argv[1], sys.argv[2], np.ones((3, 3, 1024), 'f4'))\n"
        "except TransientError as error:\n"
        "    print(error)\n"
    )
    out, err = start(folder, code, RECIPE, HASH).communicate(timeout=PATIENCE)
    assert "could not write" in out, err
    assert str(folder.path(RECIPE, HASH)) in out
    assert "check that this disk is mounted and writable" in out
    assert names_in(folder) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_named_as_such(tmp_path: Path) -> None:
    from embed_assets.storage.folder_store import _failed

    with pytest.raises(OSError) as caught, open("/dev/full", "wb") as full:  # noqa: PT011
        full.write(b"x")
    message = str(_failed("write", tmp_path, caught.value))
    assert str(tmp_path) in message
    assert "the disk is full: free some space" in message


def test_a_store_that_is_no_folder_is_transient_for_every_call(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    store = FolderStore(tmp_path / "file")
    assert not store.has(RECIPE, HASH)
    for call in (lambda: store.write(RECIPE, HASH, windows()), lambda: store.read(RECIPE, HASH)):
        with pytest.raises(TransientError, match=r"could not (write|read) .*Not a directory"):
            call()


def test_killed_writers_leave_whole_entries_or_none(store: Store) -> None:
    code = (
        "print('go', flush=True)\n"
        "for i in range(10**6):\n"
        "    array = np.full((40, 3, 1024), i, 'f4')\n"
        "    store.write(sys.argv[1], f'{i % 40:032x}', array, replace=i % 2 == 0)\n"
    )
    delays = (0.0, 0.01, 0.03, 0.05) if isinstance(store, FolderStore) else (0.1, 0.4)
    for delay in delays:
        writer = start(store, code, RECIPE)
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(delay)
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
        for audio_hash in hashes(store):
            array = store.read(RECIPE, audio_hash)
            assert array.shape == (40, 3, 1024)
            assert (array == array[0, 0, 0]).all()


def test_only_leftovers_older_than_a_day_are_swept(folder: FolderStore) -> None:
    folder.write(RECIPE, HASH, windows())
    path = folder.path(RECIPE, HASH)
    old, young = (path.with_name(f".{HASH}.{name}.tmp") for name in ("old", "young"))
    for leftover, age in ((old, 90_000), (young, 3_600), (path, 90_000)):
        leftover.touch()
        os.utime(leftover, (time.time() - age,) * 2)
    assert folder.sweep_temporary() == 1
    assert {Path(name).name for name in names_in(folder)} == {young.name, path.name}
    assert folder.sweep_temporary() == 0


def test_processes_that_write_one_entry_at_once_never_show_a_reader_half_of_it(
    store: Store,
) -> None:
    code = (
        "for _ in range(int(sys.argv[4])):\n"
        "    array = np.full((40, 3, 1024), int(sys.argv[3]), 'f4')\n"
        "    store.write(sys.argv[1], sys.argv[2], array, replace=True)\n"
    )
    store.write(RECIPE, HASH, np.zeros((40, 3, 1024), np.float32))
    times = 60 if isinstance(store, FolderStore) else 15
    writers = [start(store, code, RECIPE, HASH, value, times) for value in (1, 2)]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        array = store.read(RECIPE, HASH)
        assert (array == array[0, 0, 0]).all()
        seen.add(float(array[0, 0, 0]))
    for writer in writers:
        _, err = writer.communicate()
        assert writer.returncode == 0, err
    seen.add(float(store.read(RECIPE, HASH)[0, 0, 0]))
    assert seen & {1.0, 2.0}
    assert names_in(store) == [NAME]


def test_doctors_check_leaves_nothing_behind(store: Store) -> None:
    store.write(RECIPE, HASH, windows())
    assert store.where in store.check()
    assert names_in(store) == [NAME]


def test_a_folder_of_the_settings_that_is_gone_is_not_taken_for_an_empty_one(
    tmp_path: Path,
) -> None:
    from embed_assets.errors import ConfigurationError

    store = FolderStore(tmp_path / "mount", tmp_path / "home")
    for call in (
        lambda: store.write(RECIPE, HASH, windows()),
        lambda: store.read(RECIPE, HASH),
        lambda: store.has(RECIPE, HASH),
        lambda: store.known_lost(RECIPE, [HASH]),
    ):
        with pytest.raises(ConfigurationError, match="there is no such folder: mount its disk"):
            call()
    store.root.mkdir()
    store.write(RECIPE, HASH, windows())
    np.testing.assert_array_equal(store.read(RECIPE, HASH), windows())
