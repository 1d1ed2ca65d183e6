"""The two towers of MuQ-MuLan on torch, each with all its weights or not at all.

Zhu et al., "MuQ: Self-Supervised Music Representation Learning with Mel Residual Vector
Quantization" (2025), through the authors' package `muq`. Their `from_pretrained` downloads two
more models, and leaves random what a checkpoint lacks. Here each tower is built from its configs,
and its tensors must all be there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from embed_assets.encoders.mulan.weights import MulanWeights
from embed_assets.encoders.muq.checkpoint import AudioModule
from embed_assets.encoders.muq.module import MUQ_PARTS, check_keys, explained, quiet
from embed_assets.encoders.weights import WEIGHTS
from embed_assets.errors import ConfigurationError

if TYPE_CHECKING:
    import torch

TOO_ALIKE = 0.99
"""Cosine of vectors of unlike sounds, or of unlike texts, above which nobody trained the model."""

_AUDIO = (
    *(f"audio.model.{part}" for part in MUQ_PARTS),
    *("audio.proj.", "audio.transformer.", "audio_to_latents."),
)
_TEXT = ("text.model.", "text.proj.", "text.transformer.", "text_to_latents.")
_IN_FILE = "mulan."


@dataclass(frozen=True)
class TextModule:
    """The text tower in torch, in evaluation mode.

    from_words: vectors of words, float32 [1, L, width], to the text's vector, [1, dim].
    table: the vector of each token, [tokens, width].
    longest: tokens that a text may have, the two at its ends included.
    """

    from_words: Callable[[torch.Tensor], torch.Tensor]
    modules: tuple[torch.nn.Module, ...]
    table: torch.Tensor
    longest: int


def audio_module(found: MulanWeights, model: str) -> AudioModule:
    """The audio tower for the engines; `model` is EMBED_MODEL, for messages.

    What it gives is a vector of length 1 a clip, as a single frame: [B, 1, dim]. Raises
    ConfigurationError when the weights are damaged, do not fit their configs, or were not trained.
    """
    import torch
    from torch.nn.functional import normalize

    upstream = _upstream()
    config = found.own.config

    class Audio(upstream.Audio):  # type: ignore[misc, name-defined]
        def _init_pretrained_model(self, model_name: str) -> None:  # noqa: ARG002  # upstream's
            self.model = upstream.MuQ(_known(upstream.MuQConfig, found.muq_config))

    with explained(found.own.folder, model, "MuQ-MuLan"), quiet():
        audio = Audio(
            model_name=config["audio_model"]["name"],
            model_dim=config["audio_model"].get("model_dim"),
            use_layer_idx=config["audio_model"].get("use_layer_idx", -1),
            frozen_pretrained=False,
            **config["audio_transformer"],
        )
        mulan = upstream.MuLan(audio, _stub(audio.dim), **config["mulan"]).eval()
        del mulan.text, mulan.text_to_latents
        _load(mulan, _AUDIO, found, model)

    def whole(sound: torch.Tensor) -> torch.Tensor:
        return mulan.get_audio_latents(sound)[:, None]

    def head(frames: torch.Tensor) -> torch.Tensor:
        pooled = audio.transformer(audio.proj(frames)).mean(dim=-2)
        return normalize(mulan.audio_to_latents(pooled), dim=-1)[:, None]

    with explained(found.own.folder, model, "MuQ-MuLan"), torch.inference_mode():
        t = torch.arange(24_000) / 24_000
        noise = torch.rand(24_000, generator=torch.Generator().manual_seed(0)) - 0.5
        sounds = [0.3 * torch.sin(2 * torch.pi * 110 * t), noise]
        vectors = torch.cat([whole(sound[None])[:, 0] for sound in sounds])
    require_unlike(vectors.numpy(), "sounds", found, model)
    return AudioModule(whole, (mulan,), audio.model.model, audio.use_layer_idx, head)


def text_module(found: MulanWeights, model: str) -> TextModule:
    """The text tower; raises as `audio_module`."""
    from torch.nn.functional import normalize
    from transformers import XLMRobertaConfig, XLMRobertaModel

    upstream = _upstream()
    config = found.own.config

    class Text(upstream.Text):  # type: ignore[misc, name-defined]
        def _init_pretrained_model(self) -> Any:
            # The plainest form of attention, which converts for any length.
            settings = found.text_config | {"attn_implementation": "eager"}
            return XLMRobertaModel(XLMRobertaConfig.from_dict(settings), add_pooling_layer=False)

    with explained(found.own.folder, model, "MuQ-MuLan"), quiet():
        text = Text(
            model_name=config["text_model"]["name"],
            model_dim=config["text_model"].get("model_dim"),
            frozen_pretrained=False,
            **config["text_transformer"],
        )
        mulan = upstream.MuLan(_stub(text.dim), text, **config["mulan"]).eval()
        del mulan.audio, mulan.audio_to_latents
        _load(mulan, _TEXT, found, model)

    def from_words(words: torch.Tensor) -> torch.Tensor:
        hidden = text.model(inputs_embeds=words).last_hidden_state
        pooled = text.transformer(text.proj(hidden)).mean(dim=-2)
        return normalize(mulan.text_to_latents(pooled), dim=-1)

    table = text.model.embeddings.word_embeddings.weight.detach()
    # Positions begin behind the number of the padding.
    longest = text.model.config.max_position_embeddings - text.model.config.pad_token_id - 1
    return TextModule(from_words, (mulan,), table, longest)


def require_unlike(vectors: np.ndarray, what: str, found: MulanWeights, model: str) -> None:
    """Refuse a tower that gives unlike sounds or texts the same vector, of [n, dim]."""
    smallest = min(float(np.nan_to_num(a @ b, nan=1.0)) for a, b in combinations(vectors, 2))
    if smallest > TOO_ALIKE:
        raise ConfigurationError(
            f"EMBED_MODEL is {model!r}: its vectors of unlike {what} are almost the same (cosine"
            f" {smallest:.4f} and more), so {found.own.folder / WEIGHTS} was not trained to tell"
            " them apart, or is damaged. Use another model, or download it again."
        )


def _load(mulan: torch.nn.Module, parts: tuple[str, ...], found: MulanWeights, model: str) -> None:
    """Put the checkpoint's tensors of these parts into a tower; all must be there."""
    from safetensors import safe_open

    with safe_open(found.own.folder / WEIGHTS, "pt") as file:
        names = list(file.keys())
        there = {k.removeprefix(_IN_FILE) for k in names if k.startswith(_IN_FILE)}
        wanted = mulan.state_dict().keys()
        pooler = {k for k in there if k.startswith("text.model.pooler.")}
        check_keys(there - pooler, set(wanted), parts, found.own.folder, model)
        tensors = {k: file.get_tensor(_IN_FILE + k) for k in wanted & there}
    mulan.load_state_dict(tensors, strict=False)


def _stub(dim: int) -> torch.nn.Module:
    """Stands for the tower that is not needed."""
    import torch

    stub = torch.nn.Module()
    stub.dim = dim  # type: ignore[assignment]
    return stub


def _known(kind: Any, config: Mapping[str, Any]) -> Any:
    """A dataclass from what a config has of its fields, as the hub's loader makes it."""
    names = {field.name for field in fields(kind)}
    return kind(**{name: value for name, value in config.items() if name in names})


@dataclass(frozen=True)
class _Upstream:
    MuQ: Any
    MuQConfig: Any
    MuLan: Any
    Audio: Any
    Text: Any


def _upstream() -> _Upstream:
    """The classes of the package muq."""
    try:
        with quiet():
            from muq import MuQ, MuQConfig
            from muq.muq_mulan.models.audio import AudioSpectrogramTransformerPretrained
            from muq.muq_mulan.models.mulan import MuLanModel
            from muq.muq_mulan.models.text import TextTransformerPretrained
    except (ImportError, OSError, RuntimeError) as error:
        raise ConfigurationError(
            f"EMBED_ENCODER is 'muq-mulan', but the package muq cannot be imported ({error})."
            " torch, torchaudio and transformers must have the versions that embed_assets requires:"
            " `make install`, or `pip install --force-reinstall embed_assets`."
        ) from error
    return _Upstream(
        MuQ, MuQConfig, MuLanModel, AudioSpectrogramTransformerPretrained, TextTransformerPretrained
    )
