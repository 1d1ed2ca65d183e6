"""Which device MuQ gets, and what happens where it cannot be had or has too little memory.

No GPU is needed: what torch says of one is said by torch's own exceptions, or by a device that
cannot run anything. What needs one stands in `test_muq_cuda.py`.
"""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from embed_assets import encoders
from embed_assets.encoders import devices
from embed_assets.encoders.config import EncoderConfig
from embed_assets.encoders.devices import lease_cuda
from embed_assets.encoders.muq import encoder as muq
from embed_assets.encoders.muq import engines, torch_engine
from embed_assets.errors import ConfigurationError, TransientError
from embed_assets_tests.patience import PATIENCE

RATE = 24_000


@pytest.mark.parametrize(
    "said",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB",
        "MPS backend out of memory (MPS allocated: 9 GB)",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ],
)
def test_what_memory_cannot_hold_is_tried_in_halves_and_remembered(said: str) -> None:
    import torch

    sizes = []
    kind = torch.OutOfMemoryError if said.startswith("CUDA out") else RuntimeError

    def forward(audio: np.ndarray) -> torch.Tensor:
        sizes.append(len(audio))
        if len(audio) > 3:
            raise kind(said)
        return torch.from_numpy(audio[:, :4, None])

    audio = np.random.default_rng(0).standard_normal((10, RATE))
    batches = torch_engine.Batches(forward, seconds=8.0)
    for tries in ([8, 4, 2, 2, 2, 2, 2], [2, 2, 2, 2, 2]):
        sizes.clear()
        np.testing.assert_array_equal(batches(audio), audio[:, :4, None])
        assert sizes == tries


def test_a_single_window_that_memory_cannot_hold_fails_the_step() -> None:
    import torch

    def forward(audio: np.ndarray) -> NoReturn:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(TransientError, match="EMBED_WINDOW_SECONDS"):
        torch_engine.Batches(forward, seconds=8.0)(np.zeros((4, RATE)))


def test_a_gpu_that_cannot_be_used_is_not_kept_from_others(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "resolve_device", lambda wanted: "cuda")
    monkeypatch.setattr(engines, "_cuda_devices", lambda: {0: "only"})
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="cannot run MuQ on cuda:0"):
            muq.load(str(small), "cuda", tmp_path)
    assert lease_cuda({0: "only"}, tmp_path / "leases", wait_seconds=0) == "cuda:0"
    devices.end_leases()


def test_a_gpu_that_torch_cannot_use_is_not_passed_over_in_silence(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("torch can use the GPU of this machine")
    monkeypatch.setattr(devices, "nvidia_gpu", lambda: "/dev/nvidia0")
    with pytest.raises(ConfigurationError, match=r"/dev/nvidia0.*cannot use.*EMBED_DEVICE=cpu"):
        encoders.load("muq", str(small), "auto", tmp_path)
    one = {
        (name, device): EncoderConfig(name, "", device, tmp_path).uses_single_device()
        for name, device in (("muq", "auto"), ("muq", "cpu"), ("acoustic", "auto"))
    }
    assert one == {("muq", "auto"): True, ("muq", "cpu"): False, ("acoustic", "auto"): False}


def test_a_gpu_that_is_hidden_from_this_process_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert devices.nvidia_gpu() == ""


def test_each_process_leases_a_gpu_of_its_own(tmp_path: Path) -> None:
    assert [lease_cuda({0: "a", 1: "b"}, tmp_path) for _ in range(2)] == ["cuda:0", "cuda:1"]
    with pytest.raises(TransientError, match="all 2 CUDA devices are in use"):
        lease_cuda({0: "a", 1: "b"}, tmp_path, wait_seconds=0)
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as process:
        assert process.apply(lease_cuda, ({0: "a", 1: "b", 2: "c"}, tmp_path)) == "cuda:2"
    # Its process is gone, and the lease with it.
    assert lease_cuda({0: "a", 1: "b", 2: "c"}, tmp_path, wait_seconds=PATIENCE) == "cuda:2"
