"""What MuQ promises on an NVIDIA GPU; skipped where there is none, and never run on one so far."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from embed_assets import encoders
from embed_assets.embedding.decode_ahead import DecodeAhead
from embed_assets.embedding.embed_track import Job, embed_track
from embed_assets.encoders import devices
from embed_assets.encoders.config import EncoderConfig
from embed_assets.encoders.muq import parity_check
from embed_assets.encoders.muq.encoder import reference
from embed_assets.identity import local_path
from embed_assets.library.manifest import MusicFolder, scan_folder
from embed_assets.storage.folder_store import FolderStore
from embed_assets.storage.tables import Tables
from embed_assets.workers import open_pool
from embed_assets_tests.synth import write_track

RATE = 24_000


@pytest.fixture(autouse=True)
def cuda() -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no GPU that torch can use")


def windows(n: int, seconds: float = 3.0) -> np.ndarray:
    rng = np.random.default_rng(n)
    return rng.standard_normal((n, round(seconds * RATE))).astype(np.float32) / 8


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.sum(a * b, -1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


def test_a_gpu_gives_the_vectors_of_the_plain_module(small: Path, tmp_path: Path) -> None:
    gpu = encoders.load("muq", str(small), "cuda", tmp_path)
    assert (gpu.engine, gpu.device[:5], gpu.warning) == ("torch", "cuda:", "")
    audio = windows(5)
    ours, theirs = gpu.encode(audio), reference(str(small), tmp_path).encode(audio)
    assert cosines(ours[:, 0], theirs[:, 0]).min() >= parity_check.SMALLEST_COSINE[gpu.dtype]


def test_memory_that_is_short_halves_the_batch_and_gives_the_same(
    small: Path, tmp_path: Path
) -> None:
    import torch

    gpu = encoders.load("muq", str(small), "cuda", tmp_path)
    audio = windows(64)
    before = torch.cuda.memory_allocated()
    whole = gpu.encode(audio)
    most = (before + torch.cuda.max_memory_allocated()) / 2
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(gpu.device).total_memory
    torch.cuda.set_per_process_memory_fraction(most / total, gpu.device)
    try:
        assert cosines(gpu.encode(audio)[:, 0], whole[:, 0]).min() > 0.9999
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, gpu.device)
    assert gpu.running.frames.seconds < 64 * 3.0


def test_audio_waits_for_a_gpu_in_pinned_memory(tmp_path: Path) -> None:
    import torch

    assert torch.from_numpy(devices.alloc_pinned((2, 1000), "cuda:0")).is_pinned()


def test_decoding_ahead_gives_what_the_plain_module_gives(small: Path, tmp_path: Path) -> None:
    library = MusicFolder(tmp_path / "music")
    for i, seconds in enumerate((5.0, 7.0, 2.0, 12.0)):
        write_track(tmp_path / "music" / "A" / f"{i}.ogg", seconds=seconds, seed=i)
    encoder_config = EncoderConfig("muq", str(small), "cuda", tmp_path / "cache")
    recipe = encoder_config.recipe(3.0, 3)
    tables, vectors = Tables(tmp_path / "t.sqlite"), {}
    with open_pool(1) as decoders:
        scan_folder(library, b"A", tables, decoders)
    with tables.connect() as db:
        (folder,) = db.execute("SELECT folder_id FROM folders").fetchone()
    for device in ("cuda", "cpu"):
        on = EncoderConfig("muq", str(small), device, tmp_path / "cache")
        store = FolderStore(tmp_path / device)
        jobs = [
            Job(t, local_path(library.root, t.path), recipe, on, store, "", False)
            for t in tables.pending(folder, recipe.digest, force=False)
        ]
        with open_pool(1) as decoders, open_pool(1) as gpu:
            pool = (
                DecodeAhead(decoders, gpu, batch_seconds=12.0)
                if on.uses_single_device()
                else decoders
            )
            told = [done for _, done in pool.run(embed_track, jobs)]
        assert not [done for done in told if isinstance(done, BaseException)]
        vectors[device] = {
            job.track.path: store.read(recipe.digest, job.track.audio_hash) for job in jobs
        }
    assert len(vectors["cpu"]) == 4
    for path, theirs in vectors["cpu"].items():
        assert cosines(vectors["cuda"][path][:, 0], theirs[:, 0]).min() >= 0.999
