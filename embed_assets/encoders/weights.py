"""Weights of EMBED_MODEL: where they are, their digest, and how they are downloaded.

Only `fetch` touches the network. Nothing here loads a model or knows an architecture.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embed_assets.encoders.download import SHA256, Damaged, file_sha256, into_cache
from embed_assets.errors import ConfigurationError, TransientError, WeightsMissing
from embed_assets.identity import digest

if TYPE_CHECKING:
    from embed_assets.encoders.base import EncoderCard

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
FILES = (CONFIG, WEIGHTS)

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_HUB_PATIENCE = 10.0  # seconds to wait for an answer of the hub before a download


@dataclass(frozen=True)
class Weights:
    """A model on this machine: its folder, what config.json says, and the digest of both files.

    The digest is the same for a hub download and for a copy of it in a local folder.
    """

    folder: Path
    config: dict[str, Any]
    digest: str


def find(model: str, cache: Path, card: EncoderCard) -> Weights:
    """Find the weights `model`, a local folder or a hub id, on this machine; no network.

    `cache` holds downloads (unless HF_HOME or HF_HUB_CACHE say otherwise) and digests: weights of
    a local folder are read once, and again when their size or time changes. `card`: of the encoder
    that needs them, for messages. Raises WeightsMissing if they are not downloaded, and
    ConfigurationError if they are incomplete.
    """
    said = f"EMBED_MODEL is {model!r}"
    folder = _local_folder(model)
    if folder is None:
        folder = downloaded(model, FILES, cache, card, said)
    try:
        raw = (folder / CONFIG).read_bytes()
        name = sha256(folder / WEIGHTS, cache)
    except OSError as error:
        raise unreadable(model, folder, error) from error
    return Weights(folder, json_object(raw, folder / CONFIG, said), _digest(name, raw))


def json_object(raw: bytes, file: Path, said: str) -> dict[str, Any]:
    """What a file with a JSON object holds; raises ConfigurationError if it is damaged."""
    try:
        found = json.loads(raw)
        if not isinstance(found, dict):
            raise ValueError("it is not a JSON object")
    except ValueError as error:
        raise ConfigurationError(
            f"{said}, but {file} is damaged: {error}. Download it again."
        ) from error
    return found


def check(weights: Weights, model: str) -> None:
    """Read the weights completely; raises ConfigurationError if they do not match their digest.

    Otherwise a download is trusted, although its disk may have damaged it since.
    """
    try:
        raw = (weights.folder / CONFIG).read_bytes()
        there = _digest(file_sha256(weights.folder / WEIGHTS), raw)
    except OSError as error:
        raise unreadable(model, weights.folder, error) from error
    if there != weights.digest:
        file = (weights.folder / WEIGHTS).resolve()
        raise ConfigurationError(
            f"EMBED_MODEL is {model!r}, but {file} is damaged: its checksum is wrong. Delete it"
            " and download it again; if it happens more than once, check the disk."
        )


def unreadable(model: str, folder: Path, error: OSError) -> ConfigurationError:
    """The error for a file of weights that cannot be read."""
    return ConfigurationError(
        f"EMBED_MODEL is {model!r}, but {error.filename or folder} cannot be read:"
        f" {error.strerror or error}. Make it readable, or download it again."
    )


def _digest(sha256_of_weights: str, config: bytes) -> str:
    return digest("weights", sha256_of_weights, hashlib.sha256(config).hexdigest())


def fetch(
    model: str, cache: Path, card: EncoderCard, begin: Callable[[], None] = lambda: None
) -> Path:
    """Download the weights `model` from the hub if they are missing; returns their folder.

    Shows a progress bar in a terminal, and resumes where an earlier call stopped. Raises
    ConfigurationError within seconds when there is no network, no such model, or no access to it,
    and TransientError when the disk is full.
    """
    if folder := _local_folder(model):
        return folder
    return download(model, FILES, cache, card, f"EMBED_MODEL is {model!r}", begin)


def download(
    repository: str,
    names: tuple[str, ...],
    cache: Path,
    card: EncoderCard,
    said: str,
    begin: Callable[[], None] = lambda: None,
) -> Path:
    """Download files of a repository of the hub if they are missing; returns their folder.

    `said`: which setting names the repository, for messages. Raises as `fetch`.
    """
    with contextlib.suppress(ConfigurationError):
        return downloaded(repository, names, cache, card, said)
    import httpx
    from huggingface_hub import HfApi, constants, errors, snapshot_download

    where = f"{said}, which could not be downloaded from {constants.ENDPOINT}"
    try:
        # snapshot_download has no limit of its own: on a network that swallows packets it would
        # sit for minutes before it says so.
        HfApi().model_info(repository, timeout=_HUB_PATIENCE)
        begin()
        for name in names:
            with contextlib.suppress(errors.EntryNotFoundError):
                into_cache(repository, name, hub_cache(cache), _HUB_PATIENCE)
        snapshot_download(repository, cache_dir=hub_cache(cache), allow_patterns=list(names))
    except errors.GatedRepoError as error:
        raise ConfigurationError(
            f"{where}: its owner grants access on request. Ask for it on the model's page, then "
            "set HF_TOKEN."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ConfigurationError(
            f"{where}: there is no such model, or it is private. Check the spelling; for a private "
            "one set HF_TOKEN."
        ) from error
    except (errors.HfHubHTTPError, ValueError, RuntimeError, Damaged) as error:
        # ValueError: no valid id. RuntimeError: what the hub's own transfer library raises.
        raise ConfigurationError(f"{where}: {_first_line(error)}. {_otherwise(card)}") from error
    except (httpx.HTTPError, ConnectionError, errors.LocalEntryNotFoundError) as error:
        raise ConfigurationError(
            f"{where}: no connection ({_first_line(error)}). {_otherwise(card)}"
        ) from error
    except OSError as error:
        room = f"free some space: {card.default_model} takes {card.download_size}"
        advice = room if is_full(error) else "check it"
        raise TransientError(
            f"{where}, since {error.filename or hub_cache(cache)} failed: "
            f"{error.strerror or _first_line(error)}; {advice}."
        ) from error
    try:
        return downloaded(repository, names, cache, card, said)
    except ConfigurationError as error:
        raise ConfigurationError(
            f"{said}, which exists at {constants.ENDPOINT} but lacks {' or '.join(names)}. Leave"
            " EMBED_MODEL unset for the default."
        ) from error


def hub_cache(cache: Path) -> Path:
    """The folder of hub downloads: the user's own Hugging Face cache if set, else below `cache`."""
    for variable, below in (
        ("HF_HUB_CACHE", ""),
        ("HUGGINGFACE_HUB_CACHE", ""),
        ("HF_HOME", "hub"),
    ):
        if value := os.environ.get(variable):
            return Path(os.path.expanduser(os.path.expandvars(value)), below)
    return cache / "huggingface"


def _local_folder(model: str) -> Path | None:
    """The local folder `model`; None for a hub id."""
    folder = Path(os.path.expanduser(model))
    if not model.strip() or (not _HUB_ID.fullmatch(model) and not folder.is_dir()):
        raise ConfigurationError(
            f"EMBED_MODEL is {model!r}: there is no such folder, and it is not a hub id"
            " (owner/name). Correct it, or leave EMBED_MODEL unset for the default."
        )
    if not folder.is_dir():
        return None
    missing = [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]
    if missing:
        raise ConfigurationError(
            f"EMBED_MODEL is the folder {folder}, which lacks {' and '.join(missing)}. Put both "
            f"{CONFIG} and {WEIGHTS} there."
        )
    return folder


def downloaded(
    repository: str, names: tuple[str, ...], cache: Path, card: EncoderCard, said: str
) -> Path:
    """The folder in the hub's cache with these files of a repository; no network.

    `said`: which setting names the repository, for messages. Raises WeightsMissing.
    """
    from huggingface_hub import try_to_load_from_cache

    found = {
        name: try_to_load_from_cache(repository, name, cache_dir=hub_cache(cache)) for name in names
    }
    missing = [
        name for name, path in found.items() if not (isinstance(path, str) and os.path.isfile(path))
    ]
    if missing:
        raise WeightsMissing(
            f"{said}, but its {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not in"
            f" {hub_cache(cache)}: {_get_them(card)}."
        )
    return Path(str(found[names[-1]])).parent


def sha256(path: Path, cache: Path) -> str:
    """SHA-256 of a file: the hub's name of its blob, or computed once and stored below `cache`."""
    real = path.resolve()
    if SHA256.fullmatch(real.name):
        return real.name
    stat = real.stat()
    return _remembered(real, stat.st_size, stat.st_mtime_ns, cache)


@lru_cache(maxsize=8)
def _remembered(path: Path, size: int, mtime_ns: int, cache: Path) -> str:
    key = digest("file", os.fsencode(path), str(size), str(mtime_ns))
    note = cache / "digests" / f"{key}.json"
    try:
        known = json.loads(note.read_bytes())["sha256"]
        if SHA256.fullmatch(known):
            return known
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not known yet, or truncated by a power loss: read the weights again
    value = file_sha256(path)
    content = {"path": str(path), "size": size, "mtime_ns": mtime_ns, "sha256": value}
    temporary = note.with_name(f".{note.name}.{uuid.uuid4().hex}.tmp")
    # On a full or read-only disk only this process knows it.
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(content))
        temporary.replace(note)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return value


def _get_them(card: EncoderCard) -> str:
    terms = "" if card.commercial_use else ": not for commercial use"
    return (
        "`embed-assets download`, `sync` or `up` downloads weights from the Hugging Face hub"
        f" ({card.default_model}: {card.download_size}, {card.licence}{terms}); or set EMBED_MODEL"
        f" to a folder that contains {CONFIG} and {WEIGHTS}{_instead(card, '; or set')}"
    )


def _otherwise(card: EncoderCard) -> str:
    return (
        "Try again when the hub can be reached (finished downloads are kept), or set EMBED_MODEL"
        f" to a folder that contains {CONFIG} and {WEIGHTS}{_instead(card, ', or')}."
    )


def _instead(card: EncoderCard, otherwise: str) -> str:
    if not card.instead:
        return ""
    return f"{otherwise} EMBED_ENCODER={card.instead}, which needs no download"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(". ")


def is_full(error: OSError) -> bool:
    """Whether the disk or a quota is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)
