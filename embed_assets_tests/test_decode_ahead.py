"""Decoding ahead for one device gives what a process a core gives, track by track."""

from __future__ import annotations

import os
import signal
import threading
import wave
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from embed_assets.embedding import decode_ahead, device_pipeline
from embed_assets.embedding.decode_ahead import DecodeAhead
from embed_assets.embedding.embed_folders import EmbedContext, embed_folders
from embed_assets.embedding.embed_track import Job, embed_track, load_encoder
from embed_assets.encoders.config import EncoderConfig
from embed_assets.errors import DeviceFailed, FolderChanged, Reason, TrackRejected, TransientError
from embed_assets.identity import local_path
from embed_assets.library.manifest import MusicFolder, scan_folder
from embed_assets.storage.folder_store import FolderStore
from embed_assets.storage.tables import Tables
from embed_assets.workers import open_pool
from embed_assets_tests.embedded import embed_folder
from embed_assets_tests.patience import PATIENCE
from embed_assets_tests.synth import write_track

CHOICE = EncoderConfig("acoustic", "", "cpu", Path())
RECIPE = CHOICE.recipe(2.0, 0)  # whole tracks, in windows of 2 s


@pytest.fixture
def library(tmp_path: Path) -> MusicFolder:
    """Tracks of several lengths, one below a window, one too long to hand on."""
    album = tmp_path / "music" / "Album"
    for i, seconds in enumerate((3.0, 5.0, 1.5, 5.0, 4.0)):
        write_track(album / f"{i}.ogg", seconds=seconds, seed=i, rate=22_050)
    long = album / "long.wav"
    noise = np.random.default_rng(0).integers(96, 160, 8000, np.uint8).tobytes()
    with wave.open(str(long), "wb") as file:
        file.setparams((1, 1, 8000, 0, "NONE", ""))
        file.writeframes(noise * (round(decode_ahead.LONGEST_SECONDS) + 1))
    return MusicFolder(tmp_path / "music")


def test_it_gives_the_vectors_and_rows_that_a_process_a_core_gives(
    library: MusicFolder, tmp_path: Path
) -> None:
    done = {}
    with open_pool(1) as decoders, open_pool(1) as gpu:
        for name, pool in (
            ("a core", decoders),
            ("ahead", DecodeAhead(decoders, gpu, batch_seconds=9.0)),
        ):
            tables, store = Tables(tmp_path / f"{name}.sqlite"), FolderStore(tmp_path / name)
            scan_folder(library, b"Album", tables, decoders)
            embedding = EmbedContext(library, RECIPE, CHOICE, tables, store)
            rows = []
            ((_, result),) = embed_folders(embedding, [b"Album"], pool, rows.append)
            assert (result.embedded, result.rejected) == (6, 0)
            assert result.engine == "numpy"
            assert min(result.decode_seconds, result.encode_seconds, result.store_seconds) > 0
            done[name] = {
                r.audio_hash: (
                    store.read(RECIPE.digest, r.audio_hash),
                    r.windows,
                    r.decoded_seconds,
                    r.note,
                )
                for r in rows
            }
            with tables.connect() as db:
                db.execute("DELETE FROM embeddings")
            found = embed_folder(embedding, b"Album", pool)
            assert (found.embedded, found.reused) == (0, 6), "they are in the store"
    assert done["a core"].keys() == done["ahead"].keys()
    for key, (vectors, *others) in done["a core"].items():
        np.testing.assert_array_equal(done["ahead"][key][0], vectors)
        assert done["ahead"][key][1:] == tuple(others)


def test_a_failure_is_that_of_its_track(library: MusicFolder, tmp_path: Path) -> None:
    tables = Tables(tmp_path / "t.sqlite")
    folder = library.root / "Album"
    (folder / "long.wav").unlink()
    with open_pool(1) as decoders, open_pool(1) as gpu:
        scan_folder(library, b"Album", tables, decoders)
        (folder / "1.ogg").write_bytes(b"changed since")
        (folder / "2.ogg").unlink()
        jobs = jobs_of(library, tables, FolderStore(tmp_path / "store"))
        outcomes = dict(DecodeAhead(decoders, gpu).run(embed_track, jobs))
    found = {Path(os.fsdecode(j.path)).name: o for j, o in outcomes.items()}
    assert isinstance(found.pop("1.ogg"), FolderChanged)
    assert isinstance(found.pop("2.ogg"), FolderChanged)
    assert {o.row.reason for o in found.values()} == {None}
    assert found.keys() == {"0.ogg", "3.ogg", "4.ogg"}


def test_a_device_that_is_lost_rejects_no_track(library: MusicFolder, tmp_path: Path) -> None:
    tables = Tables(tmp_path / "t.sqlite")
    with open_pool(1) as decoders, open_pool(1) as gpu:
        scan_folder(library, b"Album", tables, decoders)
        jobs = jobs_of(library, tables, FolderStore(tmp_path / "store"))
        outcomes = dict(DecodeAhead(decoders, gpu).run(_die, jobs))
    # It died over the long one, which takes those of its batch with it.
    lost = [o for o in outcomes.values() if isinstance(o, BaseException)]
    assert len(outcomes) == 6
    assert lost
    assert all(isinstance(o, TransientError) for o in lost)


def test_one_bad_vector_rejects_its_track_only(library: MusicFolder, tmp_path: Path) -> None:
    tables = Tables(tmp_path / "t.sqlite")
    with open_pool(1) as decoders:
        scan_folder(library, b"Album", tables, decoders)
    heard = decoded(library, tables, FolderStore(tmp_path / "store"))
    bad = heard[1].windows.copy()
    bad[0, 5] = np.nan
    heard[1] = replace(heard[1], audio=bad.tobytes())
    pipeline = device_pipeline.DevicePipeline()
    assert pipeline.submit(device_pipeline.Batch(7, heard)) == {}
    outcomes = pipeline.submit(device_pipeline.Batch(8))[7]
    bad = [o for o in outcomes if isinstance(o, Exception)]
    assert outcomes[1] is bad[0]
    assert len(bad) == 1
    assert isinstance(bad[0], TrackRejected)
    assert bad[0].reason is Reason.BAD_VECTOR


def test_the_device_waits_neither_for_the_next_audio_nor_for_the_disk(
    library: MusicFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = Tables(tmp_path / "t.sqlite")
    with open_pool(1) as decoders:
        scan_folder(library, b"Album", tables, decoders)
    one, two, three, four, *_ = decoded(library, tables, FolderStore(tmp_path / "store"))
    real, encoding, go_on = load_encoder(one.job), threading.Semaphore(0), threading.Semaphore(0)

    class Slow:
        info, device, engine, dtype, warning = real.info, "cpu", "", "", ""

        def encode(self, windows: np.ndarray) -> np.ndarray:
            encoding.release()
            assert go_on.acquire(timeout=PATIENCE)
            return real.encode(windows)

    disk = threading.Event()
    write = FolderStore.write
    monkeypatch.setattr(device_pipeline, "load_encoder", lambda job: Slow())
    monkeypatch.setattr(
        FolderStore, "write", lambda *a, **how: disk.wait(PATIENCE) and write(*a, **how)
    )
    pipeline = device_pipeline.DevicePipeline()
    pipeline.submit(device_pipeline.Batch(0, [one]))  # comes back while the device is at work on it
    assert encoding.acquire(timeout=PATIENCE)
    with ThreadPoolExecutor(1) as caller:
        taken = caller.submit(pipeline.submit, device_pipeline.Batch(1, [two]))
        go_on.release()
        assert encoding.acquire(timeout=PATIENCE), (
            "the next one is encoded; the disk holds the first"
        )
        assert taken.result(PATIENCE) == {}
        disk.set()
        go_on.release(2)
        (first,) = pipeline.submit(device_pipeline.Batch(2, [three])).items()
        assert first[0] == 0
        assert first[1][0].row.audio_hash == one.job.track.audio_hash
        go_on.release()
        rest = pipeline.submit(device_pipeline.Batch(3, [four])) | pipeline.submit(
            device_pipeline.Batch(-1)
        )
    found = {number: outcomes[0].row.audio_hash for number, outcomes in rest.items() if outcomes}
    wanted = {i: h.job.track.audio_hash for i, h in enumerate((one, two, three, four)) if i}
    assert found == wanted


def test_a_device_that_dies_costs_what_was_under_way(library: MusicFolder, tmp_path: Path) -> None:
    tables = Tables(tmp_path / "t.sqlite")
    for i in range(9):
        write_track(library.root / "Album" / f"x{i}.ogg", seconds=3.0, seed=9 + i, rate=22_050)
    with open_pool(1) as decoders, open_pool(1) as gpu:
        scan_folder(library, b"Album", tables, decoders)
        jobs = jobs_of(library, tables, FolderStore(tmp_path / "store"))
        outcomes = list(DecodeAhead(decoders, gpu, batch_seconds=2.0).run(_die, jobs))
    assert {job for job, _ in outcomes} == set(jobs)
    assert len(outcomes) == len(jobs) == 15
    lost = [o for _, o in outcomes if isinstance(o, BaseException)]
    assert all(isinstance(o, TransientError) for o in lost)
    # Twice: what is done alone is tried once more.
    assert len(lost) <= 1 + 2 * device_pipeline.AHEAD


def test_a_device_that_fails_ends_the_run(library: MusicFolder, tmp_path: Path) -> None:
    tables = Tables(tmp_path / "t.sqlite")
    with open_pool(1) as decoders:
        scan_folder(library, b"Album", tables, decoders)
        jobs = jobs_of(library, tables, FolderStore(tmp_path / "store"))
        told = []
        with open_pool(1) as gpu:
            list(gpu.run(_break, [None]))
            ahead = DecodeAhead(decoders, gpu, batch_seconds=2.0)
            with pytest.raises(DeviceFailed, match="unspecified launch failure"):
                told.extend(ahead.run(embed_track, jobs))
    assert told
    assert all(isinstance(outcome, DeviceFailed) for _, outcome in told)


def test_what_needs_no_device_is_told_before_the_end(
    library: MusicFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode_ahead, "MOST_READY", 2)
    tables = Tables(tmp_path / "t.sqlite")
    taken = []
    with open_pool(1) as decoders, open_pool(1) as gpu:
        scan_folder(library, b"Album", tables, decoders)
        jobs = jobs_of(library, tables, FolderStore(tmp_path / "store"))
        ahead = DecodeAhead(decoders, gpu)
        list(ahead.run(embed_track, jobs))
        again = 10 * jobs
        told = ahead.run(embed_track, (taken.append(job) or job for job in again))
        next(told)
        assert len(taken) < len(again) / 2
        assert sum(1 for _ in told) + 1 == len(again)


def decoded(
    library: MusicFolder, tables: Tables, store: FolderStore
) -> list[device_pipeline.DecodedTrack]:
    jobs = jobs_of(library, tables, store)
    return [decode_ahead.decode_track(job) for job in jobs if not job.path.endswith(b".wav")]


def _break(_: None) -> None:
    """Have this process load an encoder on a GPU that fails."""
    from embed_assets.embedding import embed_track

    def encode(windows: np.ndarray) -> np.ndarray:
        raise DeviceFailed("cuda:0 failed (unspecified launch failure)")

    broken = SimpleNamespace(info=SimpleNamespace(weights=RECIPE.weights), encode=encode, device="")
    embed_track._encoder = lambda encoder_config: broken


def jobs_of(library: MusicFolder, tables: Tables, store: FolderStore) -> list[Job]:
    with tables.connect() as db:
        (folder,) = db.execute("SELECT folder_id FROM folders").fetchone()
    return [
        Job(t, local_path(library.root, t.path), RECIPE, CHOICE, store, "", False)
        for t in tables.pending(folder, RECIPE.digest, force=False)
    ]


def _die(job: Job) -> None:
    os.kill(os.getpid(), signal.SIGKILL)
