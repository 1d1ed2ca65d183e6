"""Weights come from the hub once, whole and unharmed, whatever happens on the way."""

from __future__ import annotations

import hashlib
import signal
import socket
import time
from pathlib import Path

import pytest

from embed_assets import encoders
from embed_assets.encoders import Encoder
from embed_assets.errors import ConfigurationError
from embed_assets_tests import small_muq
from embed_assets_tests.muq_tools import begin, run
from embed_assets_tests.patience import PATIENCE

FETCH = """
import signal, sys
from pathlib import Path
from huggingface_hub import constants
from embed_assets.encoders import describe, weights
from embed_assets.encoders.muq.card import MUQ
from embed_assets.errors import ConfigurationError
# What runs in the background of a script ignores Ctrl-C, and so would this.
signal.signal(signal.SIGINT, signal.default_int_handler)
weights._HUB_PATIENCE = float(sys.argv[3])
constants.DOWNLOAD_CHUNK_SIZE = 1 << 14
try:
    weights.fetch(sys.argv[1], Path(sys.argv[2]), MUQ)
    print(describe("muq", sys.argv[1], Path(sys.argv[2])).weights)
except ConfigurationError as error:
    sys.exit(f"ConfigurationError: {error}")
"""


def test_a_download_has_the_digest_of_the_folder_and_is_not_repeated(
    muq: Encoder, small: Path, tmp_path: Path
) -> None:
    with small_muq.hub(small, "owner/small") as endpoint:
        done = run(FETCH, "owner/small", tmp_path, PATIENCE, HF_ENDPOINT=endpoint)
        assert done.stdout.strip() == muq.info.weights, done.stderr
        assert (tmp_path / "huggingface").is_dir()
        typo = run(FETCH, "owner/smal", tmp_path, PATIENCE, HF_ENDPOINT=endpoint)
    assert "EMBED_MODEL is 'owner/smal'" in typo.stderr
    assert "Check the spelling" in typo.stderr
    again = run(FETCH, "owner/small", tmp_path, PATIENCE, HF_ENDPOINT=endpoint)
    assert again.stdout.strip() == muq.info.weights, again.stderr


COMMAND = "from embed_assets.cli.command_line import run; run()"


def test_a_machine_that_only_does_runs_gets_the_weights_by_a_command(
    small: Path, tmp_path: Path
) -> None:
    """It has neither a library nor `up`, and runs do not download."""
    here = encoders.describe("muq", str(small), tmp_path / "other").weights
    own = {"EMBED_HOME": str(tmp_path), "EMBED_MODEL": "owner/small", "EMBED_DEVICE": "cuda:9"}
    with small_muq.hub(small, "owner/small") as endpoint:
        done = run(COMMAND, "download", HF_ENDPOINT=endpoint, **own)
    assert done.returncode == 0, done.stderr
    assert f"muq, weights {here[:12]}" in done.stdout
    assert "downloading owner/small" in done.stderr
    again = run(COMMAND, "download", HF_ENDPOINT=endpoint, **own)
    assert again.stdout == done.stdout
    assert encoders.describe("muq", "owner/small", tmp_path / "models").weights == here


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_a_download_that_was_stopped_goes_on_where_it_was(
    end: int, muq: Encoder, small: Path, tmp_path: Path
) -> None:
    size = (small / "model.safetensors").stat().st_size
    with small_muq.hub(small, "owner/small", stalls=True) as endpoint:
        process = begin(FETCH, "owner/small", tmp_path, PATIENCE, HF_ENDPOINT=endpoint)
        blobs = tmp_path / "huggingface" / "models--owner--small" / "blobs"
        until = time.monotonic() + PATIENCE
        while sum(p.stat().st_size for p in blobs.glob("*.part")) < size // 2 - (1 << 16):
            assert time.monotonic() < until, list(blobs.glob("*"))
            time.sleep(0.05)
        process.send_signal(end)
        assert process.wait(PATIENCE), "one Ctrl-C is enough"
        there = sum(p.stat().st_size for p in blobs.glob("*.part"))
    asked: list[str] = []
    with small_muq.hub(small, "owner/small", asked=asked) as endpoint:
        done = run(FETCH, "owner/small", tmp_path, PATIENCE, HF_ENDPOINT=endpoint)
    assert done.stdout.strip() == muq.info.weights, done.stderr
    assert asked == [f"bytes={there}-"]
    assert not list(blobs.glob("*.part"))
    assert not list(blobs.glob("*incomplete"))


def test_what_came_damaged_is_thrown_away(muq: Encoder, small: Path, tmp_path: Path) -> None:
    blobs = tmp_path / "huggingface" / "models--owner--small" / "blobs"
    blobs.mkdir(parents=True)
    raw = (small / "model.safetensors").read_bytes()
    (blobs / f"{hashlib.sha256(raw).hexdigest()}.part").write_bytes(bytes(1000))
    with small_muq.hub(small, "owner/small") as endpoint:
        done = run(FETCH, "owner/small", tmp_path, PATIENCE, HF_ENDPOINT=endpoint)
        assert "the checksum of model.safetensors is wrong" in done.stderr
        again = run(FETCH, "owner/small", tmp_path, PATIENCE, HF_ENDPOINT=endpoint)
    assert again.stdout.strip() == muq.info.weights, again.stderr


def test_weights_that_a_disk_broke_since_are_found_before_they_are_converted(
    small: Path, tmp_path: Path
) -> None:
    with small_muq.hub(small, "owner/small") as endpoint:
        assert run(FETCH, "owner/small", tmp_path, PATIENCE, HF_ENDPOINT=endpoint).returncode == 0
    (blob,) = {p.resolve() for p in (tmp_path / "huggingface").rglob("model.safetensors")}
    raw = bytearray(blob.read_bytes())
    raw[-2000:-1000] = bytes(1000)
    blob.write_bytes(raw)
    with pytest.raises(ConfigurationError, match=rf"{blob.name} is damaged: its checksum is wrong"):
        encoders.load("muq", "owner/small", "cpu", tmp_path)


def test_a_model_of_the_hub_without_weights_of_the_right_form(copy: Path, tmp_path: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with small_muq.hub(copy, "owner/old") as endpoint:
        done = run(FETCH, "owner/old", tmp_path, PATIENCE, HF_ENDPOINT=endpoint)
    assert "EMBED_MODEL is 'owner/old'" in done.stderr
    assert "lacks config.json or model.safetensors" in done.stderr


def test_a_download_goes_where_the_user_keeps_such_things(small: Path, tmp_path: Path) -> None:
    with small_muq.hub(small, "owner/small") as endpoint:
        for name, value, folder in (
            ("HF_HOME", tmp_path / "home", tmp_path / "home" / "hub"),
            ("HF_HUB_CACHE", tmp_path / "hub", tmp_path / "hub"),
        ):
            cache = tmp_path / "cache" / name
            done = run(
                FETCH, "owner/small", cache, PATIENCE, HF_ENDPOINT=endpoint, **{name: str(value)}
            )
            assert done.returncode == 0, done.stderr
            assert (folder / "models--owner--small").is_dir()
            assert not (cache / "huggingface").exists()


@pytest.mark.parametrize("network", ["refuses", "is silent", "is unknown", "is switched off"])
def test_without_a_network_it_fails_and_says_what_to_do(network: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = {
            "refuses": "http://127.0.0.1:1",
            "is silent": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "is unknown": "http://no-such-host.invalid",
            "is switched off": "http://127.0.0.1:1",
        }[network]
        offline = {"HF_HUB_OFFLINE": "1"} if network == "is switched off" else {}
        done = run(
            FETCH, "OpenMuQ/MuQ-large-msd-iter", tmp_path, 1.0, HF_ENDPOINT=endpoint, **offline
        )
    assert done.stderr.startswith("ConfigurationError: EMBED_MODEL is 'OpenMuQ/MuQ-large-msd-iter'")
    for word in (endpoint, "Try again", "model.safetensors", "EMBED_ENCODER=acoustic"):
        assert word in done.stderr
