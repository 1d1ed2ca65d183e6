"""Chooses the engine that runs a model on a device, and loads it.

On a CPU and on Intel graphics OpenVINO runs it (`openvino_engine`; on some CPUs partly in 8 bits,
`mixed_engine`), else torch (`torch_engine`), which is the reference of all vectors and runs it
where OpenVINO cannot.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from embed_assets.encoders import devices
from embed_assets.encoders.base import EncoderInfo
from embed_assets.encoders.devices import end_leases, lease_cuda, resolve_device
from embed_assets.encoders.muq import mixed_engine, openvino_engine, torch_engine
from embed_assets.encoders.muq.checkpoint import Checkpoint
from embed_assets.encoders.muq.converted import ConvertedModelCache
from embed_assets.encoders.muq.frames import MIN_SAMPLES, to_numpy
from embed_assets.encoders.nvidia import near_the_best
from embed_assets.encoders.openvino_runtime import Refused
from embed_assets.errors import ConfigurationError, DeviceFailed, Reason, TrackRejected

if TYPE_CHECKING:
    from embed_assets.encoders.muq.frames import Frames


@dataclass(frozen=True)
class Running:
    """A loaded model. `device`, `engine`, `dtype`, `warning` as in Encoder.

    `frames` takes float32 [B, T] and gives [B, F, dim]; `mel` takes one window, float32 [T], and
    gives its mel spectrogram as the model gets it, [128, frames].
    """

    frames: Callable[[np.ndarray], Frames]
    mel: Callable[[np.ndarray], np.ndarray]
    device: str
    engine: str
    dtype: str
    warning: str = ""

    def vectors(self, windows: np.ndarray, of_frames: Callable[[Frames], Frames]) -> np.ndarray:
        """What `of_frames` makes of the frames of windows, float32 [B, T] at 24 kHz, on the CPU.

        T is at least 1025. Raises TrackRejected for shorter windows and for vectors that are not
        finite, whichever window of the batch it was; TransientError where not even one window fits
        into a GPU's memory, and DeviceFailed where a GPU fails.
        """
        if windows.dtype != np.float32 or windows.ndim != 2 or not len(windows):
            raise ValueError(f"windows must be float32 [B, T]; got {windows.dtype} {windows.shape}")
        if windows.shape[1] < MIN_SAMPLES:
            raise TrackRejected(
                Reason.TOO_SHORT,
                f"{windows.shape[1]} samples at 24 kHz; MuQ needs at least {MIN_SAMPLES}",
            )
        try:
            on_device = of_frames(self.frames(np.ascontiguousarray(windows)))
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


@dataclass(frozen=True)
class RunningEncoder:
    """What encoders of a loaded model have in common; `encode` is missing for an Encoder."""

    info: EncoderInfo
    running: Running

    @property
    def device(self) -> str:
        """Where it runs."""
        return self.running.device

    @property
    def engine(self) -> str:
        """What runs it."""
        return self.running.engine

    @property
    def dtype(self) -> str:
        """The type that it computes in."""
        return self.running.dtype

    @property
    def warning(self) -> str:
        """Why another engine than the expected one is used; else empty."""
        return self.running.warning


def mel_of(encoder: RunningEncoder, window: np.ndarray) -> np.ndarray:
    """The mel spectrogram of a window, as the encoder's model gets it."""
    return encoder.running.mel(window)


def load(checkpoint: Checkpoint, device: str, cache: Path) -> Running:
    """Load a model onto `device`, a value of EMBED_DEVICE; see `embed_assets.encoders.load`."""
    where = resolve_device(device)
    if where != "cpu" and not where.startswith("openvino:"):
        return _on_gpu(checkpoint, where, cache)
    name = where.partition(":")[2] or "CPU"
    try:
        mixed = mixed_engine.load(checkpoint) if name == "CPU" else None
        engine = mixed or openvino_engine.load(checkpoint, name)
    except Refused as refused:
        if where != "cpu":
            raise ConfigurationError(
                f"EMBED_DEVICE is {device!r}, but OpenVINO cannot run these weights there:"
                f" {refused}. Set EMBED_DEVICE=auto."
            ) from refused
        warning = f"OpenVINO cannot be used, so torch is used, which is slower: {refused}"
        return reference(checkpoint, warning)
    return Running(engine.frames, engine.mel, where, "openvino", engine.dtype, engine.warning)


def reference(checkpoint: Checkpoint, warning: str = "") -> Running:
    """The plain module in float32 on the CPU: what every engine's vectors are held against."""
    engine = torch_engine.load(checkpoint.load(), "cpu")
    return Running(engine.frames, engine.mel, "cpu", "torch", engine.dtype, warning)


def exact(checkpoint: Checkpoint) -> Running:
    """In float32 on the CPU, by the faster engine that gives the reference's vectors."""
    try:
        engine = openvino_engine.load(checkpoint, "CPU", ("float32",))
    except Refused as refused:
        return reference(checkpoint, str(refused))
    return Running(engine.frames, engine.mel, "cpu", "openvino", engine.dtype)


def must_convert(conversion: ConvertedModelCache, device: str) -> bool:
    """Whether the first load on that device has to convert the model, which takes minutes."""
    on_torch = not device.startswith("openvino:") and devices.is_single(device)
    if on_torch:
        return False
    if not conversion.folder.is_dir():
        return True
    return not device.startswith("openvino:") and mixed_engine.must_measure(conversion)


def _on_gpu(checkpoint: Checkpoint, where: str, cache: Path) -> Running:
    """On torch's `where`, of several CUDA devices the first that is free."""
    # First what may fail without a GPU, so that none is leased for nothing.
    module = checkpoint.load()
    if where == "cuda":
        where = lease_cuda(_cuda_devices(), cache / "leases")
    try:
        engine = torch_engine.load(module, where)
    except BaseException:
        end_leases()
        raise
    return Running(engine.frames, engine.mel, where, "torch", engine.dtype, engine.warning)


def _cuda_devices() -> dict[int, str]:
    """CUDA devices that are worth a model, by number, and their names.

    Whatever CUDA_VISIBLE_DEVICES makes of the numbers, the names stay.
    """
    import torch

    every = range(torch.cuda.device_count())
    chosen = [i for i in near_the_best() if i in every] or every
    return {i: str(torch.cuda.get_device_properties(i).uuid) for i in chosen}
