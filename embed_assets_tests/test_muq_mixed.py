"""Where a CPU has 8-bit instructions and no bfloat16, MuQ runs partly in 8 bits: near and fast.

Made-up music stands in for real tracks, and a small checkpoint of random weights for the real ones,
for which 8 bits save no time: what decides is told that they do.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from embed_assets import encoders
from embed_assets.encoders import Encoder
from embed_assets.encoders.muq import eight_bits, mixed_engine, openvino_engine, parity_check
from embed_assets.encoders.muq.encoder import _checkpoint, _find, reference
from embed_assets.encoders.muq.frames import MIN_SAMPLES
from embed_assets.storage.vector_format import entry_name
from embed_assets_tests import muq_tools
from embed_assets_tests.test_muq_engines import conversions, cosine, rewrite

pytestmark = pytest.mark.skipif(
    not openvino_engine.cpu_has(*openvino_engine.EIGHT_BITS),
    reason="this CPU has no instructions for it",
)


@pytest.fixture(autouse=True)
def xeon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU that has VNNI and no bfloat16, and gains by 8 bits whatever the size of the model."""
    monkeypatch.setattr(openvino_engine, "cpu_has", lambda *flags: "avx512_vnni" in flags)
    monkeypatch.setattr(mixed_engine, "SMALLEST_SPEED", 0.0)


@pytest.fixture(scope="module")
def made(small: Path) -> Path:
    """A cache with the model in float32 and the mixed one."""
    cache = small.parent / "mixed"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(openvino_engine, "cpu_has", lambda *flags: "avx512_vnni" in flags)
        patch.setattr(mixed_engine, "SMALLEST_SPEED", 0.0)
        encoders.load("muq", str(small), "cpu", cache)
    return cache


@pytest.fixture
def cache(made: Path, tmp_path: Path) -> Path:
    return muq_tools.copy_of_cache(made, tmp_path / "cache")


@pytest.fixture(scope="module")
def plain(small: Path) -> Encoder:
    return reference(str(small), small.parent / "cache")


def test_it_is_chosen_by_itself_and_near_the_plain_module(
    small: Path, made: Path, plain: Encoder
) -> None:
    engine = encoders.load("muq", str(small), "cpu", made)
    assert (engine.engine, engine.dtype, engine.warning) == ("openvino", "float32_int8", "")
    assert engine.info == plain.info, "an engine, no recipe of its own"
    windows = muq_tools.sweeps()
    ours, theirs = engine.encode(windows), plain.encode(windows)
    near = parity_check.SMALLEST_COSINE["float32_int8"]
    assert cosine(ours[:, 0], theirs[:, 0]).min() >= near
    assert np.abs(ours - theirs).max() > 1e-4, "nothing is in 8 bits"
    alone = np.concatenate([engine.encode(window[None]) for window in windows])
    np.testing.assert_array_equal(ours, alone)
    # Loud or quiet: no range was taken from other music.
    for gain in (0.01, 3.0):
        ours, theirs = (e.encode(np.float32(gain) * windows[:1]) for e in (engine, plain))
        assert cosine(ours[:, 0], theirs[:, 0]).min() >= near


def test_silence_and_the_shortest_window_have_vectors_too(
    small: Path, made: Path, plain: Encoder
) -> None:
    engine = encoders.load("muq", str(small), "cpu", made)
    for seconds in (2.0, MIN_SAMPLES / 24_000):
        silence = np.zeros((1, round(seconds * 24_000)), np.float32)
        ours, theirs = engine.encode(silence), plain.encode(silence)
        assert cosine(ours[:, 0], theirs[:, 0]).min() >= 0.999


@pytest.mark.parametrize("why", ["other vectors", "slower"])
def test_without_a_gain_it_is_float32_and_leaves_nothing_behind(
    small: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    found = _find(str(small), cache)
    kept = _checkpoint(found, str(small), cache).conversion
    if why == "slower":
        monkeypatch.setattr(mixed_engine, "SMALLEST_SPEED", 1e9)
    else:
        monkeypatch.setitem(parity_check.SMALLEST_COSINE, "float32_int8", 1.1)
    rewrite(kept.reference, np.load(kept.reference))  # forgets the verdict
    for _ in range(2):  # the new one is kept
        engine = encoders.load("muq", str(small), "cpu", cache)
        assert (engine.engine, engine.dtype, engine.warning) == ("openvino", "float32", "")
    assert [p.name for p in (cache / "openvino").glob("*/")] == [kept.folder.name]


def test_where_the_convolutions_lose_too_much_the_other_products_are_in_8_bits_alone(
    small: Path, cache: Path, plain: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = _checkpoint(_find(str(small), cache), str(small), cache).conversion
    first, second = mixed_engine.conversions(kept)
    shutil.rmtree(first.folder)
    rewrite(kept.reference, np.load(kept.reference))  # forgets the verdict

    def coarse(ov: object, graph: object, mel: np.ndarray, parts: tuple[str, ...]) -> None:
        steps = 3 if eight_bits.STEM in parts else eight_bits.STEPS
        with monkeypatch.context() as patch:
            patch.setattr(eight_bits, "STEPS", steps)
            eight_bits.to_eight_bits(ov, graph, mel, parts)

    monkeypatch.setattr(mixed_engine, "to_eight_bits", coarse)
    for _ in range(2):  # both verdicts are kept
        engine = encoders.load("muq", str(small), "cpu", cache)
        assert (engine.engine, engine.dtype, engine.warning) == ("openvino", "float32_int8", "")
        assert not first.folder.exists()
        assert second.is_whole()
    windows = muq_tools.sweeps()
    ours, theirs = engine.encode(windows), plain.encode(windows)
    assert cosine(ours[:, 0], theirs[:, 0]).min() >= parity_check.SMALLEST_COSINE["float32_int8"]
    assert np.abs(ours - theirs).max() > 1e-4, "nothing is in 8 bits"


def test_a_damaged_model_is_made_anew(small: Path, cache: Path) -> None:
    kept = _checkpoint(_find(str(small), cache), str(small), cache).conversion
    mixed = mixed_engine.conversion(kept, mixed_engine.MIXES[0])
    raw = bytearray(mixed.weights.read_bytes())
    raw[len(raw) // 2] ^= 64
    mixed.weights.write_bytes(raw)
    assert not mixed.is_whole()
    assert encoders.load("muq", str(small), "cpu", cache).dtype == "float32_int8"
    assert mixed.is_whole()


def test_what_fails_costs_speed_alone(small: Path, cache: Path) -> None:
    kept = _checkpoint(_find(str(small), cache), str(small), cache).conversion
    mixed = mixed_engine.conversion(kept, mixed_engine.MIXES[0]).folder
    mixed.rename(mixed.with_name("away"))
    mixed.with_name(f"{mixed.name}.lock").unlink(missing_ok=True)
    mixed.with_name(f"{mixed.name}.lock").mkdir()
    engine = encoders.load("muq", str(small), "cpu", cache)
    assert (engine.engine, engine.dtype) == ("openvino", "float32")


def test_its_model_is_kept_as_long_as_that_in_float32(small: Path, cache: Path) -> None:
    weights = encoders.describe("muq", str(small), cache).weights
    assert len(conversions(cache)) == 2
    assert encoders.unused_files({weights}, "no/such", cache) == []
    assert len(encoders.unused_files(set(), "no/such", cache)) == 2


def test_the_canary_can_keep_vectors_of_this_engine():
    name = f"clip-flac-openvino-{openvino_engine.MIXED}"
    assert entry_name("a" * 32, name) == f"{'a' * 32}/cl/{name}.npy"
