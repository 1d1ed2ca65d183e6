"""MuQ on torch: the reference on a CPU, and what runs on CUDA and Apple GPUs.

On a CPU the module itself in float32, window by window. On a GPU the encoder in bfloat16 where the
GPU has it, the mel spectrogram always in float32, in batches by seconds of audio. The GPU's side
was never measured, and only its handling of memory was tested, for want of a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from embed_assets.encoders.frames import SAMPLE_RATE
from embed_assets.errors import TransientError

if TYPE_CHECKING:
    import torch

GPU_BATCH_SECONDS = 240.0
"""Audio in one call on a GPU, at first; half of it after each time that memory was short."""


@dataclass(frozen=True)
class Engine:
    """`frames` takes float32 [B, T] on the CPU and gives [B, F, dim] on the device."""

    frames: Callable[[torch.Tensor], torch.Tensor]
    dtype: str


def load(module: torch.nn.Module, device: str) -> Engine:
    """The engine for a `muq.MuQ` module in evaluation mode, which it moves to the device."""
    import torch

    if device == "cpu":
        return Engine(_one_by_one(module), "float32")
    module = module.to(device)
    bfloat16 = device.startswith("cuda") and torch.cuda.is_bf16_supported(including_emulation=False)

    def forward(audio: torch.Tensor) -> torch.Tensor:
        # From pinned memory (`encoders.room`) the copy is the device's own affair.
        audio = audio.to(device, non_blocking=device.startswith("cuda"))
        # In muq's own order, so that the mel spectrogram stays outside of autocast.
        mel = module.model.preprocessing(audio, features=["melspec_2048"])
        mel = module.model.normalize(mel)["melspec_2048"]
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bfloat16):
            return module.model.conformer(module.model.conv(mel))[0].float()

    dtype = "bfloat16" if bfloat16 else "float32"
    return Engine(Batches(forward, GPU_BATCH_SECONDS), dtype)


def _one_by_one(module: torch.nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    import torch

    def frames(audio: torch.Tensor) -> torch.Tensor:
        # muq calls what it gives float32 batch by batch; one at a time bounds memory, and a batch
        # gains nothing on a CPU.
        return torch.cat([module(window[None]).last_hidden_state for window in audio])

    return frames


class Batches:
    """Calls `forward` on batches of at most so many seconds of audio, fewer once memory was short.

    What worked is remembered for the life of the process, which holds the model anyway.
    """

    def __init__(self, forward: Callable[[torch.Tensor], torch.Tensor], seconds: float) -> None:
        self.forward = forward
        self.seconds = seconds

    def __call__(self, audio: torch.Tensor) -> torch.Tensor:
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
                if size == 1:
                    raise TransientError(
                        f"not even one window of {length:.0f} s fits into the GPU's memory:"
                        " close what else uses it, or set EMBED_WINDOW_SECONDS lower"
                    ) from error
            # Outside of `except`: the error's traceback holds what is to be freed.
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self.seconds = size / 2 * length
        return torch.cat(frames)


def _short_of_memory(error: RuntimeError) -> bool:
    """Whether the device has no more memory: torch says it one way, its libraries another."""
    return "out of memory" in str(error).lower() or "ALLOC_FAILED" in str(error)
