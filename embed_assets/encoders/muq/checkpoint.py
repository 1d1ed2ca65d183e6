"""What the engines run: MuQ, alone or inside a larger model, and where its conversion is kept.

The engines know no files and no architecture but MuQ's: a `Checkpoint` says how the rest is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from embed_assets.encoders.muq.converted import ConvertedModelCache

if TYPE_CHECKING:
    import torch

LAST = -1
"""The conformer's last hidden state."""


@dataclass(frozen=True)
class AudioModule:
    """A model in torch, in evaluation mode, whole and as the engines take it apart.

    whole: the authors' own forward, float32 [1, T] -> [1, F, dim]: the reference of all engines.
    modules: what has its weights, to be moved to a device.
    muq: its MuQModel, with the spectrogram, the convolutions and the conformer.
    layer: which hidden state of the conformer is used.
    head: what is made of it, [B, frames, width] -> [B, F, dim]; None: nothing.
    """

    whole: Callable[[torch.Tensor], torch.Tensor]
    modules: tuple[torch.nn.Module, ...]
    muq: Any
    layer: int = LAST
    head: Callable[[torch.Tensor], torch.Tensor] | None = None

    def after_spectrogram(self, mel: torch.Tensor) -> torch.Tensor:
        """What the model makes of a normalised mel spectrogram, [B, 128, T] -> [B, F, dim]."""
        states = self.muq.conformer(
            self.muq.conv(mel), output_hidden_states=self.layer != LAST, return_dict=True
        )
        last = self.layer == LAST
        frames = states.last_hidden_state if last else states.hidden_states[self.layer]
        return self.head(frames) if self.head else frames


@dataclass(frozen=True)
class Checkpoint:
    """Weights on this machine as the engines need them.

    muq_config: MuQ's config, which decides the spectrogram.
    conversion: where the conversion for OpenVINO is kept.
    check: reads the weights through; raises ConfigurationError if they are damaged.
    load: makes the module; raises ConfigurationError if the weights do not make one.
    """

    muq_config: Mapping[str, Any]
    conversion: ConvertedModelCache
    check: Callable[[], None]
    load: Callable[[], AudioModule]
