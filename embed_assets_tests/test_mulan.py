"""MuQ-MuLan gives upstream's vectors of music, or says what is wrong before any work."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embed_assets import encoders
from embed_assets.audio.decode import read_windows
from embed_assets.audio.windows import WindowPolicy, plan
from embed_assets.encoders import Encoder
from embed_assets.encoders.config import EncoderConfig
from embed_assets.encoders.mulan import text_engine, weights
from embed_assets.encoders.mulan.encoder import clips_of, reference
from embed_assets.encoders.mulan.module import audio_module
from embed_assets.encoders.muq import torch_engine
from embed_assets.encoders.muq.parity_check import SMALLEST_COSINE
from embed_assets.errors import ConfigurationError, Reason, TrackRejected
from embed_assets_tests import small_mulan as small
from embed_assets_tests.muq_tools import RATE, edit_config, edit_tensors, run

NAME = "muq-mulan"


@pytest.fixture(scope="module")
def upstream(small_mulan: Path) -> Any:
    return small.upstream(small_mulan)


@pytest.fixture(scope="module", params=["the reference", "the fastest engine"])
def mulan(request: pytest.FixtureRequest, small_mulan: Path) -> Encoder:
    cache = small_mulan.parent / "cache"
    if request.param == "the reference":
        return reference(str(small_mulan), cache)
    return encoders.load(NAME, str(small_mulan), "cpu", cache)


@pytest.fixture
def folder(small_mulan: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint, to be spoilt."""
    return Path(shutil.copytree(small_mulan, tmp_path / "mulan"))


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


@pytest.mark.parametrize("seconds", [25, 10, 7, 4])
def test_it_gives_upstreams_vector_of_audio(mulan: Encoder, upstream: Any, seconds: int) -> None:
    import torch

    audio = small.sound(seconds)
    with torch.inference_mode():
        theirs = upstream(wavs=torch.from_numpy(audio[None]))[0].numpy()
    ours = mulan.encode(audio[None])
    assert ours.shape == (1, 1, small.DIM)
    allowed = 1 - SMALLEST_COSINE[mulan.dtype]
    if mulan.dtype != "float32":
        # Random weights of this size lose more by rounding than trained ones, upstream's, too.
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = upstream(wavs=torch.from_numpy(audio[None]))[0].float().numpy()
        allowed = max(allowed, 3 * (1 - cosine(rounded, theirs)))
    assert 1 - cosine(ours[0, 0], theirs) <= allowed


def test_the_layer_of_its_config_is_used_also_where_a_gpu_takes_it_apart(
    upstream: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    edit_config(folder, lambda config: config["audio_model"].update(use_layer_idx=1))
    module = audio_module(weights.find(str(folder), tmp_path), str(folder))
    # To torch another device than the reference's, on any machine.
    engine = torch_engine.load(module, "cpu:0")
    audio = small.sound(10)
    last = upstream(wavs=torch.from_numpy(audio[None]))[0].detach().numpy()
    monkeypatch.setattr(upstream.mulan.audio, "use_layer_idx", 1)
    theirs = upstream(wavs=torch.from_numpy(audio[None]))[0].detach().numpy()
    assert cosine(engine.frames(audio[None]).numpy()[0, 0], theirs) >= 0.9999
    assert cosine(last, theirs) < 0.99


def test_its_vectors_tell_sounds_apart(mulan: Encoder) -> None:
    one, other = mulan.encode(np.stack([small.sound(10), small.sound(10, seed=3)]))[:, 0]
    assert np.linalg.norm(one) == pytest.approx(1, abs=1e-3)
    assert cosine(one, other) < 0.999


def test_a_window_does_not_depend_on_its_batch(mulan: Encoder) -> None:
    audio = np.stack([small.sound(3, seed) for seed in range(3)])
    alone = np.concatenate([mulan.encode(window[None]) for window in audio])
    np.testing.assert_allclose(mulan.encode(audio), alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("seconds", "clips", "each"), [(4, 1, 8), (5, 1, 10), (7, 1, 10), (10, 1, 10), (25, 3, 10)]
)
def test_what_a_clip_lacks_is_filled_with_the_beginning(
    seconds: int, clips: int, each: int
) -> None:
    audio = np.arange(seconds * RATE, dtype=np.float32)[None]
    cut = clips_of(audio)
    assert cut.shape == (1, clips, each * RATE)
    heard = cut.reshape(-1)
    np.testing.assert_array_equal(heard[: seconds * RATE], audio[0])
    np.testing.assert_array_equal(heard[seconds * RATE :], audio[0, : len(heard) - seconds * RATE])


def test_a_track_that_is_embedded_whole_is_cut_as_upstream_cuts_it(tmp_path: Path) -> None:
    import soundfile

    audio = small.sound(25)
    soundfile.write(tmp_path / "25.wav", audio, RATE, subtype="FLOAT")
    policy = WindowPolicy(10.0, 3, wraps=True)
    decoded = read_windows(bytes(tmp_path / "25.wav"), 25.0, policy, RATE)
    np.testing.assert_allclose(np.stack(decoded.windows), clips_of(audio[None])[0], atol=1e-4)
    assert (decoded.starts, decoded.decoded_seconds) == ([0.0, 10.0, 20.0], 25.0)
    assert plan(25.0, policy)[-1] == (20.0, 5.0)
    # A part of a longer track ends where the window does.
    assert plan(60.0, policy)[-1] == (45.0, 10.0)


def test_a_track_that_ends_early_is_filled_up_from_where_it_ends(tmp_path: Path) -> None:
    import soundfile

    audio = small.sound(13)
    soundfile.write(tmp_path / "13.wav", audio, RATE, subtype="FLOAT")
    policy = WindowPolicy(10.0, 0, wraps=True)
    decoded = read_windows(bytes(tmp_path / "13.wav"), 17.0, policy, RATE)
    np.testing.assert_allclose(np.stack(decoded.windows), clips_of(audio[None])[0], atol=1e-4)


def test_another_length_of_windows_is_refused_before_any_download(tmp_path: Path) -> None:
    encoder_config = EncoderConfig(NAME, "OpenMuQ/MuQ-MuLan-large", "cpu", tmp_path)
    for call in (lambda: encoder_config.recipe(5.0, 3), lambda: encoder_config.require_window(5.0)):
        with pytest.raises(ConfigurationError, match=r"EMBED_WINDOW_SECONDS is 5.*windows of 10 s"):
            call()


def test_a_window_that_is_too_short_or_broken_rejects_the_track(mulan: Encoder) -> None:
    with pytest.raises(TrackRejected) as caught:
        mulan.encode(np.zeros((1, 100), np.float32))
    assert caught.value.reason is Reason.TOO_SHORT
    broken = small.sound(2)[None].copy()
    broken[0, 500] = np.nan
    with pytest.raises(TrackRejected) as caught:
        mulan.encode(broken)
    assert caught.value.reason is Reason.BAD_VECTOR


def test_all_five_files_decide_the_digest(folder: Path, tmp_path: Path) -> None:
    def digest() -> str:
        return encoders.describe(NAME, str(folder), tmp_path / "cache").weights

    seen = [digest()]
    edit_config(folder, lambda config: config["mulan"].update(rank_contrast=False))
    seen.append(digest())
    edit_config(folder / "muq", lambda config: config["stat"].update(melspec_2048_mean=6.0))
    seen.append(digest())
    edit_config(folder / "xlm-roberta", lambda config: config.update(layer_norm_eps=1e-6))
    seen.append(digest())
    tokenizer = folder / "xlm-roberta" / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text() + "\n")
    seen.append(digest())
    edit_tensors(
        folder, lambda t: t | {"mulan.text_to_latents.bias": t["mulan.text_to_latents.bias"] + 1}
    )
    seen.append(digest())
    assert len(set(seen)) == len(seen)


def without(name: str) -> Callable[[dict], dict]:
    return lambda tensors: {n: t for n, t in tensors.items() if n != name}


def all_one(name: str) -> Callable[[dict], dict]:
    """Only the bias counts, as where a projection was never trained."""
    return lambda tensors: (
        tensors
        | {
            f"{name}.weight": 1e-6 * tensors[f"{name}.weight"],
            f"{name}.bias": 0 * tensors[f"{name}.bias"] + 1,
        }
    )


def both_towers(model: str, cache: Path) -> None:
    """Load both on torch, as they are before they are converted."""
    found = weights.find(model, cache)
    audio_module(found, model)
    text_engine.require_trained(text_engine.on_torch(found, model), found, model)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (without("mulan.audio_to_latents.weight"), r"1 missing \(the first is audio_to_latents"),
        (without("mulan.audio.model.model.conv.linear.weight"), "1 missing"),
        (without("mulan.text_to_latents.weight"), r"1 missing \(the first is text_to_latents"),
        (without("mulan.text.model.embeddings.word_embeddings.weight"), "1 missing"),
        (all_one("mulan.audio_to_latents"), "unlike sounds are almost the same"),
        (all_one("mulan.text_to_latents"), "unlike texts are almost the same"),
    ],
)
def test_a_checkpoint_that_lacks_something_or_was_not_trained_is_refused(
    damage: Callable[[dict], dict], says: str, folder: Path, tmp_path: Path
) -> None:
    edit_tensors(folder, damage)
    with pytest.raises(ConfigurationError, match=says):
        both_towers(str(folder), tmp_path / "cache")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c.pop("mulan"), "not a MuQ-MuLan model"),
        (lambda c: c["text_model"].update(name="bert"), "not a MuQ-MuLan model"),
        (lambda c: c["mulan"].update(clip_secs=5), "hears clips of 5 s"),
        (lambda c: c["audio_model"].update(name="owner/no-muq-here", model_dim=3), None),
    ],
)
def test_the_config_of_another_model_is_refused(
    change: Callable[[dict], object], says: str | None, folder: Path, tmp_path: Path
) -> None:
    edit_config(folder, change)
    if says is None:  # The nested configs lie inside, whatever their models are called.
        encoders.describe(NAME, str(folder), tmp_path)
        return
    with pytest.raises(ConfigurationError, match=says):
        encoders.describe(NAME, str(folder), tmp_path)


def test_a_muq_without_text_is_no_mulan(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"encoder_dim": 64, "w2v2_config": {}}))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ConfigurationError, match="not a MuQ-MuLan model"):
        encoders.describe(NAME, str(tmp_path), tmp_path)


FETCH = """
import sys
from pathlib import Path
from embed_assets import encoders
cache = Path(sys.argv[2])
encoders.fetch("muq-mulan", sys.argv[1], cache, lambda line: print(line, file=sys.stderr))
print(encoders.describe("muq-mulan", sys.argv[1], cache).weights)
"""


def test_five_files_are_downloaded_once_and_no_weights_of_the_models_inside(
    small_mulan: Path, folder: Path, tmp_path: Path
) -> None:
    whole = small_mulan.with_name(f"{small_mulan.name}-upstream")
    names = {"owner/muq": whole / "muq", "owner/xlm-roberta": whole / "xlm-roberta"}
    edit_config(folder, lambda c: c["audio_model"].update(name="owner/muq"))
    edit_config(folder, lambda c: c["text_model"].update(name="owner/xlm-roberta"))
    asked: list[str] = []
    hub = small.small_muq.hub(folder, "owner/mulan", asked=asked, others=names)
    with hub as endpoint:
        done = run(FETCH, "owner/mulan", tmp_path / "cache", HF_ENDPOINT=endpoint)
    assert done.returncode == 0, done.stderr
    assert "downloading owner/mulan" in done.stderr
    assert done.stdout.strip() == encoders.describe(NAME, str(folder), tmp_path).weights
    assert len(asked) == 1, "weights, only of MuLan itself"
    again = run(FETCH, "owner/mulan", tmp_path / "cache", HF_ENDPOINT="http://127.0.0.1:1")
    assert again.stdout == done.stdout, again.stderr
    # A local folder of MuLan's own two files takes the rest from what was downloaded.
    for inside in ("muq", "xlm-roberta"):
        shutil.rmtree(folder / inside)
    assert encoders.describe(NAME, str(folder), tmp_path / "cache").weights == done.stdout.strip()
    with pytest.raises(ConfigurationError, match=r"inside of which is the MuQ 'owner/muq'"):
        encoders.describe(NAME, str(folder), tmp_path / "empty")


def test_describing_imports_nothing_heavy(small_mulan: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from embed_assets import encoders\n"
        "encoders.describe('muq-mulan', sys.argv[1], Path(sys.argv[2]))\n"
        "heavy = {'torch', 'muq', 'transformers', 'tokenizers', 'openvino', 'librosa'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)\n"
    )
    done = run(code, small_mulan, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
