"""Makes MuQ's model in int8 from the one in float32, in a process of its own.

    python -m embed_assets.encoders.muq.quantise MODEL.xml CONFIG.json MUSIC.npz OUT.xml

nncf takes over loggers, patches torch and takes some 6 GB: all of it is gone with the process.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from embed_assets.encoders.muq.frames import mel_spectrogram
from embed_assets.encoders.muq.openvino_engine import save
from embed_assets.encoders.openvino_runtime import import_openvino
from embed_assets.encoders.weights import is_full

FULL = errno.ENOSPC
"""Exit code: the disk is full."""

GIB = 6
"""Memory that it takes at full size."""


def in_process(model: Path, config: Path, music: Sequence[np.ndarray], out: Path) -> None:
    """Have `out`, a model for OpenVINO with its weights beside it, made from `model`.

    `music` is what ranges of activations are taken from: float32 [T] at 24 kHz each.

    Raises:
        OSError: the disk is full.
        RuntimeError: it failed; the message is the last line that it wrote.
    """
    heard = out.with_suffix(".npz")
    command = [sys.executable, "-m", __name__, str(model), str(config), str(heard), str(out)]
    below, above = os.pipe()
    try:
        np.savez(heard, *music)
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
        heard.unlink(missing_ok=True)
    if done.returncode < 0:
        raise RuntimeError(
            f"the process that quantises was killed (signal {-done.returncode}); is the memory"
            f" full? It takes {GIB} GiB, once"
        )
    if done.returncode == FULL:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(out))
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise RuntimeError(f"quantisation failed: {said[-1]}")


def main(model: str, config: str, music: str, out: str) -> None:
    """Quantise weights and activations, with the ranges that the music gives."""
    threading.Thread(target=_end_with_input, daemon=True).start()
    ov = import_openvino()
    import nncf

    spectrogram = mel_spectrogram(json.loads(Path(config).read_bytes()))
    with np.load(music) as windows:
        mels = [spectrogram(windows[name])[None] for name in windows.files]
    # The widest range of all sounds, where nncf's default is their mean: what is loud or bright
    # would be cut off.
    widest = nncf.quantization.range_estimator.RangeEstimatorParametersSet.MINMAX
    exact = ov.Core().read_model(model)
    graph = nncf.quantize(
        exact,
        nncf.Dataset(mels),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(mels),
        ignored_scope=nncf.IgnoredScope(names=_in_float(exact)),
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            activations_range_estimator_params=widest
        ),
    )
    try:
        save(ov, graph, Path(out))
    except OSError as error:
        if is_full(error):
            sys.exit(FULL)
        raise


def _in_float(graph: Any) -> list[str]:
    """What stays in float: it costs a hundredth of the time, and more in quality or in conversions.

    The convolutions that take the spectrogram itself (8 bits of 100 dB: steps of .4 dB), the
    depthwise ones, and the products of attention, of activations with activations.
    """
    names = []
    for op in graph.get_ops():
        kind = op.get_type_name()
        hears = kind == "Convolution" and op.input_value(1).get_shape()[1] == 1
        attends = kind == "MatMul" and op.input_value(1).get_partial_shape().is_dynamic
        if hears or attends or kind == "GroupConvolution":
            names.append(op.get_friendly_name())
    return names


def _end_with_input() -> None:
    os.read(0, 1)
    os._exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
