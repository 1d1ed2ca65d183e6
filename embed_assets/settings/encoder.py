"""Settings that decide vectors: the encoders, their windows, and how a track gets one vector."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from embed_assets.encoders import cards
from embed_assets.settings.area import Area


class EncoderSettings(Area):
    """The encoder of tracks, the one for `find` beside it, and their windows."""

    encoder: str = Field(
        cards.DEFAULT.name,
        description=f"{cards.choices()}.",
    )
    model: str = Field(
        "",
        validate_default=True,
        description="Weights: a Hugging Face id, or a local folder with config.json and"
        f" model.safetensors. Empty: {cards.with_weights()}.",
    )
    words: bool = Field(
        default=False,
        description=f"Also embed with `{cards.OF_WORDS.name}`, into a collection of its own, for"
        " `embed-assets find`. See docs/words.md for the cost.",
    )
    words_model: str = Field(
        "",
        validate_default=True,
        description=f"Weights of `{cards.OF_WORDS.name}` for `EMBED_WORDS`: a Hugging Face id or a"
        f" local folder. Empty: `EMBED_MODEL` if that is the encoder,"
        f" else `{cards.OF_WORDS.default_model}`.",
    )
    device: str = Field(
        "auto",
        description="`auto` (CUDA if available, otherwise the CPU), `cpu`, `cuda`, `cuda:N`, `mps`,"
        " `openvino:GPU` (Intel graphics). A device that is missing, or that the encoder cannot"
        " use, is an error.",
    )
    window_seconds: float = Field(
        cards.DEFAULT.window_seconds,
        ge=1.0,
        le=600.0,
        allow_inf_nan=False,
        description="Length of a window, in seconds.",
    )
    windows: int = Field(
        3, ge=0, le=10_000, description="Windows per track, spread evenly. 0: the whole track."
    )
    pooling: Literal["mean", "enriched"] = Field(
        "mean",
        description="How the windows of a track become one vector: `mean`, or `enriched` (three"
        " times as wide).",
    )
    parts: bool = Field(
        default=False,
        description="Also index each window, for `embed-assets parts`. See docs/index.md for the"
        " cost.",
    )

    @field_validator("encoder")
    @classmethod
    def _an_encoder(cls, value: str) -> str:
        if value not in cards.CARDS:
            raise ValueError(
                f"there is no such encoder. Set it to one of: {', '.join(cards.CARDS)}."
            )
        return value

    @field_validator("model")
    @classmethod
    def _of_the_encoder(cls, value: str, info: ValidationInfo) -> str:
        return value or cards.default_model(info.data.get("encoder", ""))

    @field_validator("words_model")
    @classmethod
    def _of_words(cls, value: str, info: ValidationInfo) -> str:
        is_encoder = info.data.get("encoder") == cards.OF_WORDS.name
        return value or (is_encoder and info.data.get("model")) or cards.OF_WORDS.default_model

    @property
    def unused_model(self) -> str:
        """A sentence for an EMBED_MODEL that the encoder makes no use of; else empty."""
        if not self.model or cards.default_model(self.encoder):
            return ""
        return (
            f"EMBED_MODEL={self.model} has no effect: EMBED_ENCODER={self.encoder} has no weights"
        )

    @field_validator("device")
    @classmethod
    def _a_device(cls, value: str) -> str:
        # Whether it is there is found out by the encoder; a wrong word is wrong for each of them.
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?|openvino:[A-Z0-9.:,]+", value):
            raise ValueError("must be auto, cpu, cuda, cuda:N, mps or openvino:GPU")
        return value
