"""MuQ, the default encoder: what it is, and what is kept of its frames.

`engines.py` chooses what runs it. In int8 (`int8_engine`) it is another encoder, with vectors of
its own.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from embed_assets.encoders import weights as weights_
from embed_assets.encoders.base import EncoderInfo
from embed_assets.encoders.muq import engines, int8_engine, openvino_engine
from embed_assets.encoders.muq.card import MUQ, MUQ_INT8
from embed_assets.encoders.muq.checkpoint import Checkpoint
from embed_assets.encoders.muq.engines import Running, RunningEncoder
from embed_assets.encoders.muq.frames import (
    FRAME_STATS,
    MIN_SAMPLES,
    SAMPLE_RATE,
    frame_statistics,
)
from embed_assets.encoders.muq.module import audio_module
from embed_assets.errors import ConfigurationError

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class MuqEncoder(RunningEncoder):
    """MuQ on one device; what runs gives the last hidden state."""

    def encode(self, windows: np.ndarray) -> np.ndarray:
        """Encode windows of one length: float32 [B, T] at 24 kHz mono -> float32 [B, 3, dim].

        Axis 1 holds, over the window's frames (25 a second): the mean, IQR / 1.349, and the mean
        difference from one frame to the next. T is at least 1025; nothing is ever padded. Raises
        TrackRejected for shorter windows and for vectors that are not finite, whichever window of
        the batch it was; TransientError where not even one window fits into a GPU's memory, and
        DeviceFailed where a GPU fails.
        """
        return self.running.vectors(windows, frame_statistics)


def info(model: str, cache: Path) -> EncoderInfo:
    """Describe the MuQ weights `model`; see `embed_assets.encoders.describe`."""
    return _info(_find(model, cache), model)


def info_int8(model: str, cache: Path) -> EncoderInfo:
    """The same of MuQ in int8."""
    return _info_int8(_find(model, cache), model, cache)


def load_int8(model: str, device: str, cache: Path) -> MuqEncoder:  # noqa: ARG001  # a CPU only
    """Load MuQ in int8, on the CPU; see `embed_assets.encoders.load`."""
    found = _find(model, cache)
    described = _info_int8(found, model, cache)
    engine = int8_engine.load(found, cache)
    return MuqEncoder(
        described, Running(engine.frames, engine.mel, "cpu", "openvino", engine.dtype)
    )


def load(model: str, device: str, cache: Path) -> MuqEncoder:
    """Load the MuQ weights `model` onto `device`; see `embed_assets.encoders.load`."""
    found = _find(model, cache)
    described = _info(found, model)
    return MuqEncoder(described, engines.load(_checkpoint(found, model, cache), device, cache))


def reference(model: str, cache: Path) -> MuqEncoder:
    """The plain module in float32 on the CPU: what every engine's vectors are held against."""
    found = _find(model, cache)
    return MuqEncoder(_info(found, model), engines.reference(_checkpoint(found, model, cache)))


def exact(model: str, cache: Path) -> MuqEncoder:
    """In float32 on the CPU, by the faster engine that gives the reference's vectors."""
    found = _find(model, cache)
    return MuqEncoder(_info(found, model), engines.exact(_checkpoint(found, model, cache)))


def make_int8(model: str, cache: Path, music: Sequence[np.ndarray]) -> None:
    """Make what `muq-int8` runs, unless it is there; see `int8_engine.make`."""
    found = _find(model, cache)
    int8_engine.make(found, _checkpoint(found, model, cache), cache, music)


def first_load_notice(info: EncoderInfo, device: str, cache: Path) -> str:
    """What the first load will spend a minute on, for people; empty for nothing."""
    if not engines.must_convert(openvino_engine.conversion(info.weights, cache), device):
        return ""
    return (
        "MuQ is converted for OpenVINO and checked against torch, once for these weights: one to"
        " three minutes before the first track"
    )


def unused_files(in_use: Collection[str], model: str, cache: Path) -> list[Path]:
    """Converted models that neither EMBED_MODEL nor what is in use needs.

    `in_use`: values of `EncoderInfo.weights`.
    """
    try:
        configured = _find(model, cache).digest
    except ConfigurationError:
        configured = None
    return int8_engine.unused(in_use, configured, cache)


def must_make_int8(model: str, device: str, cache: Path) -> bool:
    """Whether the model of `muq-int8` is still to be made, which takes minutes.

    Raises:
        ConfigurationError: it cannot be made, or cannot run on that device.
    """
    int8_engine.require(device)
    if int8_engine.conversion(_find(model, cache).digest, cache).is_whole():
        return False
    int8_engine.require_maker()
    return True


def _find(model: str, cache: Path) -> weights_.Weights:
    return weights_.find(model, cache, MUQ)


def _checkpoint(found: weights_.Weights, model: str, cache: Path) -> Checkpoint:
    return Checkpoint(
        muq_config=found.config,
        conversion=openvino_engine.conversion(found.digest, cache),
        check=partial(weights_.check, found, model),
        load=partial(audio_module, found, model),
    )


def _info_int8(found: weights_.Weights, model: str, cache: Path) -> EncoderInfo:
    return replace(
        _info(found, model),
        name=MUQ_INT8.name,
        weights=int8_engine.digest_of(found.digest, cache),
        note=MUQ_INT8.note,
    )


def _info(found: weights_.Weights, model: str) -> EncoderInfo:
    dim = found.config.get("encoder_dim")
    if not isinstance(dim, int) or dim < 1 or "w2v2_config" not in found.config:
        raise ConfigurationError(
            f"EMBED_MODEL is {model!r}, which is not a MuQ model: {found.folder / weights_.CONFIG}"
            " lacks encoder_dim or w2v2_config. Leave EMBED_MODEL unset for the default."
        )
    return EncoderInfo(
        name=MUQ.name,
        weights=found.digest,
        sample_rate=SAMPLE_RATE,
        dim=dim,
        frame_stats=FRAME_STATS,
        min_seconds=MIN_SAMPLES / SAMPLE_RATE,
        note=MUQ.note,
    )
