"""Embedded libraries for the tests of the canary, and ways to break a stage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import soxr

from embed_assets.audio import decoders
from embed_assets.embedding.embed_folders import EmbedContext
from embed_assets.encoders.acoustic.encoder import constants
from embed_assets.encoders.config import EncoderConfig
from embed_assets.library.manifest import MusicFolder, scan_folder
from embed_assets.storage.folder_store import FolderStore
from embed_assets.storage.tables import Tables
from embed_assets.workers import open_pool
from embed_assets_tests.embedded import embed_folder
from embed_assets_tests.synth import write_track

CHOICE = EncoderConfig("acoustic", "", "cpu", Path())


def embed(
    root: Path, count: int = 6, encoder_config: EncoderConfig = CHOICE, window_seconds: float = 2.0
) -> EmbedContext:
    """A home with tracks of a few formats, each longer than a window, embedded by real workers."""
    endings = ("flac", "mp3", "ogg")
    for i in range(count):
        name = f"{i}.{endings[i % 3]}"
        write_track(root / "music/Album" / name, seconds=window_seconds + 1 + i, seed=i)
    context = EmbedContext(
        MusicFolder(root / "music"),
        encoder_config.recipe(window_seconds, 2),
        encoder_config,
        Tables(root / "tables.sqlite"),
        FolderStore(root / "vectors"),
    )
    with open_pool(2) as pool:
        scan_folder(context.library, b"Album", context.tables, pool)
        assert embed_folder(context, b"Album", pool).embedded == count
    return context


def with_own_notes(embedded: EmbedContext, root: Path) -> EmbedContext:
    """The same library and vectors, in a home that has no notes yet."""
    store = FolderStore(root / "vectors")
    store.root.symlink_to(embedded.store.root)
    return replace(embedded, store=store)


def resample_badly(monkeypatch):
    real = soxr.resample
    monkeypatch.setattr(soxr, "resample", lambda x, a, b, **_: real(x, a, b, quality="QQ"))


def resample_very_badly(monkeypatch):
    """Without what is above 2 kHz, so that small random weights give clearly other vectors."""
    real = soxr.resample

    def resample(x, a, b, **_):
        low = real(real(x, a, 4_000), 4_000, b)
        return np.resize(low, len(real(x, a, b)))

    monkeypatch.setattr(soxr, "resample", resample)


def decode_badly(monkeypatch):
    """MP3 in a few bits: what a decoder with another output format may do."""
    real = decoders._mono

    def coarse(frame):
        samples = real(frame)
        return np.round(samples * 16) / np.float32(16)

    monkeypatch.setattr(decoders, "_mono", coarse)


def other_mel(monkeypatch):
    filters = constants()["mel"]
    monkeypatch.setitem(constants(), "mel", np.roll(filters, 1, axis=0))


def other_weights(monkeypatch):
    noise = np.random.default_rng(0).standard_normal(constants()["projection"].shape)
    worse = constants()["projection"] * (1 + 0.3 * noise)
    monkeypatch.setitem(constants(), "projection", worse.astype(np.float32))


BROKEN = {
    "resampler": resample_badly,
    "decoder": decode_badly,
    "features": other_mel,
    "encoder": other_weights,
}
