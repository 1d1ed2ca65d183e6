"""Makes MuQ's model in int8 from the one in float32, in a process of its own.

    python -m embed_assets.encoders.muq_quantise MODEL.xml CONFIG.json OUT.xml

nncf takes over loggers, patches torch and takes some 6 GB: all of it is gone with the process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np

from embed_assets.encoders.frames import SAMPLE_RATE, mel_spectrogram
from embed_assets.encoders.muq_openvino import import_openvino

SECONDS = 10.0


def in_process(model: Path, config: Path, out: Path) -> None:
    """Have `out`, a model for OpenVINO with its weights beside it, made from `model`.

    Raises:
        RuntimeError: it failed; the message is the last line that it wrote.
    """
    command = [sys.executable, "-m", __name__, str(model), str(config), str(out)]
    below, above = os.pipe()
    try:
        # Its input ends when this process does, however that ends, and so does it.
        done = subprocess.run(
            command,
            stdin=below,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            check=False,
        )
    finally:
        os.close(below)
        os.close(above)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise RuntimeError(f"quantisation failed: {said[-1]}")


def calibration() -> list[np.ndarray]:
    """Made-up sounds that span what music does to a spectrogram: float32 [1, T] each.

    Ranges of activations are taken from them. Random generator and formulas are numpy's own and
    old, so that they are the same on every machine.
    """
    n = round(SECONDS * SAMPLE_RATE)
    t = np.arange(n) / SAMPLE_RATE
    random = np.random.default_rng(1)
    noise = random.standard_normal(n)

    def melody(low: float, beats: float, decay: float, harmonics: int) -> np.ndarray:
        """Chords whose root changes with each beat, and decay by `decay` a second."""
        roots = low * 2 ** (random.integers(0, 24, 64) / 12)
        root = roots[(t * beats).astype(int) % len(roots)]
        voices = [
            np.sin(2 * np.pi * root * 2 ** (step / 12) * k * t) / k
            for step in (0, 4, 7)
            for k in range(1, harmonics + 1)
        ]
        return sum(voices) * np.exp(-decay * ((t * beats) % 1) / beats)

    drums = noise * np.exp(-25 * (t * 4 % 1)) + 3 * np.sin(2 * np.pi * 55 * t) * np.exp(
        -8 * (t * 2 % 1)
    )
    sounds = [
        melody(55, 2, 3, 6) + drums,  # a band
        np.tanh(6 * melody(82, 4, 1, 8) + 2 * drums),  # loud and distorted
        0.02 * melody(220, 1, 1, 3),  # quiet and sparse
        melody(110, 0.5, 0, 12) * np.clip(t / 5, 0, 1),  # a drone that rises from silence
        0.3 * noise,  # hiss
        drums * (t % 5 < 2.5),  # drums with silence between
        np.sign(melody(440, 8, 0, 1)),  # square waves, as in old games
        melody(1760, 3, 6, 4) + 0.001 * noise,  # bells
    ]
    return [(0.5 * s / max(1.0, np.abs(s).max()))[None].astype(np.float32) for s in sounds]


def main(model: str, config: str, out: str) -> None:
    """Quantise weights and activations; ranges are those of the calibration."""
    import torch

    threading.Thread(target=_end_with_input, daemon=True).start()
    ov = import_openvino()
    import nncf

    spectrogram = mel_spectrogram(json.loads(Path(config).read_bytes()))
    mels = [spectrogram(torch.from_numpy(window)).numpy() for window in calibration()]
    graph = nncf.quantize(
        ov.Core().read_model(model),
        nncf.Dataset(mels),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(mels),
    )
    ov.save_model(graph, out, compress_to_fp16=False)


def _end_with_input() -> None:
    os.read(0, 1)
    os._exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
