"""The five files of MuQ-MuLan: where they are, their digest, and how they are downloaded.

MuLan's checkpoint holds all tensors, but its config only names the MuQ and the XLM-R inside. Of
these two upstream downloads the weights as well, 2.4 GB, and overwrites them at once. Here only
their configs and the tokenizer are needed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embed_assets.encoders import weights as weights_
from embed_assets.encoders.mulan.card import MUQ_MULAN
from embed_assets.encoders.weights import CONFIG, Weights
from embed_assets.errors import ConfigurationError, WeightsMissing
from embed_assets.identity import digest

TOKENIZER = "tokenizer.json"

VERSION = 1
"""Raised when vectors of the same files change."""

CLIP_SECONDS = int(MUQ_MULAN.window_seconds)


@dataclass(frozen=True)
class Nested:
    """A model inside of MuQ-MuLan: its name in MuLan's config, and the files needed of it.

    `folder`: where they are if EMBED_MODEL is a local folder, relative to it.
    """

    what: str
    key: str
    folder: str
    files: tuple[str, ...]


MUQ_PART = Nested("MuQ", "audio_model", "muq", (CONFIG,))
TEXT_PART = Nested("XLM-RoBERTa", "text_model", "xlm-roberta", (CONFIG, TOKENIZER))


@dataclass(frozen=True)
class MulanWeights:
    """MuQ-MuLan on this machine: MuLan's own two files, two configs, and the tokenizer.

    The digest is that of all five, the same for a download and for a local folder.
    """

    own: Weights
    muq_config: dict[str, Any]
    text_config: dict[str, Any]
    tokenizer: Path
    digest: str


def find(model: str, cache: Path) -> MulanWeights:
    """Find the files of `model`, a local folder or a hub id, on this machine; no network.

    Raises WeightsMissing if some are not downloaded, and ConfigurationError if they are incomplete
    or of another model.
    """
    own = weights_.find(model, cache, MUQ_MULAN)
    _require_mulan(own, model)
    muq = _folder_of(MUQ_PART, own, model, cache)
    text = _folder_of(TEXT_PART, own, model, cache)
    tokenizer = text / TOKENIZER
    try:
        raw = [(folder / CONFIG).read_bytes() for folder in (muq, text)]
        named = [hashlib.sha256(one).hexdigest() for one in raw]
        named.append(weights_.sha256(tokenizer, cache))
    except OSError as error:
        raise weights_.unreadable(model, own.folder, error) from error
    said = f"EMBED_MODEL is {model!r}"
    configs = [
        weights_.json_object(one, folder / CONFIG, said)
        for one, folder in zip(raw, (muq, text), strict=True)
    ]
    every = digest(MUQ_MULAN.name, own.digest, *named, str(VERSION))
    return MulanWeights(own, configs[0], configs[1], tokenizer, every)


def fetch(model: str, cache: Path, begin: Callable[[], None] = lambda: None) -> None:
    """Download what is missing; raises as `embed_assets.encoders.fetch`."""
    weights_.fetch(model, cache, MUQ_MULAN, begin)
    own = weights_.find(model, cache, MUQ_MULAN)
    _require_mulan(own, model)
    for part in (MUQ_PART, TEXT_PART):
        if _here(part, own) is None:
            name, said = _name(part, own), _said(part, own, model)
            weights_.download(name, part.files, cache, MUQ_MULAN, said)


def check(found: MulanWeights, model: str) -> None:
    """Read the weights completely; raises ConfigurationError if they do not match their digest."""
    weights_.check(found.own, model)


def _folder_of(part: Nested, own: Weights, model: str, cache: Path) -> Path:
    here = _here(part, own)
    if here is not None:
        return here
    name, said = _name(part, own), _said(part, own, model)
    try:
        return weights_.downloaded(name, part.files, cache, MUQ_MULAN, said)
    except ValueError as error:  # no id of the hub
        raise WeightsMissing(
            f"{said}, which is neither a folder nor a hub id: put its {' and '.join(part.files)}"
            f" into {own.folder / part.folder}"
        ) from error


def _here(part: Nested, own: Weights) -> Path | None:
    """The folder with the files of a nested model, if it is inside MuLan's or a folder itself."""
    for folder in (own.folder / part.folder, own.folder / _name(part, own)):
        if all((folder / name).is_file() for name in part.files):
            return folder
    return None


def _name(part: Nested, own: Weights) -> str:
    return str(own.config[part.key]["name"])


def _said(part: Nested, own: Weights, model: str) -> str:
    return f"EMBED_MODEL is {model!r}, inside of which is the {part.what} {_name(part, own)!r}"


def _require_mulan(own: Weights, model: str) -> None:
    """Refuse what is not a MuQ-MuLan, or one that hears other clips than these."""
    config, file = own.config, own.folder / CONFIG
    try:
        found = [config["mulan"]["sr"], config["mulan"]["clip_secs"]]
        names = [config[part.key]["name"] for part in (MUQ_PART, TEXT_PART)]
        latent = config["mulan"]["dim_latent"]
        known = "muq" in names[0].lower() and "xlm-roberta" in names[1]
        known = known and isinstance(latent, int) and latent > 0
    except (KeyError, TypeError, AttributeError):
        known = False
    if not known:
        raise ConfigurationError(
            f"EMBED_MODEL is {model!r}, which is not a MuQ-MuLan model: {file} does not describe"
            f" one of MuQ and XLM-RoBERTa. Leave EMBED_MODEL unset for {MUQ_MULAN.default_model}."
        )
    if found != [MUQ_MULAN.sample_rate, CLIP_SECONDS]:
        raise ConfigurationError(
            f"EMBED_MODEL is {model!r}, which hears clips of {found[1]} s at {found[0]} Hz"
            f" ({file}); only {CLIP_SECONDS} s at {MUQ_MULAN.sample_rate} Hz are supported."
        )
