"""MuQ, the product's encoder: what it is, which engine runs it, what is kept of its frames.

On a CPU and on Intel graphics OpenVINO runs it (`muq_openvino`), else torch (`muq_torch`), which is
the reference of all vectors and steps in where OpenVINO cannot. In int8 (`muq_int8`) it is another
encoder, with vectors of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from embed_assets.encoders import EncoderInfo, muq_int8, muq_openvino, muq_torch
from embed_assets.encoders import weights as weights_
from embed_assets.encoders.devices import end_leases, lease_cuda, resolve_device
from embed_assets.encoders.frames import (
    FRAME_STATS,
    MIN_SAMPLES,
    SAMPLE_RATE,
    frame_statistics,
    to_numpy,
)
from embed_assets.encoders.muq_module import load_module
from embed_assets.encoders.nvidia import near_the_best
from embed_assets.errors import ConfigurationError, DeviceFailed, Reason, TrackRejected

if TYPE_CHECKING:
    from embed_assets.encoders.frames import Frames

NOTE = (
    "MuQ, a self-supervised music model by Tencent AI Lab; its weights are CC-BY-NC 4.0: not for "
    "commercial use"
)


@dataclass(frozen=True)
class MuqEncoder:
    """MuQ on one device. `info`, `device`, `engine`, `dtype`, `warning` as in Encoder.

    `frames` is the engine: float32 [B, T] -> the last hidden state, [B, F, dim].
    """

    info: EncoderInfo
    frames: Callable[[np.ndarray], Frames]
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
                " is tried again, by a new process"
            ) from None
        if not finite:
            raise TrackRejected(Reason.BAD_VECTOR, "the decoded audio holds infinite samples")
        if not np.isfinite(vectors).all():
            raise TrackRejected(Reason.BAD_VECTOR, "MuQ gave NaN or infinity")
        return vectors


def info(model: str, cache: Path) -> EncoderInfo:
    """Describe the MuQ weights `model`; see `embed_assets.encoders.describe`."""
    return _info(weights_.find(model, cache), model)


def info_int8(model: str, cache: Path) -> EncoderInfo:
    """The same of MuQ in int8."""
    return _info_int8(weights_.find(model, cache), model, cache)


def load_int8(model: str, device: str, cache: Path) -> MuqEncoder:
    """Load MuQ in int8, on the CPU; see `embed_assets.encoders.load`."""
    muq_int8.require(device)
    found = weights_.find(model, cache)
    described = _info_int8(found, model, cache)
    engine = muq_int8.load(found, cache)
    return MuqEncoder(described, engine.frames, "cpu", "openvino", engine.dtype)


def load(model: str, device: str, cache: Path) -> MuqEncoder:
    """Load the MuQ weights `model` onto `device`; see `embed_assets.encoders.load`."""
    found = weights_.find(model, cache)
    described = _info(found, model)
    where = resolve_device(device)
    if where != "cpu" and not where.startswith("openvino:"):
        return _on_gpu(found, described, model, where, cache)
    name = where.partition(":")[2] or "CPU"
    try:
        engine = muq_openvino.load(found, model, name, cache)
    except muq_openvino.Refused as refused:
        if where != "cpu":
            raise ConfigurationError(
                f"EMBED_DEVICE is {device!r}, but OpenVINO cannot run these weights there:"
                f" {refused}. Set EMBED_DEVICE=auto."
            ) from refused
        warning = f"OpenVINO was refused, so that torch does the work, slower: {refused}"
        return _on_torch(found, described, model, where, warning)
    return MuqEncoder(described, engine.frames, where, "openvino", engine.dtype, engine.warning)


def reference(model: str, cache: Path) -> MuqEncoder:
    """The plain module in float32 on the CPU: what every engine's vectors are held against."""
    found = weights_.find(model, cache)
    return _on_torch(found, _info(found, model), model, "cpu")


def exact(model: str, cache: Path) -> MuqEncoder:
    """In float32 on the CPU, by the faster engine that gives the reference's vectors."""
    found = weights_.find(model, cache)
    described = _info(found, model)
    try:
        engine = muq_openvino.load(found, model, "CPU", cache, ("float32",))
    except muq_openvino.Refused as refused:
        return _on_torch(found, described, model, "cpu", str(refused))
    return MuqEncoder(described, engine.frames, "cpu", "openvino", engine.dtype)


def make_int8(model: str, cache: Path, music: Sequence[np.ndarray]) -> None:
    """Make what `muq-int8` runs, unless it is there; see `muq_int8.make`."""
    muq_int8.make(weights_.find(model, cache), model, cache, music)


def _on_gpu(
    found: weights_.Weights, described: EncoderInfo, model: str, where: str, cache: Path
) -> MuqEncoder:
    """On torch's `where`, of several CUDA devices the first that is free."""
    # First what may fail without a GPU, so that none is leased for nothing.
    module = load_module(found, model)
    if where == "cuda":
        where = lease_cuda(_cuda_devices(), cache / "leases")
    try:
        engine = muq_torch.load(module, where)
    except BaseException:
        end_leases()
        raise
    return MuqEncoder(described, engine.frames, where, "torch", engine.dtype, engine.warning)


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
    engine = muq_torch.load(load_module(found, model), where)
    return MuqEncoder(described, engine.frames, where, "torch", engine.dtype, warning)


def _info_int8(found: weights_.Weights, model: str, cache: Path) -> EncoderInfo:
    return replace(
        _info(found, model),
        name=muq_int8.NAME,
        weights=muq_int8.digest_of(found.digest, cache),
        note=f"{NOTE}; {muq_int8.NOTE}",
    )


def _info(found: weights_.Weights, model: str) -> EncoderInfo:
    dim = found.config.get("encoder_dim")
    if not isinstance(dim, int) or dim < 1 or "w2v2_config" not in found.config:
        raise ConfigurationError(
            f"EMBED_MODEL is {model!r}, which is no MuQ model: "
            f"{found.folder / weights_.CONFIG} lacks encoder_dim or w2v2_config. Leave EMBED_MODEL "
            "unset for the default."
        )
    return EncoderInfo(
        name="muq",
        weights=found.digest,
        sample_rate=SAMPLE_RATE,
        dim=dim,
        frame_stats=FRAME_STATS,
        min_seconds=MIN_SAMPLES / SAMPLE_RATE,
        note=NOTE,
    )
