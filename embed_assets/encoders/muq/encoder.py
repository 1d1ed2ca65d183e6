"""MuQ, the default encoder: what it is, which engine runs it, what is kept of its frames.

On a CPU and on Intel graphics OpenVINO runs it (`openvino_engine`), else torch (`torch_engine`),
which is the reference of all vectors and runs it where OpenVINO cannot. In int8 (`int8_engine`) it
is another encoder, with vectors of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from embed_assets.encoders import devices
from embed_assets.encoders import weights as weights_
from embed_assets.encoders.base import EncoderInfo
from embed_assets.encoders.devices import end_leases, lease_cuda, resolve_device
from embed_assets.encoders.muq import int8_engine, openvino_engine, torch_engine
from embed_assets.encoders.muq.card import MUQ, MUQ_INT8
from embed_assets.encoders.muq.frames import (
    FRAME_STATS,
    MIN_SAMPLES,
    SAMPLE_RATE,
    frame_statistics,
    to_numpy,
)
from embed_assets.encoders.muq.module import load_module
from embed_assets.encoders.nvidia import near_the_best
from embed_assets.encoders.openvino_runtime import Refused
from embed_assets.errors import ConfigurationError, DeviceFailed, Reason, TrackRejected

if TYPE_CHECKING:
    from embed_assets.encoders.muq.frames import Frames


@dataclass(frozen=True)
class MuqEncoder:
    """MuQ on one device. `info`, `device`, `engine`, `dtype`, `warning` as in Encoder.

    `frames` is the engine: float32 [B, T] -> the last hidden state, [B, F, dim]; `mel` its mel
    spectrogram of a window: float32 [T] -> [128, frames].
    """

    info: EncoderInfo
    frames: Callable[[np.ndarray], Frames]
    mel: Callable[[np.ndarray], np.ndarray]
    device: str
    engine: str
    dtype: str
    warning: str = ""

    def encode(self, windows: np.ndarray) -> np.ndarray:
        """Encode windows of one length: float32 [B, T] at 24 kHz mono -> float32 [B, 3, dim].

        Axis 1 holds, over the window's frames (25 a second): the mean, IQR / 1.349, and the mean
        difference from one frame to the next. T is at least 1025; nothing is ever padded. Raises
        TrackRejected for shorter windows and for vectors that are not finite, whichever window of
        the batch it was; TransientError where not even one window fits into a GPU's memory, and
        DeviceFailed where a GPU fails.
        """
        if windows.dtype != np.float32 or windows.ndim != 2 or not len(windows):
            raise ValueError(f"windows must be float32 [B, T]; got {windows.dtype} {windows.shape}")
        if windows.shape[1] < MIN_SAMPLES:
            raise TrackRejected(
                Reason.TOO_SHORT,
                f"{windows.shape[1]} samples at 24 kHz; MuQ needs at least {MIN_SAMPLES}",
            )
        try:
            on_device = frame_statistics(self.frames(np.ascontiguousarray(windows)))
            # Not left to the vectors: a ReLU may make 0 of NaN, and OpenVINO's does. Here, since a
            # GPU is still at work on what it was asked for.
            finite = np.isfinite(windows).all()
            vectors = to_numpy(on_device)
        except RuntimeError as error:
            if self.device == "cpu":
                raise
            # Of a driver, or of what else uses it: no track's fault, and all that follows in this
            # process would fail as well.
            raise DeviceFailed(
                f"the device {self.device} failed ({str(error).strip().partition(chr(10))[0]}); it"
                " will be retried in a new process"
            ) from None
        if not finite:
            raise TrackRejected(Reason.BAD_VECTOR, "the decoded audio contains infinite samples")
        if not np.isfinite(vectors).all():
            raise TrackRejected(Reason.BAD_VECTOR, "MuQ gave NaN or infinity")
        return vectors


def mel_of(encoder: MuqEncoder, window: np.ndarray) -> np.ndarray:
    """The mel spectrogram of a window, as the encoder's model gets it."""
    return encoder.mel(window)


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
    return MuqEncoder(described, engine.frames, engine.mel, "cpu", "openvino", engine.dtype)


def load(model: str, device: str, cache: Path) -> MuqEncoder:
    """Load the MuQ weights `model` onto `device`; see `embed_assets.encoders.load`."""
    found = _find(model, cache)
    described = _info(found, model)
    where = resolve_device(device)
    if where != "cpu" and not where.startswith("openvino:"):
        return _on_gpu(found, described, model, where, cache)
    name = where.partition(":")[2] or "CPU"
    try:
        engine = openvino_engine.load(found, model, name, cache)
    except Refused as refused:
        if where != "cpu":
            raise ConfigurationError(
                f"EMBED_DEVICE is {device!r}, but OpenVINO cannot run these weights there:"
                f" {refused}. Set EMBED_DEVICE=auto."
            ) from refused
        warning = f"OpenVINO cannot be used, so torch is used, which is slower: {refused}"
        return _on_torch(found, described, model, where, warning)
    return MuqEncoder(
        described, engine.frames, engine.mel, where, "openvino", engine.dtype, engine.warning
    )


def reference(model: str, cache: Path) -> MuqEncoder:
    """The plain module in float32 on the CPU: what every engine's vectors are held against."""
    found = _find(model, cache)
    return _on_torch(found, _info(found, model), model, "cpu")


def exact(model: str, cache: Path) -> MuqEncoder:
    """In float32 on the CPU, by the faster engine that gives the reference's vectors."""
    found = _find(model, cache)
    described = _info(found, model)
    try:
        engine = openvino_engine.load(found, model, "CPU", cache, ("float32",))
    except Refused as refused:
        return _on_torch(found, described, model, "cpu", str(refused))
    return MuqEncoder(described, engine.frames, engine.mel, "cpu", "openvino", engine.dtype)


def make_int8(model: str, cache: Path, music: Sequence[np.ndarray]) -> None:
    """Make what `muq-int8` runs, unless it is there; see `int8_engine.make`."""
    int8_engine.make(_find(model, cache), model, cache, music)


def first_load_notice(info: EncoderInfo, device: str, cache: Path) -> str:
    """What the first load will spend a minute on, for people; empty for nothing."""
    on_torch = not device.startswith("openvino:") and devices.is_single(device)
    if on_torch or openvino_engine.conversion(info.weights, cache).folder.is_dir():
        return ""
    return (
        "MuQ is converted for OpenVINO and checked against torch, once for these weights: a minute"
        " or two before the first track"
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


def _on_gpu(
    found: weights_.Weights, described: EncoderInfo, model: str, where: str, cache: Path
) -> MuqEncoder:
    """On torch's `where`, of several CUDA devices the first that is free."""
    # First what may fail without a GPU, so that none is leased for nothing.
    module = load_module(found, model)
    if where == "cuda":
        where = lease_cuda(_cuda_devices(), cache / "leases")
    try:
        engine = torch_engine.load(module, where)
    except BaseException:
        end_leases()
        raise
    return MuqEncoder(
        described, engine.frames, engine.mel, where, "torch", engine.dtype, engine.warning
    )


def _cuda_devices() -> dict[int, str]:
    """CUDA devices that are worth a model, by number, and their names.

    Whatever CUDA_VISIBLE_DEVICES makes of the numbers, the names stay.
    """
    import torch

    every = range(torch.cuda.device_count())
    chosen = [i for i in near_the_best() if i in every] or every
    return {i: str(torch.cuda.get_device_properties(i).uuid) for i in chosen}


def _on_torch(
    found: weights_.Weights, described: EncoderInfo, model: str, where: str, warning: str = ""
) -> MuqEncoder:
    engine = torch_engine.load(load_module(found, model), where)
    return MuqEncoder(described, engine.frames, engine.mel, where, "torch", engine.dtype, warning)


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
