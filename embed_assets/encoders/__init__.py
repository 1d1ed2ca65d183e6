"""Turns windows of audio into vectors; the only place that knows torch, muq and librosa's features.

A card (`cards.py`) describes an encoder, and `describe` an encoder with its weights; this is cheap
enough for a sensor that asks every few seconds. `load` loads it, which takes seconds. Nothing heavy
is imported before `load` is called.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from embed_assets.encoders.base import Encoder, EncoderCard, EncoderInfo, Words, call
from embed_assets.encoders.cards import CARDS, OF_WORDS, card_of, with_words
from embed_assets.errors import ConfigurationError

__all__ = ["Encoder", "EncoderCard", "EncoderInfo", "Words"]


def describe(name: str, model: str, cache: Path) -> EncoderInfo:
    """Describe the encoder `name` with the weights `model`, without loading or downloading.

    `cache` is the folder of downloaded models and of their digests. Raises ConfigurationError when
    there is no such encoder, or its weights are not on this machine.
    """
    return call(card_of(name).describe, model, cache)


def fetch(name: str, model: str, cache: Path, progress: Callable[[str], None]) -> None:
    """Download what the encoder `name` lacks, with a progress bar.

    Raises ConfigurationError if it cannot be downloaded, TransientError if the disk is full.
    """
    card = card_of(name)
    if not card.default_model:
        return

    def begin() -> None:
        progress(f"downloading {model}: {card.note}")

    if card.fetch:
        call(card.fetch, model, cache, begin)
    else:
        from embed_assets.encoders import weights

        weights.fetch(model, cache, card, begin)


def load(name: str, model: str, device: str, cache: Path) -> Encoder:
    """Load the encoder `name` onto `device` (a value of EMBED_DEVICE); takes seconds.

    Never touches the network. Raises ConfigurationError for an unknown encoder, for weights that
    are missing, damaged or of another architecture, and for a missing device.
    """
    card = card_of(name)
    if not card.runs_on_gpu:
        require_device(name, device)
    return call(card.load, model, device, cache)


def words(name: str, model: str, cache: Path) -> Words:
    """Load the text side of the encoder `name`, on the CPU; takes seconds, the first time a minute.

    Raises ConfigurationError: it has none, or as `load`. `phrases.py` keeps what it gives.
    """
    require_words(name)
    return call(card_of(name).load_words, model, cache)


def require_words(name: str) -> None:
    """Fail if an encoder has no text side; raises ConfigurationError."""
    if not card_of(name).has_words:
        raise ConfigurationError(
            f"EMBED_ENCODER is {name}, which knows no words: set EMBED_WORDS=true, and run"
            f" `embed-assets sync`, which embeds all music once more with {OF_WORDS.name}. Searches"
            f" by sound stay with {name}; EMBED_ENCODER={with_words()} would answer both"
        )


def require_device(name: str, device: str) -> None:
    """Fail if an encoder cannot run on that device, before weights are downloaded.

    Imports only OpenVINO, if the device needs it; `load` finds other problems of a device. Raises
    ConfigurationError.
    """
    card = card_of(name)
    if card.runs_on_gpu:
        from embed_assets.encoders import devices

        devices.require(device)
    elif device not in ("auto", "cpu", "openvino:CPU"):
        others = " or ".join(c.name for c in CARDS.values() if c.runs_on_gpu)
        raise ConfigurationError(
            f"EMBED_ENCODER={name} runs on CPUs only, but EMBED_DEVICE is {device!r}. Set"
            f" EMBED_DEVICE=cpu; or EMBED_ENCODER={others}, which can use a GPU."
        )
    if card.require:
        call(card.require, device)


def require(name: str, model: str, device: str, cache: Path) -> None:
    """Fail before any work if `load` would fail; loads neither a model nor torch.

    Raises:
        ConfigurationError: as `describe` and `require_device`.
    """
    require_device(name, device)
    describe(name, model, cache)


def unused_files(in_use: Collection[str], model: str, cache: Path) -> list[Path]:
    """Files beside the weights that are not needed any more, and incomplete downloads.

    `in_use`: values of `EncoderInfo.weights`; files for EMBED_MODEL and for default models stay
    too. All can be created again.
    """
    from embed_assets.encoders import download, phrases, weights

    unused = phrases.unused(in_use, cache)
    for card in CARDS.values():
        if card.unused_files:
            # EMBED_MODEL may be that of another encoder.
            configured, default = (
                call(card.unused_files, in_use, m, cache) for m in (model, card.default_model)
            )
            unused += [file for file in configured if file in default]
    return [*unused, *download.stopped(weights.hub_cache(cache))]
