"""MuQ partly in 8 bits, where a CPU multiplies these fast and bfloat16 not: an engine of `muq`.

Its model is made beside the one in float32, once for given weights, and used if it gives torch's
vectors within what bfloat16 is allowed, and is faster than float32. If not, one with fewer parts in
8 bits is tried. The verdicts are kept with the model in float32. What fails here costs speed alone.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from embed_assets.encoders.muq import openvino_engine, parity_check
from embed_assets.encoders.muq.checkpoint import Checkpoint
from embed_assets.encoders.muq.converted import MODEL, REFERENCE, ConvertedModelCache
from embed_assets.encoders.muq.eight_bits import PARTS, PRODUCTS, STEM, to_eight_bits
from embed_assets.encoders.muq.frames import SAMPLE_RATE, frame_statistics, mel_spectrogram
from embed_assets.encoders.muq.openvino_engine import MIXED, Engine
from embed_assets.encoders.openvino_runtime import import_openvino

MAKING = 1
"""Raised when what is made changes: it is then made and measured anew."""

SMALLEST_SPEED = 1.1
"""Relative to float32, below which it is not worth its disk space."""

MEANS_SECONDS = 5
"""Of made-up music, from which the means of activations are taken."""

FAILED = -1.0
"""The cosine of a model that cannot be made, or is not faster here."""


@dataclass(frozen=True)
class Mix:
    """What of MuQ is in 8 bits. `suffix`: of the folder of its model."""

    parts: tuple[str, ...]
    suffix: str = ""


MIXES = (Mix(PARTS), Mix(PRODUCTS, "-products"))
"""The fastest first."""


def load(checkpoint: Checkpoint) -> Engine | None:
    """The engine on the CPU, one thread; None where it is not the best one, or cannot be had.

    The first call makes and measures it, a minute or two for each of MIXES that it tries, while
    other processes wait.

    Raises:
        Refused: OpenVINO cannot be had.
        ConfigurationError: the weights are damaged, or do not make a model.
    """
    if not is_useful():
        return None
    ov = import_openvino()
    try:
        for mix in MIXES:
            mixed = conversion(checkpoint.conversion, mix)
            if _cosine(ov, checkpoint, mix) >= parity_check.SMALLEST_COSINE[MIXED]:
                mixed.ensure(partial(_make, ov, checkpoint, mix))
                return openvino_engine.compiled(
                    ov, mixed.model, "CPU", MIXED, checkpoint.muq_config
                )
    except (OSError, RuntimeError, MemoryError):
        # Memory or disk were short, or OpenVINO failed: the next load tries again, with the model
        # that is made by then. If something is wrong with float32 too, that engine says so.
        return None
    return None


def is_useful() -> bool:
    """Whether this CPU multiplies 8 bits fast, and bfloat16 not."""
    has = openvino_engine.cpu_has
    return has(*openvino_engine.EIGHT_BITS) and not has(*openvino_engine.BFLOAT16)


def must_measure(kept: ConvertedModelCache) -> bool:
    """Whether the next load has to make and measure it first."""
    return is_useful() and not kept.has_verdict(MIXED)


def conversion(kept: ConvertedModelCache, mix: Mix) -> ConvertedModelCache:
    """A model of its own, beside the one in float32, whether it is there or not."""
    name = f"{kept.folder.name}-{MIXED}-{MAKING}{mix.suffix}"
    return ConvertedModelCache(kept.folder.with_name(name))


def conversions(kept: ConvertedModelCache) -> list[ConvertedModelCache]:
    """All models that may be made beside the one in float32."""
    return [conversion(kept, mix) for mix in MIXES]


def _cosine(ov: Any, checkpoint: Checkpoint, mix: Mix) -> float:
    """The smallest cosine to torch's vectors, known or measured now; FAILED as in `_measure`."""
    kept = checkpoint.conversion
    what = openvino_engine.identity(ov, "CPU", MIXED) | {"made": f"{MAKING}{mix.suffix}"}
    if (known := kept.known_cosine(what)) is not None:
        return known
    kept.ensure(partial(openvino_engine.convert, ov, checkpoint))
    if shutil.disk_usage(kept.folder).free < 2 * kept.weights.stat().st_size:
        return FAILED
    return kept.cosine(what, partial(_measure, ov, checkpoint, mix))


def _measure(ov: Any, checkpoint: Checkpoint, mix: Mix) -> float:
    """The same, measured; FAILED where it cannot be made, or is not faster.

    Raises:
        OSError, RuntimeError, MemoryError: it could not be made or run just now.
    """
    kept = checkpoint.conversion
    mixed = conversion(kept, mix)

    def engine(model: Path, dtype: str) -> Engine:
        return openvino_engine.compiled(ov, model, "CPU", dtype, checkpoint.muq_config)

    cosine = FAILED
    try:
        mixed.ensure(partial(_make, ov, checkpoint, mix))
        ours = engine(mixed.model, MIXED)
        vectors, seconds = parity_check.vectors(ours.frames), _seconds(ours)
        odd = _odd_vectors(ours)
        del ours
        exact = engine(kept.model, "float32")
        if SMALLEST_SPEED * seconds <= _seconds(exact):
            cosine = min(
                parity_check.smallest_cosine(vectors, np.load(kept.reference)),
                parity_check.smallest_cosine(odd, _odd_vectors(exact)),
            )
    except ValueError:
        # A checkpoint of another kind may have products of shapes that `eight_bits` does not know.
        pass
    if cosine < parity_check.SMALLEST_COSINE[MIXED]:
        shutil.rmtree(mixed.folder, ignore_errors=True)
    return cosine


def _odd_vectors(engine: Engine) -> np.ndarray:
    """Of music without treble, and with a pause: float32 [2, 3, dim].

    8 bits find both harder than usual music, as most of the spectrogram is far from its mean.
    """
    sound = parity_check.audio(seed=2)[1]
    spectrum = np.fft.rfft(sound)
    spectrum[:, spectrum.shape[1] // 4 :] *= 0.01
    pause = sound.copy()
    pause[:, : sound.shape[1] // 2] = 0
    odd = (np.fft.irfft(spectrum, sound.shape[1]).astype(np.float32), pause)
    return np.concatenate([frame_statistics(engine.frames(each)) for each in odd])


def _seconds(engine: Engine) -> float:
    """CPU time of a few seconds of audio, the better of two."""
    sound = parity_check.audio()[1]
    engine.frames(sound)
    spent = []
    for _ in range(2):
        began = time.process_time()
        engine.frames(sound)
        spent.append(time.process_time() - began)
    return min(spent)


def _make(ov: Any, checkpoint: Checkpoint, mix: Mix, folder: Path) -> None:
    """Write what a ConvertedModelCache has into `folder`; raises OSError, RuntimeError."""
    exact = folder / "float"
    exact.mkdir()
    openvino_engine.convert(ov, checkpoint, exact, minimal=STEM not in mix.parts)
    graph = ov.Core().read_model(exact / MODEL)
    sound = parity_check.audio(seed=1)[0][0, : MEANS_SECONDS * SAMPLE_RATE]
    to_eight_bits(ov, graph, mel_spectrogram(checkpoint.muq_config)(sound), mix.parts)
    openvino_engine.save(ov, graph, folder / MODEL)
    del graph
    (exact / REFERENCE).rename(folder / REFERENCE)
    shutil.rmtree(exact)
