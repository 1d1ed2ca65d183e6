"""MuQ gives the vectors of the weights it was given, or says what is wrong before any work.

Random weights retrieve about as well as simple features, so that good retrieval proves nothing
about weights having been loaded: numbers do.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from embed_assets import encoders
from embed_assets.encoders import Encoder, weights
from embed_assets.encoders.muq import reference
from embed_assets.errors import ConfigurationError, Reason, TrackRejected
from embed_assets_tests import small_muq

RATE = 24_000

# The first four values of each statistic for the first sweep: torch 2.11, x86, fp32.
CANONICAL = [
    [0.533543, -0.167262, -1.967942, -1.124430],
    [0.019067, 0.037111, 0.069059, 0.028896],
    [-0.011451, -0.004531, -0.001555, -0.010132],
]


def sweeps(count: int = 3, seconds: float = 2.0) -> np.ndarray:
    t = np.arange(round(seconds * RATE)) / RATE
    tones = [np.sin(2 * np.pi * 220 * 2**i * t * (1 + t / 4)) for i in range(count)]
    return (0.3 * np.stack(tones)).astype(np.float32)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_muq.save(tmp_path_factory.mktemp("model") / "small")


@pytest.fixture(scope="module", params=["the reference", "the fastest engine"])
def muq(request: pytest.FixtureRequest, small: Path) -> Encoder:
    if request.param == "the reference":
        return reference(str(small), small.parent / "cache")
    return encoders.load("muq", str(small), "cpu", small.parent / "cache")


@pytest.fixture
def copy(small: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small, tmp_path / "copy"))


def run(code: str, *args: object, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGINGFACE_"))}
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def edit_config(folder: Path, change: Callable[[dict], object]) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def edit_tensors(folder: Path, change: Callable[[dict], dict]) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    save_file(change(dict(tensors)), folder / "model.safetensors")


def test_it_gives_the_numbers_that_its_weights_give(muq: Encoder) -> None:
    vectors = muq.encode(sweeps())
    assert vectors.shape == (3, 3, small_muq.DIM)
    assert vectors.dtype == np.float32
    # A CPU with bfloat16 uses it; how near it must be is held in test_muq_engines.
    within = {"rtol": 2e-3, "atol": 2e-4} if muq.dtype == "float32" else {"atol": 0.05}
    np.testing.assert_allclose(vectors[0, :, :4], CANONICAL, **within)


def test_loaded_weights_give_what_the_saved_model_gave(small: Path, tmp_path: Path) -> None:
    import torch

    muq = reference(str(small), tmp_path)

    with torch.inference_mode():
        frames = small_muq.build()(torch.from_numpy(sweeps())).last_hidden_state.numpy()
    quartiles = np.percentile(frames, [25, 75], axis=1)
    statistics = [
        frames.mean(1),
        np.ptp(quartiles, axis=0) / 1.349,
        np.diff(frames, axis=1).mean(1),
    ]
    expected = np.stack(statistics, axis=1)
    np.testing.assert_allclose(muq.encode(sweeps()), expected, rtol=1e-3, atol=1e-5)


def test_other_weights_have_another_digest_and_give_other_vectors(
    muq: Encoder, tmp_path: Path
) -> None:
    other = encoders.load("muq", str(small_muq.save(tmp_path / "m", seed=1)), "cpu", tmp_path)
    assert other.info.weights != muq.info.weights
    difference = np.abs(other.encode(sweeps()) - muq.encode(sweeps()))
    assert difference.max() > 0.1


def test_dropout_is_off(muq: Encoder) -> None:
    import torch

    np.testing.assert_array_equal(muq.encode(sweeps()), muq.encode(sweeps()))
    with torch.inference_mode():
        audio = torch.from_numpy(sweeps())
        training = small_muq.build().train()
        assert not torch.equal(*(training(audio).last_hidden_state for _ in range(2)))


def test_a_window_does_not_depend_on_its_batch(muq: Encoder) -> None:
    audio = sweeps(5)
    together = muq.encode(audio)
    alone = np.concatenate([muq.encode(window[None]) for window in audio])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("samples", [1025, 1919, 1920, 2000, 24_000, 24_001])
def test_windows_of_any_length_from_the_shortest_on(muq: Encoder, samples: int) -> None:
    vectors = muq.encode(sweeps(2)[:, :samples])
    assert vectors.shape == (2, 3, small_muq.DIM)
    assert np.isfinite(vectors).all()


def test_a_single_frame_has_no_spread_and_no_step(muq: Encoder) -> None:
    assert round(muq.info.min_seconds * RATE) == 1025
    vectors = muq.encode(sweeps(1)[:, :1025])
    assert vectors[:, 0].any()
    assert not vectors[:, 1:].any()


def test_a_shorter_window_is_rejected_as_too_short(muq: Encoder) -> None:
    with pytest.raises(TrackRejected, match="1024 samples") as caught:
        muq.encode(sweeps(1)[:, :1024])
    assert caught.value.reason is Reason.TOO_SHORT


def test_silence_and_clipping_are_ordinary_audio(muq: Encoder) -> None:
    audio = np.stack([np.zeros(RATE), np.sign(np.sin(np.arange(RATE)))]).astype(np.float32)
    assert np.isfinite(muq.encode(audio)).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_vector_that_is_not_finite_rejects_the_track(muq: Encoder, bad: float) -> None:
    audio = sweeps(2)
    audio[1, 500] = bad
    with pytest.raises(TrackRejected) as caught:
        muq.encode(audio)
    assert caught.value.reason is Reason.BAD_VECTOR


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5, 6, 7, 250])
def test_statistics_over_frames_are_those_of_numpy(frames: int) -> None:
    import torch

    from embed_assets.encoders.frames import frame_statistics

    array = np.random.default_rng(frames).standard_normal((2, frames, 5)).astype(np.float32)
    iqr = np.ptp(np.percentile(array, [25, 75], axis=1), axis=0) / 1.349
    step = np.diff(array, axis=1).mean(1) if frames > 1 else np.zeros((2, 5))
    expected = np.stack([array.mean(1), iqr, step], axis=1)
    ours = frame_statistics(torch.from_numpy(array)).numpy()
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-6)


def test_it_describes_itself_and_its_licence(muq: Encoder, small: Path, tmp_path: Path) -> None:
    info = encoders.describe("muq", str(small), tmp_path)
    assert info == muq.info
    assert (info.name, info.sample_rate, info.dim) == ("muq", 24_000, small_muq.DIM)
    assert info.frame_stats == ("mean", "iqr", "diff")
    assert "CC-BY-NC 4.0" in info.note
    assert muq.device == "cpu"


def test_describing_imports_nothing_heavy_and_prints_nothing(small: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from embed_assets import encoders\n"
        "assert 'huggingface_hub' not in sys.modules\n"
        "encoders.describe('muq', sys.argv[1], Path(sys.argv[2]))\n"
        "try: encoders.describe('muq', 'OpenMuQ/MuQ-large-msd-iter', Path(sys.argv[2]))\n"
        "except encoders.ConfigurationError: pass\n"
        "heavy = {'torch', 'muq', 'librosa', 'transformers', 'torchaudio', 'pymilvus', 'dagster'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)\n"
    )
    done = run(code, small, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_loading_prints_nothing(small: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from embed_assets import encoders\n"
        "encoders.load('muq', sys.argv[1], 'cpu', Path(sys.argv[2]))\n"
    )
    done = run(code, small, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_weights_are_read_through_once_and_again_when_they_change(
    copy: Path, tmp_path: Path
) -> None:
    file = copy / "model.safetensors"

    def digest(process: str) -> str:
        if process == "another":
            weights._remembered.cache_clear()
        return encoders.describe("muq", str(copy), tmp_path / "cache").weights

    first, stat = digest("this"), file.stat()
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert digest("this") == digest("another") == first, "it was read again"
    os.utime(file)
    assert digest("this") != first
    edit_config(copy, lambda config: config.update(label_rate=50))
    assert digest("this") != first


def test_a_damaged_note_of_a_digest_is_made_anew(copy: Path, tmp_path: Path) -> None:
    first = encoders.describe("muq", str(copy), tmp_path / "cache")
    (note,) = (tmp_path / "cache").rglob("*.json")
    for damage in (b"", b"[]", b'{"sha256": 7}'):
        note.write_bytes(damage)
        weights._remembered.cache_clear()
        assert encoders.describe("muq", str(copy), tmp_path / "cache") == first


@pytest.mark.parametrize("name", ["", "MuQ", "muq-mulan"])
def test_an_unknown_encoder_names_the_setting_and_the_choices(name: str, tmp_path: Path) -> None:
    for call in (
        lambda: encoders.describe(name, "m", tmp_path),
        lambda: encoders.load(name, "m", "cpu", tmp_path),
    ):
        with pytest.raises(ConfigurationError, match=r"EMBED_ENCODER.*one of: muq, acoustic"):
            call()


def test_weights_that_are_not_here_say_how_to_get_them(tmp_path: Path) -> None:
    for call in (
        lambda: encoders.describe("muq", "OpenMuQ/MuQ-large-msd-iter", tmp_path),
        lambda: encoders.load("muq", "OpenMuQ/MuQ-large-msd-iter", "cpu", tmp_path),
    ):
        with pytest.raises(ConfigurationError) as caught:
            call()
        for word in ("EMBED_MODEL", "OpenMuQ/MuQ", "embed-assets sync", "EMBED_ENCODER=acoustic"):
            assert word in str(caught.value)


@pytest.mark.parametrize(
    "model", ["", " ", "/no/such/folder", "./none", "~nobody/x", "a/b/c", "ü/ü"]
)
def test_a_model_that_can_be_neither_folder_nor_hub_id(model: str, tmp_path: Path) -> None:
    for call in (weights.find, weights.fetch):
        with pytest.raises(ConfigurationError, match=r"EMBED_MODEL is .*no such folder"):
            call(model, tmp_path)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_folder_that_lacks_a_file(copy: Path, tmp_path: Path, missing: str) -> None:
    (copy / missing).unlink()
    for call in (weights.find, weights.fetch):
        with pytest.raises(ConfigurationError, match=f"EMBED_MODEL .*copy, which lacks {missing}"):
            call(str(copy), tmp_path)


def cut_off(folder: Path, keep: int) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])


def renamed(tensors: dict) -> dict:
    return {f"other.{name}": tensor for name, tensor in tensors.items()}


def one_missing(tensors: dict) -> dict:
    return {
        n: t for n, t in tensors.items() if n != "model.conformer.layers.1.ffn1.output_dense.bias"
    }


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty weights": (lambda f: cut_off(f, 0), "damaged or cut off"),
    "cut off in the header": (lambda f: cut_off(f, 100), "damaged or cut off"),
    "cut off in the data": (lambda f: cut_off(f, -1000), "damaged or cut off"),
    "weights of something else": (lambda f: edit_tensors(f, renamed), "missing"),
    "one tensor missing": (lambda f: edit_tensors(f, one_missing), "1 missing"),
    "fewer layers in the config": (
        lambda f: edit_config(f, lambda c: c.update(encoder_depth=1)),
        "not in the model",
    ),
    "more layers in the config": (
        lambda f: edit_config(f, lambda c: c.update(encoder_depth=3)),
        "missing",
    ),
    "another width in the config": (
        lambda f: edit_config(f, lambda c: c.update(conv_dim=16)),
        "do not make a MuQ model",
    ),
    "no statistics of the mel spectrogram": (
        lambda f: edit_config(f, lambda c: c.pop("stat")),
        "load but do not run",
    ),
    "a config that is no JSON": (lambda f: (f / "config.json").write_text("{"), "is damaged"),
    "a config that is no object": (lambda f: (f / "config.json").write_text("[]"), "is damaged"),
    "the config of another model": (
        lambda f: (f / "config.json").write_text('{"model_type": "bert"}'),
        "no MuQ model",
    ),
    "a config without inner config": (
        lambda f: edit_config(f, lambda c: c.update(w2v2_config={})),
        "do not make a MuQ model",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_weights_that_do_not_fit_are_refused_at_once(
    copy: Path, tmp_path: Path, damage: str
) -> None:
    break_it, symptom = DAMAGES[damage]
    break_it(copy)
    with pytest.raises(ConfigurationError, match="EMBED_MODEL is ") as caught:
        encoders.load("muq", str(copy), "cpu", tmp_path)
    assert symptom in str(caught.value)
    assert str(copy) in str(caught.value)


def test_heads_that_no_vector_needs_may_be_missing(
    muq: Encoder, copy: Path, tmp_path: Path
) -> None:
    heads = ("model.linear.", "model.quantizer", "model.cls_token")
    edit_tensors(copy, lambda t: {n: x for n, x in t.items() if not n.startswith(heads)})
    encoder = encoders.load("muq", str(copy), "cpu", tmp_path)
    np.testing.assert_allclose(encoder.encode(sweeps()), muq.encode(sweeps()), atol=0.05)


@pytest.mark.parametrize(
    ("device", "why"),
    [
        ("cuda:99", "CUDA device"),
        ("openvino:GPU.7", "OpenVINO finds only .*/dev/dri"),
        ("openvino", "no such device"),
        ("gpu", "no such device"),
        ("cuda:x", "no such device"),
        ("cpu:1", "no such device"),
        ("", "no such device"),
    ],
)
def test_a_device_that_is_not_there_is_never_replaced(
    device: str, why: str, small: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=f"EMBED_DEVICE is '{device}'.*{why}"):
        encoders.load("muq", str(small), device, tmp_path)


@pytest.mark.parametrize("device", ["auto", "cuda", "cuda:0", "mps"])
def test_a_device_is_the_one_asked_for_or_an_error(
    device: str, small: Path, tmp_path: Path
) -> None:
    import torch

    there = {"auto": True, "mps": torch.backends.mps.is_available()}
    if there.get(device, torch.cuda.is_available()):
        loaded = encoders.load("muq", str(small), device, tmp_path)
        best = "cuda" if torch.cuda.is_available() else "cpu"
        # Without a number it is whichever no other process has leased.
        assert loaded.device.startswith(best if device == "auto" else device)
    else:
        with pytest.raises(ConfigurationError, match=f"EMBED_DEVICE is '{device}'"):
            encoders.load("muq", str(small), device, tmp_path)


FETCH = """
import sys
from pathlib import Path
from embed_assets.encoders import describe, weights
from embed_assets.errors import ConfigurationError
weights._HUB_PATIENCE = 1.0
try:
    weights.fetch(sys.argv[1], Path(sys.argv[2]))
    print(describe("muq", sys.argv[1], Path(sys.argv[2])).weights)
except ConfigurationError as error:
    sys.exit(f"ConfigurationError: {error}")
"""


def test_a_download_has_the_digest_of_the_folder_and_is_not_repeated(
    muq: Encoder, small: Path, tmp_path: Path
) -> None:
    with small_muq.hub(small, "owner/small") as endpoint:
        done = run(FETCH, "owner/small", tmp_path, HF_ENDPOINT=endpoint)
        assert done.stdout.strip() == muq.info.weights, done.stderr
        assert (tmp_path / "huggingface").is_dir()
        typo = run(FETCH, "owner/smal", tmp_path, HF_ENDPOINT=endpoint)
    assert "EMBED_MODEL is 'owner/smal'" in typo.stderr
    assert "Check the spelling" in typo.stderr
    again = run(FETCH, "owner/small", tmp_path, HF_ENDPOINT=endpoint)
    assert again.stdout.strip() == muq.info.weights, again.stderr


def test_a_model_of_the_hub_without_weights_of_the_right_form(copy: Path, tmp_path: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with small_muq.hub(copy, "owner/old") as endpoint:
        done = run(FETCH, "owner/old", tmp_path, HF_ENDPOINT=endpoint)
    assert "EMBED_MODEL is 'owner/old'" in done.stderr
    assert "not with both config.json and model.safetensors" in done.stderr


def test_a_download_goes_where_the_user_keeps_such_things(small: Path, tmp_path: Path) -> None:
    with small_muq.hub(small, "owner/small") as endpoint:
        for name, value, folder in (
            ("HF_HOME", tmp_path / "home", tmp_path / "home" / "hub"),
            ("HF_HUB_CACHE", tmp_path / "hub", tmp_path / "hub"),
        ):
            cache = tmp_path / "cache" / name
            done = run(FETCH, "owner/small", cache, HF_ENDPOINT=endpoint, **{name: str(value)})
            assert done.returncode == 0, done.stderr
            assert (folder / "models--owner--small").is_dir()
            assert not (cache / "huggingface").exists()


@pytest.mark.parametrize("network", ["refuses", "is silent", "is unknown", "is switched off"])
def test_without_a_network_it_fails_within_seconds_and_says_what_to_do(
    network: str, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = {
            "refuses": "http://127.0.0.1:1",
            "is silent": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "is unknown": "http://no-such-host.invalid",
            "is switched off": "http://127.0.0.1:1",
        }[network]
        offline = {"HF_HUB_OFFLINE": "1"} if network == "is switched off" else {}
        start = time.monotonic()
        done = run(FETCH, "OpenMuQ/MuQ-large-msd-iter", tmp_path, HF_ENDPOINT=endpoint, **offline)
    assert time.monotonic() - start < 10
    assert done.stderr.startswith("ConfigurationError: EMBED_MODEL is 'OpenMuQ/MuQ-large-msd-iter'")
    for word in (endpoint, "Try again", "model.safetensors", "EMBED_ENCODER=acoustic"):
        assert word in done.stderr
