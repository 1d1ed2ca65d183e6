"""What the tests of MuQ share: sounds to encode, a process of its own, checkpoints to spoil."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from embed_assets_tests.patience import PATIENCE

RATE = 24_000


def sweeps(count: int = 3, seconds: float = 2.0) -> np.ndarray:
    """Rising tones over a floor of noise: float32 [count, T].

    Without the noise most mel bins would hold only the rounding errors of float32. They differ
    between CPUs, and the logarithm makes them as large as music.
    """
    t = np.arange(round(seconds * RATE)) / RATE
    tones = [np.sin(2 * np.pi * 220 * 2**i * t * (1 + t / 4)) for i in range(count)]
    noise = [np.random.default_rng(i).standard_normal(len(t)) for i in range(count)]
    return (0.3 * np.stack(tones) + 0.01 * np.stack(noise)).astype(np.float32)


def statistics(frames: np.ndarray) -> np.ndarray:
    """What the encoder keeps of frames, by numpy in float64: [B, F, dim] -> [B, 3, dim]."""
    frames = frames.astype(np.float64)
    spread = np.ptp(np.percentile(frames, [25, 75], axis=1), axis=0) / 1.349
    step = np.diff(frames, axis=1).mean(1) if frames.shape[1] > 1 else np.zeros_like(spread)
    return np.stack([frames.mean(1), spread, step], axis=1)


def run(code: str, *args: object, **environment: str) -> subprocess.CompletedProcess[str]:
    process = begin(code, *args, **environment)
    try:
        out, err = process.communicate(timeout=PATIENCE)
    except BaseException:
        process.kill()
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def begin(code: str, *args: object, **environment: str) -> subprocess.Popen[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGINGFACE_"))}
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)],
        env=kept | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def copy_of_cache(cache: Path, folder: Path) -> Path:
    """Copy a cache that other workers of xdist may be writing to: only what is whole."""
    return Path(shutil.copytree(cache, folder, ignore=shutil.ignore_patterns(".*", "*.tmp")))


def edit_config(folder: Path, change: Callable[[dict], object]) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def edit_tensors(folder: Path, change: Callable[[dict], dict]) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    save_file(change(dict(tensors)), folder / "model.safetensors")
