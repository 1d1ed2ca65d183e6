"""A faster engine gives the vectors of the plain module, or does not run.

Made-up music stands in for real tracks, and a small checkpoint of random weights for the real ones.
"""

from __future__ import annotations

import json
import multiprocessing
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from embed_assets import encoders
from embed_assets.encoders import Encoder, weights
from embed_assets.encoders.muq import mixed_engine, openvino_engine, parity_check, torch_engine
from embed_assets.encoders.muq.card import MUQ
from embed_assets.encoders.muq.checkpoint import AudioModule
from embed_assets.encoders.muq.converted import ConvertedModelCache, crc
from embed_assets.encoders.muq.encoder import _checkpoint, reference
from embed_assets.encoders.muq.module import audio_module
from embed_assets.errors import ConfigurationError, DeviceFailed
from embed_assets.storage.pooling import pool
from embed_assets_tests import muq_tools
from embed_assets_tests.patience import PATIENCE
from embed_assets_tests.synth import write_track

RATE = 24_000


@pytest.fixture(scope="module")
def converted(small: Path) -> Path:
    """A cache with the converted and checked model."""
    cache = small.parent / "cache"
    encoders.load("muq", str(small), "cpu", cache)
    return cache


@pytest.fixture(autouse=True)
def without_eight_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a CPU runs that has bfloat16 or no 8-bit instructions; others: test_muq_mixed.py."""
    monkeypatch.setattr(mixed_engine, "is_useful", lambda: False)


@pytest.fixture
def cache(converted: Path, tmp_path: Path) -> Path:
    return muq_tools.copy_of_cache(converted, tmp_path / "cache")


@pytest.fixture(scope="module")
def plain(small: Path) -> Encoder:
    return reference(str(small), small.parent / "cache")


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> list[np.ndarray]:
    """Two tracks as they are heard: three windows of 3 s, and one of a track of 2.2 s."""
    from embed_assets.audio.decode import read_windows
    from embed_assets.audio.windows import WindowPolicy

    folder, heard = tmp_path_factory.mktemp("music"), []
    for seed, seconds in ((1, 12.0), (2, 2.2)):
        path = folder / f"{seed}.ogg"
        write_track(path, seconds=seconds, seed=seed)
        decoded = read_windows(str(path).encode(), seconds, WindowPolicy(3.0, 3), RATE)
        heard.append(np.stack(decoded.windows))
    return heard


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return np.sum(a * b, axis=-1) / norms


def conversions(cache: Path) -> list[int]:
    """Inodes of the converted models: another one was made anew."""
    return [p.stat().st_ino for p in (cache / "openvino").rglob("model.bin")]


def test_openvino_gives_the_vectors_of_the_plain_module(
    small: Path, cache: Path, plain: Encoder, windows: list[np.ndarray]
) -> None:
    engine = encoders.load("muq", str(small), "cpu", cache)
    assert (engine.engine, engine.device, engine.warning) == ("openvino", "cpu", "")
    near = parity_check.SMALLEST_COSINE[engine.dtype]
    assert len(windows[0]) == 3
    assert windows[1].shape == (1, round(2.2 * RATE))
    for track in windows:
        ours, theirs = engine.encode(track), plain.encode(track)
        assert cosine(ours[:, 0], theirs[:, 0]).min() >= near
        for pooling in ("mean", "enriched"):
            assert pool(ours, pooling) @ pool(theirs, pooling) >= near
        if engine.dtype == "float32":
            np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=2e-4)


def test_bfloat16_is_used_where_the_cpu_has_it() -> None:
    flags = Path("/proc/cpuinfo").read_text().split()
    fast = "avx512_bf16" in flags or "amx_bf16" in flags
    assert openvino_engine._dtypes("CPU") == (("bfloat16", "float32") if fast else ("float32",))


def test_a_window_of_a_single_frame_changes_no_other(
    small: Path, cache: Path, plain: Encoder
) -> None:
    checkpoint = _checkpoint(weights.find(str(small), cache, MUQ), str(small), cache)
    openvino_engine.load(checkpoint, "CPU", ("float32",))
    engine = openvino_engine.load(checkpoint, "CPU", ("float32",))  # checked: it ran nothing yet
    sound = np.random.default_rng(0).standard_normal((1, RATE)).astype(np.float32)
    # The shortest first: OpenVINO would take all others for such windows.
    for samples in (1025, RATE, 1025):
        ours = engine.frames(sound[:, :samples]).mean(1)
        theirs = plain.encode(sound[:, :samples])[:, 0]
        assert cosine(ours, theirs).min() >= parity_check.SMALLEST_COSINE[engine.dtype]


def test_what_is_converted_is_kept_and_needs_neither_torch_nor_muq(
    small: Path, cache: Path
) -> None:
    before = conversions(cache)
    used, found = in_processes(1, small, cache)[0]
    assert used == "openvino"
    assert not found, "imported though the converted model was there"
    assert conversions(cache) == before


def test_workers_that_start_at_once_convert_once(small: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    used = in_processes(2, small, cache)
    assert [engine for engine, _ in used] == ["openvino"] * 2
    assert sorted(bool(imported) for _, imported in used) == [False, True], "one converts"
    assert not list((cache / "openvino").glob(".*"))


def test_a_dtype_that_gives_other_vectors_is_passed_over_with_a_warning(
    small: Path, cache: Path, monkeypatch
) -> None:
    monkeypatch.setitem(parity_check.SMALLEST_COSINE, "bfloat16", 1.1)
    found = weights.find(str(small), cache, MUQ)
    checkpoint = _checkpoint(found, str(small), cache)
    engine = openvino_engine.load(checkpoint, "CPU", ("bfloat16", "float32"))
    assert engine.dtype == "float32"
    assert re.search(r"cosine .* in bfloat16\): using float32 instead", engine.warning)


def damaged(cache: Path, damage: str) -> ConvertedModelCache:
    """The conversion of a cache, after this was done to it."""
    (weights,) = (cache / "openvino").glob(f"*-{openvino_engine.CONVERSION}/model.bin")
    raw = bytearray(weights.read_bytes())
    match damage:
        case "cut off":
            weights.write_bytes(raw[:-1000])
        case "one bit":
            raw[len(raw) // 2] ^= 64
            weights.write_bytes(raw)
        case "a file missing":
            weights.with_name("model.xml").unlink()
        case "no manifest":
            weights.with_name("manifest.json").write_text("{")
        case "a file in its place":
            shutil.rmtree(weights.parent)
            weights.parent.touch()
    return ConvertedModelCache(weights.parent)


@pytest.mark.parametrize(
    "damage", ["cut off", "one bit", "a file missing", "no manifest", "a file in its place"]
)
def test_damage_to_a_conversion_is_seen(cache: Path, damage: str) -> None:
    assert not damaged(cache, damage).is_whole()


@pytest.mark.parametrize("damage", ["one bit", "a file in its place"])
def test_a_damaged_conversion_is_made_anew(
    small: Path, cache: Path, plain: Encoder, damage: str
) -> None:
    conversion = damaged(cache, damage)
    engine = encoders.load("muq", str(small), "cpu", cache)
    assert engine.engine == "openvino"
    audio = np.random.default_rng(0).standard_normal((1, RATE)).astype(np.float32)
    assert cosine(engine.encode(audio)[:, 0], plain.encode(audio)[:, 0]).min() > 0.999
    assert conversion.is_whole()


def test_an_engine_that_gives_other_vectors_is_refused_and_torch_works(
    small: Path, cache: Path, plain: Encoder
) -> None:
    (reference_,) = (cache / "openvino").glob(f"*-{openvino_engine.CONVERSION}/reference.npy")
    shift = np.random.default_rng(0).standard_normal(np.load(reference_).shape)
    rewrite(reference_, np.load(reference_) + 0.1 * shift.astype(np.float32))
    audio = np.random.default_rng(0).standard_normal((2, RATE)).astype(np.float32)
    before = conversions(cache)
    for _ in range(2):  # the verdict is kept
        engine = encoders.load("muq", str(small), "cpu", cache)
        assert (engine.engine, engine.dtype) == ("torch", "float32")
        assert "OpenVINO cannot be used" in engine.warning
        assert re.search(r"differ from torch's \(cosine 0\.[0-9]", engine.warning)
        np.testing.assert_allclose(engine.encode(audio), plain.encode(audio), rtol=0, atol=1e-5)
    assert conversions(cache) == before
    with pytest.raises(ConfigurationError, match=r"EMBED_DEVICE is 'openvino:CPU'.*differ"):
        encoders.load("muq", str(small), "openvino:CPU", cache)


def rewrite(path: Path, array: np.ndarray) -> None:
    """Replace a file of a conversion as if it had been made so, and forget the verdicts."""
    np.save(path, array)
    manifest = path.with_name("manifest.json")
    known = json.loads(manifest.read_text())
    known[path.name] = [path.stat().st_size, crc(path)]
    manifest.write_text(json.dumps(known))
    for verdict in path.parent.glob("check-*.json"):
        verdict.unlink()


def test_a_cache_that_cannot_be_written_costs_speed_not_vectors(
    small: Path, tmp_path: Path, plain: Encoder
) -> None:
    (tmp_path / "openvino").write_text("in the way")
    engine = encoders.load("muq", str(small), "cpu", tmp_path)
    assert engine.engine == "torch"
    assert "OpenVINO cannot be used" in engine.warning
    assert str(tmp_path / "openvino") in engine.warning


def test_torch_on_another_device_must_give_the_vectors_of_the_plain_module(
    small: Path, tmp_path: Path, plain: Encoder, windows: list[np.ndarray]
) -> None:
    def module() -> AudioModule:
        return audio_module(weights.find(str(small), tmp_path, MUQ), str(small))

    # To torch another device than the reference's, on any machine.
    engine = torch_engine.load(module(), "cpu:0")
    ours = engine.frames(windows[0]).mean(1).numpy()
    assert engine.dtype == "float32"
    assert cosine(ours, plain.encode(windows[0])[:, 0]).min() >= 0.9999
    # A device that can hold it and not run it, as a GPU that is too old.
    with pytest.raises(ConfigurationError, match=r"cannot run MuQ on meta.*EMBED_DEVICE=cpu"):
        torch_engine.load(module(), "meta")


def test_a_gpu_that_fails_is_no_track_s_fault(plain: Encoder) -> None:
    def broken(audio: object) -> NoReturn:
        raise RuntimeError("CUDA error: unspecified launch failure\nCompile with ...")

    gpu = replace(plain, running=replace(plain.running, frames=broken, device="cuda:1"))
    with pytest.raises(
        DeviceFailed, match=r"cuda:1 failed \(CUDA error: unspecified launch failure\)"
    ):
        gpu.encode(np.zeros((1, RATE), np.float32))


def in_processes(count: int, small: Path, cache: Path) -> list[tuple[str, bool]]:
    """Load in fresh processes at once: the engine, and whether what only converts was loaded."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(count) as processes:
        waiting = [processes.apply_async(_load, (small, cache)) for _ in range(count)]
        return [w.get(PATIENCE) for w in waiting]


def _load(small: Path, cache: Path) -> tuple[str, bool]:
    import sys

    engine = encoders.load("muq", str(small), "cpu", cache)
    engine.encode(np.zeros((1, RATE), np.float32))
    assert not sys.modules.get("openvino_telemetry"), "OpenVINO would report to its maker"
    return engine.engine, bool({"torch", "muq", "transformers"} & set(sys.modules))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("height", "width"), [(64, 50), (32, 25), (8, 1)])
def test_fewer_multiplications_give_the_same_convolution(
    height: int, width: int, stride: int
) -> None:
    import torch

    from embed_assets.encoders.muq.winograd import minimal_conv

    torch.manual_seed(0)
    conv = torch.nn.Conv2d(16, 24, 3, padding=1, stride=stride)
    norm = torch.nn.BatchNorm2d(24).eval()
    for tensor in (norm.running_mean, norm.weight, norm.bias):
        torch.nn.init.normal_(tensor)
    torch.nn.init.uniform_(norm.running_var, 0.5, 2)
    with torch.inference_mode():
        x = torch.randn(2, 16, height, width)
        theirs, ours = norm(conv(x)), minimal_conv(conv, norm)(x)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="stride"):
        minimal_conv(torch.nn.Conv2d(16, 24, 3, padding=1, stride=3), norm)
