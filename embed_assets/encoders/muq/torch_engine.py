"""MuQ on torch: the reference on a CPU, and what runs on CUDA and Apple GPUs.

On a CPU the module itself in float32, window by window. On a GPU the encoder in bfloat16 where the
GPU has it, the mel spectrogram always in float32, in batches by seconds of audio. The GPU's side
was never measured, and only its handling of memory was tested, for want of a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from embed_assets.encoders.muq import parity_check
from embed_assets.encoders.muq.frames import SAMPLE_RATE
from embed_assets.errors import ConfigurationError, TransientError

if TYPE_CHECKING:
    import numpy as np
    import torch

    from embed_assets.encoders.muq.checkpoint import AudioModule

GPU_BATCH_SECONDS = 480.0
"""Audio in one call on a GPU, at first; half of it after each time that memory was short.

More than is handed over at once: what is over is not worth a call of its own.
"""

_CHECKED = slice(1, None)
"""Of the check audio what takes a CPU a second or two, since each process checks."""


@dataclass(frozen=True)
class Engine:
    """`frames` takes numpy's float32 [B, T] and gives [B, F, dim] on the device.

    `mel` is what it computes before the model: numpy's float32 [T] -> [128, frames].

    `warning`: why it is not in the fastest dtype.
    """

    frames: Callable[[np.ndarray], torch.Tensor]
    mel: Callable[[np.ndarray], np.ndarray]
    dtype: str
    warning: str = ""


def load(module: AudioModule, device: str) -> Engine:
    """The engine for a module, which it moves to the device.

    On a GPU some seconds of audio must give the CPU's vectors before anything else does, in
    bfloat16 or else in float32.

    Raises:
        ConfigurationError: torch cannot run it there, or it gives other vectors.
        TransientError: there is no room for it.
    """
    import torch

    if device == "cpu":
        return Engine(one_by_one(module), partial(_mel, module, device), "float32")
    theirs = parity_check.vectors(one_by_one(module), _CHECKED)
    worst: list[str] = []
    try:
        if device.startswith("cuda"):
            # What is asked without a device, as by autocast, is asked of this one.
            torch.cuda.set_device(device)
        for part in module.modules:
            part.to(device)
        for dtype in _dtypes(device):
            forward = partial(_forward, module, device, dtype)
            cosine = parity_check.smallest_cosine(parity_check.vectors(forward, _CHECKED), theirs)
            if cosine >= parity_check.SMALLEST_COSINE[dtype]:
                warning = parity_check.refused(worst, dtype)
                batches = Batches(forward, GPU_BATCH_SECONDS)
                return Engine(batches, partial(_mel, module, device), dtype, warning)
            worst.append(f"{cosine:.4f} in {dtype}")
    except RuntimeError as error:
        said = str(error).strip().partition("\n")[0]
        if _short_of_memory(error):
            raise TransientError(
                f"MuQ does not fit into the memory of {device} now ({said}): close other programs"
                " that use it"
            ) from error
        raise ConfigurationError(
            f"torch {torch.__version__} cannot run MuQ on {device} ({said}): is this GPU too old"
            " for it, or its driver? Set EMBED_DEVICE to another GPU, e.g. cuda:0, or"
            " EMBED_DEVICE=cpu to do without it."
        ) from error
    raise ConfigurationError(
        f"MuQ gives different vectors on {device} than on the CPU (cosine {', '.join(worst)}),"
        f" with torch {torch.__version__}. Set EMBED_DEVICE=cpu, and please report this."
    )


def _dtypes(device: str) -> tuple[str, ...]:
    import torch

    if device.startswith("cuda") and torch.cuda.is_bf16_supported(including_emulation=False):
        return ("bfloat16", "float32")
    return ("float32",)


def _forward(module: AudioModule, device: str, dtype: str, audio: np.ndarray) -> torch.Tensor:
    import torch

    with torch.inference_mode():
        # From pinned memory (`devices.alloc_pinned`) the copy is the device's own affair.
        there = torch.from_numpy(audio).to(device, non_blocking=device.startswith("cuda"))
        # In muq's own order, so that the mel spectrogram stays outside of autocast.
        mel = _normalised_mel(module, there)
        lower = dtype != "float32"
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=lower):
            return module.after_spectrogram(mel).float()


def _normalised_mel(module: AudioModule, audio: torch.Tensor) -> torch.Tensor:
    mel = module.muq.preprocessing(audio, features=["melspec_2048"])
    return module.muq.normalize(mel)["melspec_2048"]


def _mel(module: AudioModule, device: str, window: np.ndarray) -> np.ndarray:
    import torch

    with torch.inference_mode():
        there = torch.from_numpy(window[None]).to(device)
        return _normalised_mel(module, there)[0].float().cpu().numpy()


def one_by_one(module: AudioModule) -> Callable[[np.ndarray], torch.Tensor]:
    """The module itself: float32 [B, T] -> [B, F, dim], on the CPU."""
    import torch

    @torch.inference_mode()
    def frames(audio: np.ndarray) -> torch.Tensor:
        # muq calls what it gives float32 batch by batch; one at a time bounds memory, and a batch
        # gains nothing on a CPU.
        windows = torch.from_numpy(audio)
        return torch.cat([module.whole(window[None]) for window in windows])

    return frames


class Batches:
    """Calls `forward` on batches of at most so many seconds of audio, fewer once memory was short.

    What worked is remembered for the life of the process, which holds the model anyway.
    """

    def __init__(self, forward: Callable[[np.ndarray], torch.Tensor], seconds: float) -> None:
        self.forward = forward
        self.seconds = seconds

    def __call__(self, audio: np.ndarray) -> torch.Tensor:
        """float32 [B, T] -> [B, F, dim]; raises TransientError when a single window is too much."""
        import torch

        frames, done = [], 0
        while done < len(audio):
            length = audio.shape[1] / SAMPLE_RATE
            size = max(1, min(len(audio) - done, int(self.seconds / length)))
            try:
                frames.append(self.forward(audio[done : done + size]))
                done += size
                continue
            except RuntimeError as error:
                if not _short_of_memory(error):
                    raise
            # Outside of `except`: the error's traceback holds what is to be freed.
            if size == 1:
                raise TransientError(
                    f"not even one window of {length:.0f} s fits into the GPU's memory: close"
                    " other programs that use it, or lower EMBED_WINDOW_SECONDS"
                )
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self.seconds = size / 2 * length
        return torch.cat(frames)


def _short_of_memory(error: RuntimeError) -> bool:
    """Whether the device has no more memory: torch says it one way, its libraries another."""
    said = str(error)
    short = ("ALLOC_FAILED", "unable to find an engine to execute")  # cuBLAS, cuDNN
    return "out of memory" in said.lower() or any(words in said for words in short)
