"""The table of encoders, one line each. docs/architecture.md says how to add one."""

from __future__ import annotations

from embed_assets.encoders.acoustic.card import ACOUSTIC
from embed_assets.encoders.base import EncoderCard
from embed_assets.encoders.mulan.card import MUQ_MULAN
from embed_assets.encoders.muq.card import MUQ, MUQ_INT8
from embed_assets.errors import ConfigurationError
from embed_assets.identity import IndexSpec

CARDS: dict[str, EncoderCard] = {card.name: card for card in (MUQ, MUQ_INT8, MUQ_MULAN, ACOUSTIC)}
"""Encoders by their names, the values of EMBED_ENCODER."""

DEFAULT = MUQ
OF_WORDS = MUQ_MULAN
"""The encoder that answers `find` beside another one, with EMBED_WORDS."""
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


def wraps_short_windows(name: str) -> bool:
    """Whether a track's beginning fills its last window; also for another version's encoder."""
    return CARDS.get(name, EncoderCard).wraps_short_windows


def has_words(name: str) -> bool:
    """Whether an encoder turns words into vectors; also for another version's encoder."""
    return CARDS.get(name, EncoderCard).load_words != ""


def wants_words(spec: IndexSpec) -> bool:
    """Whether `find` is to be answered, by the encoder of tracks or by one beside it."""
    return spec.words is not None or has_words(spec.recipe.encoder)


def choices() -> str:
    """The encoders and a few words on each, in one line."""
    *most, last = (f"`{card.name}` ({card.summary})" for card in CARDS.values())
    return f"{', '.join(most)}, or {last}"


def with_weights() -> str:
    """The default of EMBED_MODEL for each encoder that uses it, in one line."""
    names: dict[str, list[str]] = {}
    for card in CARDS.values():
        if card.default_model:
            names.setdefault(card.default_model, []).append(f"`{card.name}`")
    return ", ".join(f"`{model}` for {' and '.join(users)}" for model, users in names.items())


def default_model(name: str) -> str:
    """The weights of an encoder if EMBED_MODEL does not name others; empty if it has none."""
    return CARDS[name].default_model if name in CARDS else ""


def with_words() -> str:
    """The names of the encoders that turn words into vectors, for messages."""
    return " or ".join(card.name for card in CARDS.values() if card.has_words)
