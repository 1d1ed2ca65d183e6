"""The table of encoders, one line each. docs/architecture.md says how to add one."""

from __future__ import annotations

from embed_assets.encoders.acoustic.card import ACOUSTIC
from embed_assets.encoders.base import EncoderCard
from embed_assets.encoders.muq.card import MUQ, MUQ_INT8
from embed_assets.errors import ConfigurationError

CARDS: dict[str, EncoderCard] = {card.name: card for card in (MUQ, MUQ_INT8, ACOUSTIC)}
"""Encoders by their names, the values of EMBED_ENCODER."""

DEFAULT = MUQ
WITHOUT_DOWNLOAD = ACOUSTIC
"""For demonstrations, and for machines without a network."""


def card_of(name: str) -> EncoderCard:
    """The card of an encoder; raises ConfigurationError when there is no such encoder."""
    if name not in CARDS:
        raise ConfigurationError(
            f"EMBED_ENCODER is {name!r}: there is no such encoder. Set it to one of: "
            f"{', '.join(CARDS)}."
        )
    return CARDS[name]


def same_recording_cosine(name: str) -> float:
    """The cosine from which two tracks of one length may be one recording.

    Also for an encoder of another version of this software, if its index is still served.
    """
    return CARDS.get(name, EncoderCard).same_recording_cosine


def choices() -> str:
    """The encoders and a few words on each, in one line."""
    *most, last = (f"`{card.name}` ({card.summary})" for card in CARDS.values())
    return f"{', '.join(most)}, or {last}"


def with_weights() -> str:
    """The names of the encoders that use EMBED_MODEL, in one line."""
    return " and ".join(f"`{card.name}`" for card in CARDS.values() if card.default_model)
