"""MuQ-MuLan's audio side: what it is, and how clips become vectors.

The engines of MuQ run it (`muq/engines.py`), with the tower's head behind MuQ's conformer.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from embed_assets.encoders.base import EncoderInfo
from embed_assets.encoders.mulan import text_engine, weights
from embed_assets.encoders.mulan.card import MUQ_MULAN
from embed_assets.encoders.mulan.module import audio_module
from embed_assets.encoders.mulan.weights import MulanWeights
from embed_assets.encoders.muq import engines, mixed_engine
from embed_assets.encoders.muq.checkpoint import Checkpoint
from embed_assets.encoders.muq.converted import ConvertedModelCache, unused_in
from embed_assets.encoders.muq.engines import RunningEncoder
from embed_assets.encoders.muq.frames import MIN_SAMPLES, SAMPLE_RATE
from embed_assets.encoders.muq.openvino_engine import CONVERSION
from embed_assets.encoders.openvino_runtime import Refused
from embed_assets.errors import ConfigurationError

CLIP = weights.CLIP_SECONDS * SAMPLE_RATE
"""Samples of a clip."""


@dataclass(frozen=True)
class MulanEncoder(RunningEncoder):
    """MuQ-MuLan's audio side on one device."""

    def encode(self, windows: np.ndarray) -> np.ndarray:
        """Encode windows of one length: float32 [B, T] at 24 kHz mono -> float32 [B, 1, dim].

        What upstream gives for each as a track of its own: a window of 10 s a vector of length 1, a
        longer one the mean of its clips' vectors. Raises as `Running.vectors`.
        """
        if windows.ndim != 2 or not windows.size:
            raise ValueError(f"windows must be float32 [B, T]; got {windows.dtype} {windows.shape}")
        clips = clips_of(windows)
        flat = clips.reshape(-1, clips.shape[2])
        vectors = self.running.vectors(flat, lambda latents: latents)
        return vectors.reshape(*clips.shape[:2], -1).mean(axis=1, keepdims=True)


def clips_of(windows: np.ndarray) -> np.ndarray:
    """Clips of 10 s as upstream cuts them: [B, T] -> [B, clips, samples].

    What the last one lacks is filled with the beginning, once: below 5 s it is twice its length.
    """
    whole = windows.shape[1] // CLIP * CLIP
    clips = [windows[:, i : i + CLIP] for i in range(0, whole, CLIP)]
    if rest := windows.shape[1] - whole:
        clips.append(np.concatenate([windows[:, whole:], windows[:, : CLIP - rest]], axis=1))
    return np.stack(clips, axis=1)


def info(model: str, cache: Path) -> EncoderInfo:
    """Describe the weights `model`; see `embed_assets.encoders.describe`."""
    return _info(weights.find(model, cache))


def load(model: str, device: str, cache: Path) -> MulanEncoder:
    """Load the weights `model` onto `device`; see `embed_assets.encoders.load`."""
    found = weights.find(model, cache)
    running = engines.load(_checkpoint(found, model, cache), device, cache)
    # Here rather than at the first query, which would wait for it: whoever embeds has minutes.
    if not text_engine.conversion(found.digest, cache).folder.is_dir():
        try:
            text_engine.convert_once(found, model, cache)
        except Refused as refused:
            logging.getLogger(__name__).warning("text is left to torch: %s", refused)
    return MulanEncoder(_info(found), running)


def reference(model: str, cache: Path) -> MulanEncoder:
    """The plain module in float32 on the CPU: what every engine's vectors are held against."""
    found = weights.find(model, cache)
    return MulanEncoder(_info(found), engines.reference(_checkpoint(found, model, cache)))


def exact(model: str, cache: Path) -> MulanEncoder:
    """In float32 on the CPU, by the faster engine that gives the reference's vectors."""
    found = weights.find(model, cache)
    return MulanEncoder(_info(found), engines.exact(_checkpoint(found, model, cache)))


def first_load_notice(info: EncoderInfo, device: str, cache: Path) -> str:
    """What the first load will spend minutes on, for people; empty for nothing."""
    if not engines.must_convert(conversion(info.weights, cache), device):
        return ""
    return (
        "MuQ-MuLan is converted for OpenVINO and checked against torch, once for these weights: two"
        " or three minutes before the first track"
    )


def unused_files(in_use: Collection[str], model: str, cache: Path) -> list[Path]:
    """Converted models that neither EMBED_MODEL nor what is in use needs.

    `in_use`: values of `EncoderInfo.weights`.
    """
    needed = set(in_use)
    with suppress(ConfigurationError):
        needed.add(weights.find(model, cache).digest)
    kept = {c(d, cache) for d in needed for c in (conversion, text_engine.conversion)}
    kept |= {m for d in needed for m in mixed_engine.conversions(conversion(d, cache))}
    return unused_in(cache / MUQ_MULAN.name, {one.folder.name for one in kept})


def conversion(digest: str, cache: Path) -> ConvertedModelCache:
    """The conversion of the audio tower of these weights, whether it is there or not."""
    return ConvertedModelCache(cache / MUQ_MULAN.name / f"{digest}-{CONVERSION}")


def _checkpoint(found: MulanWeights, model: str, cache: Path) -> Checkpoint:
    return Checkpoint(
        muq_config=found.muq_config,
        conversion=conversion(found.digest, cache),
        check=partial(weights.check, found, model),
        load=partial(audio_module, found, model),
    )


def _info(found: MulanWeights) -> EncoderInfo:
    return EncoderInfo(
        name=MUQ_MULAN.name,
        weights=found.digest,
        sample_rate=SAMPLE_RATE,
        dim=found.own.config["mulan"]["dim_latent"],
        frame_stats=("mean",),
        min_seconds=MIN_SAMPLES / SAMPLE_RATE,
        note=MUQ_MULAN.note,
    )
