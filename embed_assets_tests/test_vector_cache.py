"""Copies of far vectors on this machine's disk: bounded, shared, and never needed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from embed_assets.storage import vector_cache
from embed_assets.storage.vector_cache import FOLDERS, VectorCache

RECIPE = "r" * 32


def size_of(cache: VectorCache) -> int:
    return sum(p.stat().st_size for p in cache.folder.rglob("*") if p.is_file())


def hashes(n: int) -> list[str]:
    return [f"{i * 2654435761 % 2**32:032x}" for i in range(n)]


def test_what_was_put_is_got_for_the_same_time_only(tmp_path: Path) -> None:
    cache = VectorCache(tmp_path / "cache", 10**9)
    assert cache.get(RECIPE, "audio", 1) is None
    cache.put(RECIPE, "audio", 1, b"one")
    cache.put(RECIPE, "audio", 2, b"two")
    assert (cache.get(RECIPE, "audio", 1), cache.get(RECIPE, "audio", 2)) == (b"one", b"two")
    assert cache.get("s" * 32, "audio", 1) is None


def test_it_stays_as_small_as_it_should_however_much_is_put(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vector_cache, "FOLDERS", 8)
    cache = VectorCache(tmp_path / "cache", 8 * 64_000)
    for audio in hashes(1_500):
        cache.put(RECIPE, audio, 1, bytes(1_000))
    assert 0.6 * cache.most_bytes < size_of(cache) < 1.3 * cache.most_bytes


def test_short_processes_do_not_fill_the_disk_either(tmp_path: Path) -> None:
    cache = VectorCache(tmp_path / "cache", FOLDERS * 2_000)
    code = (
        "import sys; from pathlib import Path\n"
        "from embed_assets.storage.vector_cache import VectorCache\n"
        "cache = VectorCache(Path(sys.argv[1]), int(sys.argv[2]))\n"
        "for i in range(int(sys.argv[3]), 3_000, 2):\n"
        "    cache.put('r' * 32, f'{i * 2654435761 % 2**32:032x}', 1, bytes(500))\n"
    )
    root = Path(__file__).resolve().parents[1]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(cache.folder), str(cache.most_bytes), str(i)],
            env=os.environ | {"PYTHONPATH": str(root)},
        )
        for i in range(2)
    ]
    assert [p.wait() for p in processes] == [0] * 2
    assert size_of(cache) < 1.5 * cache.most_bytes


def test_what_was_used_last_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_cache, "FOLDERS", 1)
    cache = VectorCache(tmp_path / "cache", 10_000)
    for audio in ("used", "unused"):
        cache.put(RECIPE, audio, 1, bytes(1_000))
        (old,) = cache.folder.rglob(f"*-{audio}-1")
        os.utime(old, (time.time() - 10 * 3600,) * 2)
    assert cache.get(RECIPE, "used", 1)
    for audio in hashes(7):
        cache.put(RECIPE, audio, 1, bytes(1_000))
    assert cache.get(RECIPE, "used", 1)
    assert cache.get(RECIPE, "unused", 1) is None


def test_a_cache_of_no_size_keeps_nothing(tmp_path: Path) -> None:
    cache = VectorCache(tmp_path / "cache", 0)
    cache.put(RECIPE, "audio", 1, b"one")
    assert cache.get(RECIPE, "audio", 1) is None
    assert not cache.folder.exists()


def test_an_entry_that_is_too_large_for_it_is_not_kept(tmp_path: Path) -> None:
    cache = VectorCache(tmp_path / "cache", FOLDERS * 1_000)
    cache.put(RECIPE, "audio", 1, bytes(2_000))
    assert size_of(cache) == 0


def test_a_disk_that_fails_or_is_full_only_loses_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("where the folder should be")
    cache = VectorCache(tmp_path / "file", 10**9)
    cache.put(RECIPE, "audio", 1, b"one")
    assert cache.get(RECIPE, "audio", 1) is None
    monkeypatch.setattr(vector_cache, "FREE_BYTES", 1 << 62)
    cache = VectorCache(tmp_path / "cache", 10**9)
    cache.put(RECIPE, "audio", 1, b"one")
    assert cache.get(RECIPE, "audio", 1) is None
