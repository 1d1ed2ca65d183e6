"""What was embedded once is there for good, whole or not at all; damage never goes unnoticed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from embed_assets.errors import Reason, TrackRejected, TransientError
from embed_assets.storage.vector_store import Store, VectorsLost
from embed_assets_tests.patience import PATIENCE

RECIPE = "a" * 32
HASH = "b7" * 16


def windows(n: int = 3, stats: int = 3, dim: int = 64, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, stats, dim)).astype(np.float32)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def start(code: str, *args: object) -> subprocess.Popen[str]:
    preamble = (
        "import sys, numpy as np\n"
        "from pathlib import Path\n"
        "from embed_assets.storage.vector_store import Store, VectorsLost\n"
        "from embed_assets.errors import TransientError\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", preamble + code, *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def files(store: Store) -> list[str]:
    return sorted(p.name for p in store.root.rglob("*") if p.is_file())


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 3, 1024), (24, 3, 1024), (3, 1, 155)])
def test_what_was_written_is_read(store: Store, shape: tuple[int, int, int]) -> None:
    array = windows(*shape)
    store.write(RECIPE, HASH, array)
    read = store.read(RECIPE, HASH)
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, array)
    assert files(store) == [f"{HASH}.npy"]


def test_an_entry_lies_where_the_documents_say_and_numpy_opens_it(store: Store) -> None:
    store.write(RECIPE, HASH, windows())
    path = store.root / RECIPE / HASH[:2] / f"{HASH}.npy"
    np.testing.assert_array_equal(np.load(path), windows())
    np.testing.assert_array_equal(np.load(path, mmap_mode="r"), windows())


def test_a_second_write_takes_the_place_of_the_first(store: Store) -> None:
    store.write(RECIPE, HASH, windows(seed=1))
    store.write(RECIPE, HASH, windows(n=5, seed=2))
    np.testing.assert_array_equal(store.read(RECIPE, HASH), windows(n=5, seed=2))


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


def test_hashes_lists_entries_and_nothing_else(store: Store) -> None:
    hashes = {f"{i:032x}" for i in range(0, 2**124, 2**121)} | {HASH}
    for audio_hash in hashes:
        store.write(RECIPE, audio_hash, windows(1, 1, 4))
    store.path(RECIPE, HASH).with_name(f".{HASH}.123.tmp").write_bytes(b"half")
    (store.root / RECIPE / ".DS_Store").write_bytes(b"")
    assert sorted(store.hashes(RECIPE)) == sorted(hashes)
    assert list(store.hashes("none")) == []
    assert list(Store(store.root / "nowhere").recipes()) == []


def test_delete_removes_one_entry_and_forgives_a_missing_one(store: Store) -> None:
    store.write(RECIPE, HASH, windows())
    assert store.has(RECIPE, HASH)
    store.delete(RECIPE, HASH)
    store.delete(RECIPE, HASH)
    assert not store.has(RECIPE, HASH)


def test_a_missing_entry_says_what_to_do(store: Store) -> None:
    with pytest.raises(VectorsLost, match=f"no vectors at .*{HASH}.npy: embed this audio again"):
        store.read(RECIPE, HASH)


@pytest.mark.parametrize("keep", [0, 1, 11, 60, 128, 500, -12, -5, -1])
def test_a_cut_off_entry_is_noticed(store: Store, keep: int) -> None:
    store.write(RECIPE, HASH, windows())
    path = store.path(RECIPE, HASH)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(VectorsLost, match=f"{HASH}.npy are damaged"):
        store.read(RECIPE, HASH)


def test_the_empty_file_that_a_power_loss_leaves_is_no_entry(store: Store) -> None:
    store.write(RECIPE, HASH, windows())
    store.path(RECIPE, HASH).write_bytes(b"")
    assert not store.has(RECIPE, HASH)


@pytest.mark.parametrize("at", [0, 8, 9, 30, 70, 127, 128, 1000, -13, -12, -4, -1])
def test_a_flipped_bit_is_noticed(store: Store, at: int) -> None:
    store.write(RECIPE, HASH, windows())
    path = store.path(RECIPE, HASH)
    raw = bytearray(path.read_bytes())
    raw[at] ^= 4
    path.write_bytes(raw)
    with pytest.raises(VectorsLost, match="damaged"):
        store.read(RECIPE, HASH)


def test_zeroed_blocks_and_foreign_files_are_noticed(store: Store) -> None:
    store.write(RECIPE, HASH, windows())
    path = store.path(RECIPE, HASH)
    raw = path.read_bytes()
    for damaged in (b"\0" * len(raw), raw[:128] + b"\0" * (len(raw) - 128), raw + b"\0"):
        path.write_bytes(damaged)
        with pytest.raises(VectorsLost, match="damaged"):
            store.read(RECIPE, HASH)
    np.save(path, windows())
    with pytest.raises(VectorsLost, match="damaged"):
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
def test_other_arrays_are_refused(store: Store, array: np.ndarray) -> None:
    with pytest.raises(ValueError, match="windows must be float32"):
        store.write(RECIPE, HASH, array)


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "a/b", "..", "x" * 300, "abc\n"])
def test_names_that_would_leave_the_store_are_refused(store: Store, name: str) -> None:
    for call in (store.has, store.read, store.delete):
        with pytest.raises(ValueError, match="is not a digest"):
            call(RECIPE, name)
        with pytest.raises(ValueError, match="is not a digest"):
            call(name, HASH)


def test_a_disk_that_takes_no_more_is_transient_and_leaves_nothing_behind(store: Store) -> None:
    code = (
        "import resource\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "try:\n"
        "    windows = np.ones((3, 3, 1024), 'f4')\n"
        "    Store(Path(sys.argv[1])).write(sys.argv[2], sys.argv[3], windows)\n"
        "except TransientError as error:\n"
        "    print(error)\n"
    )
    out, err = start(code, store.root, RECIPE, HASH).communicate(timeout=PATIENCE)
    assert "could not write" in out, err
    assert str(store.path(RECIPE, HASH)) in out
    assert "EMBED_HOME" in out
    assert files(store) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_named_as_such(tmp_path: Path) -> None:
    from embed_assets.storage.vector_store import _failed

    with pytest.raises(OSError) as caught, open("/dev/full", "wb") as full:  # noqa: PT011
        full.write(b"x")
    message = str(_failed("write", tmp_path, caught.value))
    assert str(tmp_path) in message
    assert "the disk is full: free some space" in message


def test_a_store_that_is_no_folder_is_transient_for_every_call(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    store = Store(tmp_path / "file")
    assert not store.has(RECIPE, HASH)
    for call in (lambda: store.write(RECIPE, HASH, windows()), lambda: store.read(RECIPE, HASH)):
        with pytest.raises(TransientError, match=r"could not (write|read) .*Not a directory"):
            call()


def test_killed_writers_leave_whole_entries_or_none(store: Store) -> None:
    code = (
        "store = Store(Path(sys.argv[1])); print('go', flush=True)\n"
        "for i in range(10**6):\n"
        "    store.write(sys.argv[2], f'{i % 40:032x}', np.full((40, 3, 1024), i, 'f4'))\n"
    )
    for delay in (0.0, 0.01, 0.03, 0.05):
        writer = start(code, store.root, RECIPE)
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(delay)
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
        for audio_hash in store.hashes(RECIPE):
            array = store.read(RECIPE, audio_hash)
            assert array.shape == (40, 3, 1024)
            assert (array == array[0, 0, 0]).all()


def test_only_leftovers_older_than_a_day_are_swept(store: Store) -> None:
    store.write(RECIPE, HASH, windows())
    path = store.path(RECIPE, HASH)
    old, young = (path.with_name(f".{HASH}.{name}.tmp") for name in ("old", "young"))
    for leftover, age in ((old, 90_000), (young, 3_600), (path, 90_000)):
        leftover.touch()
        os.utime(leftover, (time.time() - age,) * 2)
    assert store.sweep_temporary() == 1
    assert files(store) == sorted([young.name, path.name])
    assert store.sweep_temporary() == 0


def test_processes_that_write_one_entry_at_once_never_show_a_reader_half_of_it(
    store: Store,
) -> None:
    code = (
        "store = Store(Path(sys.argv[1])); print('go', flush=True)\n"
        "for _ in range(60):\n"
        "    windows = np.full((40, 3, 1024), int(sys.argv[4]), 'f4')\n"
        "    store.write(sys.argv[2], sys.argv[3], windows)\n"
    )
    store.write(RECIPE, HASH, np.zeros((40, 3, 1024), np.float32))
    writers = [start(code, store.root, RECIPE, HASH, value) for value in (1, 2)]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        array = store.read(RECIPE, HASH)
        assert (array == array[0, 0, 0]).all()
        seen.add(float(array[0, 0, 0]))
    for writer in writers:
        _, err = writer.communicate()
        assert writer.returncode == 0, err
    assert seen & {1.0, 2.0}
    assert files(store) == [f"{HASH}.npy"]
