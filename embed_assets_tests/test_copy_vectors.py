"""`copy-vectors`: stored vectors move into an object store and back, and none is embedded again."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from embed_assets.cli import main
from embed_assets.errors import ConfigurationError, EmbedAssetsError, TransientError
from embed_assets.identity import AudioHash, RecipeDigest
from embed_assets.operations import copy_vectors as operation
from embed_assets.operations.copy_vectors import copy_vectors
from embed_assets.project import Project, store_in
from embed_assets.settings import Settings
from embed_assets.storage.folder_store import FolderStore
from embed_assets.storage.vector_store import MARK, Entry
from embed_assets_tests.object_server import names_in, put_raw, raw_of

RECIPES = ("a" * 32, "b" * 32)


def windows(i: int) -> np.ndarray:
    return np.full((3, 1, 8), i, np.float32)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings with twenty entries in EMBED_HOME."""
    made = Settings(_env_file=None, home=tmp_path / "home")
    store = Project.of(made).store
    for i in range(20):
        store.write(RECIPES[i % 2], f"{i * 2**120:032x}", windows(i))
    for path in store.root.glob("*/*/*.npy"):
        os.utime(path, (time.time() - 60,) * 2)
    return made


def counts(settings: Settings, target: str) -> tuple[int, int, int]:
    found = copy_vectors(settings, target, lambda _: None)
    return found.copied, found.there, found.lost


def test_vectors_go_to_an_object_store_and_back_with_the_same_names_and_bytes(
    settings: Settings, bucket: str, tmp_path: Path
) -> None:
    here, address = Project.of(settings).store, f"s3://{bucket}/x"
    assert counts(settings, address) == (20, 0, 0)
    there = store_in(settings.home, address)
    assert names_in(there) == [*names_in(here), MARK]
    for name in names_in(here):
        assert raw_of(there, name) == raw_of(here, name)
    assert counts(settings, address)[0] == 0
    named = settings.model_copy(update={"vectors": address})
    back = tmp_path / "another home" / "vectors"
    back.parent.mkdir()
    assert counts(named, str(back)) == (20, 0, 0)
    assert names_in(store_in(back.parent)) == names_in(there)


def test_a_copy_that_was_interrupted_goes_on_and_what_is_new_is_copied(
    settings: Settings, bucket: str
) -> None:
    here, address = Project.of(settings).store, f"s3://{bucket}"
    there = store_in(settings.home, address)
    for i in range(0, 12, 2):
        there.write(RECIPES[0], f"{i * 2**120:032x}", windows(i))
    put_raw(there, names_in(there)[0], b"half of it")
    here.write(RECIPES[0], "cd" * 16, windows(99))
    copied, there_already, lost = counts(settings, address)
    assert (copied + there_already, lost) == (21, 0)
    assert there_already <= 5
    np.testing.assert_array_equal(there.read(RECIPES[0], "cd" * 16), windows(99))
    np.testing.assert_array_equal(there.read(RECIPES[0], "00" * 16), windows(0))


def test_what_was_embedded_again_since_it_was_copied_is_copied_again(
    settings: Settings, tmp_path: Path
) -> None:
    here, target = Project.of(settings).store, str(tmp_path / "there")
    assert counts(settings, target) == (20, 0, 0)
    here.write(RECIPES[0], "00" * 16, windows(50), replace=True)
    assert counts(settings, target) == (1, 19, 0)
    there = store_in(settings.home, target)
    np.testing.assert_array_equal(there.read(RECIPES[0], "00" * 16), windows(50))


@pytest.mark.parametrize("ahead", [-3600.0, 0.0, 3600.0])
def test_clocks_that_differ_hide_nothing_that_is_newer(ahead: float) -> None:
    def entry(at: float) -> Entry:
        return Entry("00" * 16, 100, at)

    copied = 1000.0
    assert operation.is_copied(entry(990.0), entry(copied + ahead), ahead)
    assert not operation.is_copied(entry(1010.0), entry(copied + ahead), ahead)
    assert not operation.is_copied(entry(990.0), None, ahead)


def test_a_source_that_can_only_be_read_is_copied(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup = tmp_path / "backup"
    (settings.home / "vectors").rename(backup)
    named = settings.model_copy(update={"vectors": str(backup)})
    monkeypatch.setattr(FolderStore, "_time_of_new_file", refuse)  # root may write anywhere
    assert counts(named, str(settings.home / "vectors"))[:2] == (20, 0)


def refuse(store: FolderStore) -> float:
    if store.root.name == "backup":
        raise TransientError("read-only file system")
    return time.time()


def test_damaged_vectors_are_counted_and_left_out(
    settings: Settings, tmp_path: Path, capsys, monkeypatch
) -> None:
    here = Project.of(settings).store
    put_raw(here, names_in(here)[3], b"damaged")
    monkeypatch.setenv("EMBED_HOME", str(settings.home))
    monkeypatch.setattr("sys.argv", ["x", "copy-vectors", str(tmp_path / "there")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    printed = capsys.readouterr()
    assert "19 copied, 0 were there already" in printed.out
    assert "1 are damaged and were left out" in printed.err


def test_vectors_that_are_deleted_meanwhile_are_not_called_damaged(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, deleted = FolderStore.read, f"{4 * 2**120:032x}"

    def after_gc(store: FolderStore, recipe: RecipeDigest, audio: AudioHash) -> np.ndarray:
        if audio == deleted:
            for path in (settings.home / "vectors").rglob(f"{deleted}*"):
                path.unlink()
        return read(store, recipe, audio)

    monkeypatch.setattr(FolderStore, "read", after_gc)
    assert counts(settings, str(tmp_path / "there")) == (19, 0, 0)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("{home}/vectors", "is where the vectors are already"),
        ("{home}/../home/vectors/", "is where the vectors are already"),
        ("{home}/vectors/copy", "lies in or around it"),
        ("{home}", "lies in or around it"),
        ("vectors", "is a relative path"),
        ("ftp://x/y", "is not known here"),
        ("s3://not-there/x", "there is no bucket 'not-there'"),
        ("{home}/disk/vectors", "there is no folder .*disk: mount its disk"),
    ],
)
def test_a_target_that_cannot_be_one_is_refused(
    settings: Settings, bucket: str, target: str, said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said):
        copy_vectors(settings, target.format(home=settings.home), lambda _: None)


def test_a_disk_that_goes_away_meanwhile_is_no_copy_that_is_complete(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operation, "SECONDS_PER_NOTE", 0.0)
    copy_vectors(settings, str(tmp_path / "nas"), lambda _: None)
    named = settings.model_copy(update={"vectors": str(tmp_path / "nas")})
    entries = Project.of(settings).store
    for i in range(20, 300):
        entries.write(RECIPES[0], f"{i * 2**113:032x}", windows(i))

    def unplugged(_: str) -> None:
        if not (tmp_path / "unplugged").exists():
            (tmp_path / "nas").rename(tmp_path / "unplugged")
            (tmp_path / "nas").mkdir()  # What a mount point is without its disk.

    with pytest.raises(EmbedAssetsError, match="mount"):
        copy_vectors(named, str(tmp_path / "copy"), unplugged)
    (tmp_path / "nas").rmdir()
    (tmp_path / "unplugged").rename(tmp_path / "nas")
    with pytest.raises(EmbedAssetsError, match="mount"):
        copy_vectors(settings, str(tmp_path / "nas"), unplugged)
    under_way = 32
    assert len(list((tmp_path / "nas").rglob("*.npy"))) <= under_way


def test_with_nothing_to_copy_it_says_where_it_looked(tmp_path: Path) -> None:
    settings = Settings(_env_file=None, home=tmp_path / "empty")
    with pytest.raises(ConfigurationError, match=r"there are no vectors in .*empty"):
        operation.copy_vectors(settings, str(tmp_path / "there"), lambda _: None)
