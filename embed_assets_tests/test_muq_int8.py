"""MuQ in int8: an encoder of its own, near the plain one, which never gives way to another.

Made-up music stands in for real tracks, and a small checkpoint of random weights for the real ones.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from embed_assets import encoders
from embed_assets.encoders import Encoder
from embed_assets.encoders.muq import int8_engine, openvino_engine
from embed_assets.encoders.muq.encoder import make_int8, must_make_int8, reference
from embed_assets.errors import ConfigurationError
from embed_assets_tests import muq_tools
from embed_assets_tests.test_json import compare_with_page
from embed_assets_tests.test_muq_engines import cosine, rewrite

pytestmark = pytest.mark.skipif(
    not openvino_engine.cpu_has(*int8_engine.INSTRUCTIONS),
    reason="this CPU has no instructions for it",
)

WITHOUT = """
import sys
import numpy as np
from pathlib import Path
sys.modules["nncf"] = None
from embed_assets import encoders
encoders.require("muq-int8", sys.argv[1], "cpu", Path(sys.argv[2]))
from embed_assets.encoders.muq.encoder import must_make_int8
assert not must_make_int8(sys.argv[1], "cpu", Path(sys.argv[2]))
engine = encoders.load("muq-int8", sys.argv[1], "cpu", Path(sys.argv[2]))
engine.encode(np.zeros((1, 24000), np.float32))
print(engine.engine, sorted({"torch", "muq", "transformers", "openvino_telemetry"} & {
    name for name, module in sys.modules.items() if module
}))
"""


@pytest.fixture(scope="module")
def made(small: Path) -> Path:
    """A cache with the small model in int8; needs nncf, which the extra `dev` brings."""
    if not importlib.util.find_spec("nncf"):
        pytest.skip("nncf is not installed")
    cache = small.parent / "int8"
    make_int8(str(small), cache, list(muq_tools.sweeps(8)))
    return cache


@pytest.fixture
def cache(made: Path, tmp_path: Path) -> Path:
    return muq_tools.copy_of_cache(made, tmp_path / "cache")


@pytest.fixture(scope="module")
def plain(small: Path) -> Encoder:
    return reference(str(small), small.parent / "cache")


def test_its_vectors_are_near_those_of_the_plain_module_and_not_the_same(
    small: Path, made: Path, plain: Encoder
) -> None:
    engine = encoders.load("muq-int8", str(small), "cpu", made)
    assert (engine.engine, engine.device, engine.dtype) == ("openvino", "cpu", "int8")
    windows = muq_tools.sweeps()
    ours, theirs = engine.encode(windows), plain.encode(windows)
    assert cosine(ours[:, 0], theirs[:, 0]).min() > int8_engine.SMALLEST_COSINE
    # Float32 is off by a millionth, whatever the CPU.
    assert np.abs(ours - theirs).max() > 1e-3
    alone = np.concatenate([engine.encode(window[None]) for window in windows])
    np.testing.assert_array_equal(ours, alone)


def test_it_is_a_recipe_of_its_own_and_leaves_the_plain_one_as_it_was(
    small: Path, cache: Path
) -> None:
    from embed_assets.encoders.config import EncoderConfig
    from embed_assets.identity import IndexSpec, Recipe

    plain, int8 = (
        EncoderConfig(name, str(small), "cpu", cache).recipe(10.0, 3)
        for name in ("muq", "muq-int8")
    )
    assert plain.digest != int8.digest
    assert plain.weights == encoders.describe("muq", str(small), cache).weights
    assert IndexSpec(int8).collection.startswith("tracks_muq_int8_")
    # Collections that are there stay valid: this digest was taken before there was int8.
    stats = ("mean", "iqr", "diff")
    old = Recipe("muq", "0" * 32, 24_000, 1024, 10.0, 3, frame_stats=stats)
    assert old.digest == "11d86825fff46ccab6e3b79e17753222"
    # Ranges from other music are another model, and other vectors.
    kept = int8_engine.conversion(plain.weights, cache)
    manifest = json.loads((kept.folder / "manifest.json").read_text())
    manifest["model.bin"][1] ^= 1
    (kept.folder / "manifest.json").write_text(json.dumps(manifest))
    again = EncoderConfig("muq-int8", str(small), "cpu", cache).recipe(10.0, 3)
    assert again.digest != int8.digest


def test_what_is_made_is_kept_and_needs_neither_nncf_nor_torch(small: Path, cache: Path) -> None:
    done = muq_tools.run(WITHOUT, small, cache)
    assert done.stdout.strip() == "openvino []", done.stderr


def test_vectors_that_are_too_far_off_are_refused_and_nothing_steps_in(
    small: Path, cache: Path
) -> None:
    kept = int8_engine.conversion(encoders.describe("muq", str(small), cache).weights, cache)
    shift = np.random.default_rng(0).standard_normal(np.load(kept.reference).shape)
    rewrite(kept.reference, np.load(kept.reference) + shift.astype(np.float32))
    for _ in range(2):  # the verdict is kept
        with pytest.raises(ConfigurationError, match=r"differ too much.*EMBED_ENCODER=muq\."):
            encoders.load("muq-int8", str(small), "cpu", cache)


def test_a_conversion_is_of_no_use_once_no_collection_and_no_setting_needs_it(
    small: Path, cache: Path, monkeypatch
) -> None:
    for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    plain = encoders.describe("muq", str(small), cache).weights
    int8 = encoders.describe("muq-int8", str(small), cache).weights
    encoders.load("muq", str(small), "cpu", cache)
    in_float, in_int8 = (c.conversion(plain, cache).folder for c in (openvino_engine, int8_engine))
    old = in_float.with_name(f"{plain}-0")
    shutil.copytree(in_float, old)
    making = in_float.with_name(f".{in_float.name}.x.tmp")
    making.mkdir()

    assert encoders.unused_files(set(), str(small), cache) == [old]
    gone = "no/such"
    assert encoders.unused_files({plain, int8}, gone, cache) == [old]
    assert encoders.unused_files({plain}, gone, cache) == [old, in_int8]
    assert encoders.unused_files({int8}, gone, cache) == [old, in_float]
    shutil.rmtree(in_int8)
    os.utime(making, (0, 0))
    assert encoders.unused_files({plain}, gone, cache) == [making, old]
    stopped = cache / "huggingface/models--no--such/blobs/abc.part"
    stopped.parent.mkdir(parents=True)
    stopped.touch()
    assert encoders.unused_files({plain}, gone, cache) == [making, old, stopped]
    with FileLock(cache / "huggingface/.locks/models--no--such/abc.part.lock"):
        assert encoders.unused_files({plain}, gone, cache) == [making, old], "it goes on just now"


@pytest.mark.stress
def test_a_damaged_model_is_said_and_made_anew_when_asked_for(small: Path, cache: Path) -> None:
    kept = int8_engine.conversion(encoders.describe("muq", str(small), cache).weights, cache)
    before = encoders.describe("muq-int8", str(small), cache)
    kept.model.write_bytes(kept.model.read_bytes()[:-100])
    with pytest.raises(ConfigurationError, match=r"damaged.*embed-assets try-int8"):
        encoders.load("muq-int8", str(small), "cpu", cache)
    assert must_make_int8(str(small), "cpu", cache)
    make_int8(str(small), cache, list(muq_tools.sweeps(8)))
    assert kept.is_whole()
    assert encoders.describe("muq-int8", str(small), cache) == before, "the same music, the same"
    assert not list(kept.folder.parent.glob(".*"))


def test_what_fails_while_it_is_made_is_said_and_leaves_nothing(
    small: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = int8_engine.conversion(encoders.describe("muq", str(small), cache).weights, cache)
    shutil.rmtree(kept.folder)
    in_the_way = cache / "broken"
    in_the_way.mkdir()
    (in_the_way / "nncf.py").write_text("raise RuntimeError('no such luck')")
    monkeypatch.syspath_prepend(str(in_the_way))
    with pytest.raises(ConfigurationError, match=r"no such luck.*EMBED_ENCODER=muq\."):
        make_int8(str(small), cache, list(muq_tools.sweeps(1)))
    assert not list(kept.folder.parent.glob(".*"))
    for ask in (encoders.require, encoders.load):
        with pytest.raises(ConfigurationError, match="not made yet: `embed-assets try-int8`"):
            ask("muq-int8", str(small), "cpu", cache)


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "mps", "openvino:GPU"])
def test_another_device_than_the_cpu_is_a_wrong_setting(
    small: Path, tmp_path: Path, device: str
) -> None:
    for ask in (encoders.require, encoders.load):
        with pytest.raises(ConfigurationError, match=f"muq-int8.*EMBED_DEVICE is '{device}'"):
            ask("muq-int8", str(small), device, tmp_path)


def test_auto_on_a_machine_with_a_gpu_does_not_pass_it_over(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8_engine, "nvidia_gpu", lambda: "/dev/nvidia0")
    with pytest.raises(ConfigurationError, match=r"/dev/nvidia0.*EMBED_DEVICE=cpu"):
        encoders.require("muq-int8", str(small), "auto", tmp_path)


def test_a_cpu_without_the_instructions_and_missing_packages_are_wrong_settings(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    for package, advice in (("nncf", r"'\.\[int8\]'"), ("openvino", "make install")):
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda n, gone=package: None if n == gone else find(n)
        )
        with pytest.raises(ConfigurationError, match=f"{package}.*not installed.*{advice}"):
            must_make_int8(str(small), "cpu", tmp_path)
    monkeypatch.setattr(openvino_engine, "cpu_has", lambda *flags: False)
    for ask in (encoders.require, encoders.load):
        with pytest.raises(ConfigurationError, match="needs a CPU with AVX512-VNNI"):
            ask("muq-int8", str(small), "cpu", tmp_path)
    assert not (tmp_path / "openvino").exists(), "nothing was done before"


def test_a_wrong_setting_ends_sync_before_any_work(world, small: Path) -> None:
    world.album("Album", 1)
    world.settings |= {"EMBED_ENCODER": "muq-int8", "EMBED_DEVICE": "cuda"}
    world.settings |= {"EMBED_MODEL": str(small)}
    done = world.run("sync")
    assert done.returncode == 2
    assert "runs on CPUs only" in done.stderr
    assert not (world.home / "dagster").exists()


def test_it_is_measured_on_the_library_and_leaves_nothing_behind(
    world, small: Path, made: Path
) -> None:
    world.settings |= {"EMBED_MODEL": str(small), "EMBED_WINDOW_SECONDS": "1"}
    world.album("Few", *range(5))
    few = world.run("try-int8")
    assert few.returncode == 2
    assert "only 5 tracks" in few.stderr
    muq_tools.copy_of_cache(made / "openvino", world.home / "models" / "openvino")
    for album in range(8):
        world.album(f"Album {album}", *range(6 * album, 6 * album + 6))
    world.put_bad("Album 1/broken.ogg", b"not audio")
    done = world.run("try-int8", "--tracks", "60", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    compare_with_page("try-int8", found)
    assert found["library_tracks"] == 54
    assert found["tracks"] + found["skipped"] == 54 - 8, (
        "what ranges are taken from is not measured"
    )
    assert found["skipped"] == 1
    assert 0.5 < found["overlap"] <= 1
    assert 0.95 < found["smallest_cosine"] <= found["median_cosine"] < 1
    assert [name.partition(" (")[0] for name in found["speeds"]] == [
        "muq-int8",
        "muq",
        "muq in float32",
    ]
    assert found["use"] == (found["setting"] == "EMBED_ENCODER=muq-int8")
    assert found["setting"] in found["verdict"]
    assert {p.name for p in world.home.iterdir()} == {"models"}


@pytest.mark.stress
def test_float_and_int8_live_side_by_side(world, small: Path, made: Path) -> None:
    world.album("Album", 1, 2)
    world.settings |= {"EMBED_MODEL": str(small), "EMBED_ENCODER": "muq-int8"}
    muq_tools.copy_of_cache(made / "openvino", world.home / "models" / "openvino")
    assert world.sync()["embedded"] == 2
    assert {c["encoder"] for c in json.loads(world.run("collections", "--json").stdout)} == {
        "muq-int8"
    }
    world.settings["EMBED_ENCODER"] = "muq"
    assert world.sync()["embedded"] == 2
    world.settings["EMBED_ENCODER"] = "muq-int8"
    assert world.sync()["embedded"] == 0, "what is there is not embedded again"
    rows = json.loads(world.run("collections", "--json").stdout)
    assert {r["encoder"]: r["served"] for r in rows} == {"muq-int8": True, "muq": False}
