"""MuQ with weights and activations in 8 bits, on a CPU with instructions for that: `muq-int8`.

Made once from a conversion to float32 (`openvino_engine`), by nncf's post-training quantisation,
with ranges of activations taken from some of the listener's music: `embed-assets try-int8` does it.
What is kept needs no nncf to load. Its vectors are near those of `muq` and not the same, so that
they have a recipe, and a collection, of their own; the recipe names the very model, since ranges
from other music give other vectors. Nothing here ever gives way to another engine: what cannot be
done is an error.
"""

from __future__ import annotations

import importlib.util
import shutil
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embed_assets.encoders.muq import mixed_engine, openvino_engine, quantise
from embed_assets.encoders.muq.card import MUQ_INT8
from embed_assets.encoders.muq.checkpoint import Checkpoint
from embed_assets.encoders.muq.converted import (
    MAKING_SECONDS,
    MODEL,
    REFERENCE,
    ConvertedModelCache,
)
from embed_assets.encoders.nvidia import nvidia_gpu
from embed_assets.encoders.openvino_runtime import Refused, import_openvino
from embed_assets.encoders.weights import CONFIG, Weights, is_full
from embed_assets.errors import ConfigurationError, TransientError, WeightsMissing
from embed_assets.formats import to_install
from embed_assets.identity import digest

if TYPE_CHECKING:
    import numpy as np

NAME = MUQ_INT8.name

QUANTISATION = 1
"""Raised when what is made changes: it is then made anew."""

SMALLEST_COSINE = 0.98
"""Between a vector of the check audio and torch's, below which the engine is refused."""

INSTRUCTIONS = openvino_engine.EIGHT_BITS
_INSTEAD = "or set EMBED_ENCODER=muq, whose vectors are exact"


def digest_of(weights: str, cache: Path) -> str:
    """What decides a vector, where `muq` has the digest of its weights alone.

    Raises:
        WeightsMissing: the model is not made yet.
    """
    made = conversion(weights, cache).fingerprint()
    if made is None:
        raise WeightsMissing(
            f"EMBED_ENCODER is {NAME!r}, whose model is not made yet: `embed-assets try-int8`"
            " makes it, calibrated on some of your music, and measures whether it is worth using;"
            f" {_INSTEAD}"
        )
    return digest(NAME, weights, made)


def conversion(weights: str, cache: Path) -> ConvertedModelCache:
    """The model in int8 of weights with this digest, whether it is there or not."""
    return ConvertedModelCache(cache / "openvino" / f"{weights}-int8-{QUANTISATION}")


def unused(in_use: Collection[str], weights: str | None, cache: Path) -> list[Path]:
    """Folders of conversions, also in float, that give none of the vectors in use.

    `in_use`: what `digest_of`, or a digest of weights, said. Those of `weights` stay all the same,
    unless an earlier version made them. What is just being made is not among them.
    """
    found = []
    for folder in (cache / "openvino").glob("*/"):
        if folder.name[0] == "." and time.time() - folder.stat().st_mtime < MAKING_SECONDS:
            continue
        source = folder.name.partition("-")[0]
        gives = None
        float_ = openvino_engine.conversion(source, cache)
        if folder in {made.folder for made in (float_, *mixed_engine.conversions(float_))}:
            gives = source
        elif folder == conversion(source, cache).folder and conversion(source, cache).fingerprint():
            gives = digest_of(source, cache)
        if gives is None or (gives not in in_use and source != weights):
            found.append(folder)
    return sorted(found)


def require(device: str) -> None:
    """Fail where it cannot run on a CPU, or should not; imports nothing heavy.

    Raises:
        ConfigurationError: the CPU has no instructions for it, OpenVINO is missing, or `device`, a
            value of EMBED_DEVICE, is "auto" where a GPU is faster.
    """
    asked = f"EMBED_ENCODER={NAME}"
    if device == "auto" and (gpu := nvidia_gpu()):
        raise ConfigurationError(
            f"{asked} runs on CPUs only, but EMBED_DEVICE is 'auto', and this machine has an"
            f" NVIDIA GPU ({gpu}), which is faster. Set EMBED_ENCODER=muq; or EMBED_DEVICE=cpu to"
            " do without it."
        )
    if not openvino_engine.cpu_has(*INSTRUCTIONS):
        raise ConfigurationError(
            f"{asked} needs a CPU with AVX512-VNNI, AVX-VNNI or AMX, and this one has none of"
            " them. Set EMBED_ENCODER=muq."
        )
    if importlib.util.find_spec("openvino") is None:
        raise ConfigurationError(
            f"{asked} needs the package openvino, which is not installed: `make install`;"
            f" {_INSTEAD}."
        )


def require_maker() -> None:
    """Fail where it cannot be made; raises ConfigurationError."""
    if importlib.util.find_spec("nncf") is None:
        raise ConfigurationError(
            "the package nncf, which is needed once to make the int8 model of MuQ, is not"
            f" installed: {to_install('int8')}; {_INSTEAD}"
        )


def make(weights: Weights, made_of: Checkpoint, cache: Path, music: Sequence[np.ndarray]) -> None:
    """Make the model unless it is there whole: minutes and gigabytes, while other processes wait.

    Activations have the ranges that they take on `music`: float32 [T] at 24 kHz each.

    Raises:
        ConfigurationError: it cannot be made here.
        TransientError: the disk is full.
    """
    with _explained(cache):
        ov = import_openvino()
        conversion(weights.digest, cache).ensure(partial(_quantise, ov, weights, made_of, music))


def load(weights: Weights, cache: Path) -> openvino_engine.Engine:
    """The engine for these weights on the CPU, one thread; the first call checks it.

    Raises:
        ConfigurationError: the model is damaged or cannot be used here.
        TransientError: the disk is full.
    """
    kept = conversion(weights.digest, cache)
    with _explained(cache):
        ov = import_openvino()
        if not kept.is_whole():
            raise RuntimeError(f"{kept.folder} is damaged; `embed-assets try-int8` makes it again")
        checked = openvino_engine.check(ov, kept, "CPU", "int8", weights.config)
        if checked.cosine < SMALLEST_COSINE:
            raise RuntimeError(
                f"its vectors differ too much from torch's (cosine {checked.cosine:.4f}, wanted"
                f" {SMALLEST_COSINE}; OpenVINO {openvino_engine.version(ov)})"
            )
        return checked.engine()


@contextmanager
def _explained(cache: Path) -> Iterator[None]:
    """Turn what goes wrong into errors for people."""
    try:
        yield
        return
    except OSError as error:
        why = f"{error.filename or cache}: {error.strerror or error}"
        if is_full(error):
            raise TransientError(f"{why}; free some space: MuQ in int8 takes 1.7 GB") from error
    except (Refused, RuntimeError) as error:
        why = str(error).strip()[:400]
    raise ConfigurationError(
        f"these weights cannot be used in int8 (EMBED_ENCODER={NAME}) here: {why}. Set"
        " EMBED_ENCODER=muq."
    )


def _quantise(
    ov: Any, weights: Weights, made_of: Checkpoint, music: Sequence[np.ndarray], folder: Path
) -> None:
    """Write what a ConvertedModelCache has into `folder`."""
    exact = folder / "float"
    exact.mkdir()
    openvino_engine.convert(ov, made_of, exact, minimal=False)
    quantise.in_process(exact / MODEL, weights.folder / CONFIG, music, folder / MODEL)
    (exact / REFERENCE).rename(folder / REFERENCE)
    shutil.rmtree(exact)
