"""MuQ with weights and activations in 8 bits, on a CPU with instructions for that: `muq-int8`.

Made once from the conversion in float32 (`muq_openvino`), by nncf's post-training quantisation.
What is kept needs no nncf to load. Its vectors are near those of `muq` and not the same, so that
they have a recipe, and a collection, of their own; `embed-assets try-int8` says how near they are
on a library. Nothing here ever gives way to another engine: what cannot be done is an error.
"""

from __future__ import annotations

import importlib.util
import shutil
from functools import partial
from pathlib import Path
from typing import Any

from embed_assets.encoders import devices, muq_openvino, muq_quantise
from embed_assets.encoders.muq_kept import MODEL, REFERENCE, Conversion
from embed_assets.encoders.weights import CONFIG, Weights, is_full
from embed_assets.errors import ConfigurationError, TransientError
from embed_assets.identity import digest

NAME = "muq-int8"

NOTE = "in int8, near its vectors in float and not the same"

QUANTISATION = 1
"""Raised when the calibration or what is made of it changes, and with it the recipe."""

SMALLEST_COSINE = 0.98
"""Between a vector of the check audio and torch's, below which the engine is refused."""

INSTRUCTIONS = ("avx512_vnni", "avx_vnni", "amx_int8")
_INSTEAD = "or set EMBED_ENCODER=muq, whose vectors are exact"


def digest_of(weights: str) -> str:
    """What decides a vector, where `muq` has the digest of its weights alone."""
    return digest(NAME, weights, str(QUANTISATION))


def conversion(weights: str, cache: Path) -> Conversion:
    """The model in int8 of weights with this digest, whether it is there or not."""
    kept = muq_openvino.conversion(weights, cache).folder
    return Conversion(kept.with_name(f"{kept.name}-int8-{QUANTISATION}"))


def require(weights: str, device: str, cache: Path) -> None:
    """Fail where `load` is bound to; imports nothing heavy.

    Raises:
        ConfigurationError: `device` is none that it runs on, the CPU has no instructions for it, or
            the package is missing that makes it.
    """
    kind, _, name = device.partition(":")
    asked = f"EMBED_ENCODER is {NAME!r}"
    if kind in ("cuda", "mps") or (kind == "openvino" and name != "CPU"):
        raise ConfigurationError(
            f"{asked}, which runs on CPUs only, but EMBED_DEVICE is {device!r}. Set"
            f" EMBED_DEVICE=cpu; {_INSTEAD}."
        )
    if kind == "auto" and (gpu := devices.nvidia_gpu()):
        raise ConfigurationError(
            f"{asked}, which runs on CPUs only, but EMBED_DEVICE is 'auto', and this machine has an"
            f" NVIDIA GPU ({gpu}), which is faster. Set EMBED_ENCODER=muq; or EMBED_DEVICE=cpu, to"
            " do without it."
        )
    if not muq_openvino.cpu_has(*INSTRUCTIONS):
        raise ConfigurationError(
            f"{asked}, but this CPU has no instructions for it (AVX512-VNNI, AVX-VNNI or AMX), so"
            " that it would not be worth its vectors. Set EMBED_ENCODER=muq."
        )
    if importlib.util.find_spec("openvino") is None:
        raise ConfigurationError(
            f"{asked}, but the package openvino, which runs it, is not installed: `make install`;"
            f" {_INSTEAD}."
        )
    if not conversion(weights, cache).model.exists() and importlib.util.find_spec("nncf") is None:
        raise ConfigurationError(
            f"{asked}, but the package nncf, which makes it once, is not installed:"
            f" `pip install 'embed_assets[int8]'`; {_INSTEAD}."
        )


def load(weights: Weights, model: str, cache: Path) -> muq_openvino.Engine:
    """The engine for these weights on the CPU, one thread.

    The first call converts, quantises and checks, two or three minutes and 6 GB of memory, while
    other processes wait; later ones take seconds.

    Raises:
        ConfigurationError: it cannot be made or used here.
        TransientError: the disk is full.
    """
    kept = conversion(weights.digest, cache)
    try:
        ov = muq_openvino.import_openvino()
        kept.ensure(partial(_quantise, ov, weights, model, cache))
        checked = muq_openvino.check(ov, kept, "CPU", "int8", weights)
        if checked.cosine >= SMALLEST_COSINE:
            return checked.engine()
    except OSError as error:
        why = f"{error.filename or kept.folder}: {error.strerror or error}"
        if is_full(error):
            raise TransientError(f"{why}; make room: MuQ in int8 takes 1.7 GB") from error
    except (muq_openvino.Refused, RuntimeError, ImportError) as error:
        is_plain = isinstance(error, muq_openvino.Refused)
        why = str(error) if is_plain else muq_openvino.first_words(error)
    else:
        why = (
            f"its vectors differ too much from torch's (cosine {checked.cosine:.4f}, wanted"
            f" {SMALLEST_COSINE}; OpenVINO {muq_openvino.version(ov)})"
        )
    raise ConfigurationError(
        f"EMBED_ENCODER is {NAME!r}, but these weights cannot be used in int8 here: {why}. Set"
        " EMBED_ENCODER=muq."
    )


def _quantise(ov: Any, weights: Weights, model: str, cache: Path, folder: Path) -> None:
    """Write what a Conversion has into `folder`; converts in float32 first if need be."""
    exact = muq_openvino.converted(ov, weights, model, cache)
    muq_quantise.in_process(exact.model, weights.folder / CONFIG, folder / MODEL)
    shutil.copyfile(exact.reference, folder / REFERENCE)
