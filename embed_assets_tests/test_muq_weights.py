"""Weights that are damaged, absent or of another model are refused before any work, in words."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from embed_assets import encoders
from embed_assets.encoders import Encoder, weights
from embed_assets.encoders.muq.card import MUQ, MUQ_INT8
from embed_assets.errors import ConfigurationError, WeightsMissing
from embed_assets_tests.muq_tools import edit_config, edit_tensors, sweeps


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


@pytest.mark.parametrize("name", ["", "MuQ", "muq-mulan-2"])
def test_an_unknown_encoder_names_the_setting_and_the_choices(name: str, tmp_path: Path) -> None:
    for call in (
        lambda: encoders.describe(name, "m", tmp_path),
        lambda: encoders.load(name, "m", "cpu", tmp_path),
    ):
        with pytest.raises(
            ConfigurationError, match=r"EMBED_ENCODER.*one of: muq, muq-int8, muq-mulan, acoustic"
        ):
            call()


def test_weights_that_are_not_here_say_how_to_get_them(tmp_path: Path) -> None:
    for call in (
        lambda: encoders.describe("muq", "OpenMuQ/MuQ-large-msd-iter", tmp_path),
        lambda: encoders.load("muq", "OpenMuQ/MuQ-large-msd-iter", "cpu", tmp_path),
    ):
        with pytest.raises(ConfigurationError) as caught:
            call()
        for word in ("EMBED_MODEL", "OpenMuQ/MuQ", "assets download", "EMBED_ENCODER=acoustic"):
            assert word in str(caught.value)


def test_where_no_other_encoder_would_do_none_is_suggested(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing) as caught:
        weights.find("owner/name", tmp_path, replace(MUQ_INT8, instead=""))
    assert "EMBED_MODEL" in str(caught.value)
    assert "EMBED_ENCODER" not in str(caught.value)


@pytest.mark.parametrize(
    "model", ["", " ", "/no/such/folder", "./none", "~nobody/x", "a/b/c", "ü/ü"]
)
def test_a_model_that_can_be_neither_folder_nor_hub_id(model: str, tmp_path: Path) -> None:
    for call in (weights.find, weights.fetch):
        with pytest.raises(ConfigurationError, match=r"EMBED_MODEL is .*no such folder"):
            call(model, tmp_path, MUQ)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_folder_that_lacks_a_file(copy: Path, tmp_path: Path, missing: str) -> None:
    (copy / missing).unlink()
    for call in (weights.find, weights.fetch):
        with pytest.raises(ConfigurationError, match=f"EMBED_MODEL .*copy, which lacks {missing}"):
            call(str(copy), tmp_path, MUQ)


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
    "empty weights": (lambda f: cut_off(f, 0), "damaged or incomplete"),
    "cut off in the header": (lambda f: cut_off(f, 100), "damaged or incomplete"),
    "cut off in the data": (lambda f: cut_off(f, -1000), "damaged or incomplete"),
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
        "not a MuQ model",
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


def test_weights_that_are_no_numbers_are_no_tracks_fault(copy: Path, tmp_path: Path) -> None:
    def spoiled(tensors):
        return {n: x * float("nan") if "conv2.weight" in n else x for n, x in tensors.items()}

    edit_tensors(copy, spoiled)
    with pytest.raises(ConfigurationError, match="its weights give NaN"):
        encoders.load("muq", str(copy), "cpu", tmp_path)
