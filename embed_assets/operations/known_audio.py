"""A list of the audio that is embedded at home, so that another machine leaves it out."""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from embed_assets.errors import ConfigurationError, TransientError, is_passing
from embed_assets.identity import AudioHash, Recipe
from embed_assets.operations.recipe_differences import recipe_differences
from embed_assets.project import Project, for_reading
from embed_assets.settings import Settings
from embed_assets.storage import shard_rows

_FIRST = "embed_assets known audio 1"
_HASH = re.compile(r"[0-9a-f]{32}")


def write_known(settings: Settings, file: Path) -> int:
    """Write the recipe and the audio that is embedded under it; returns how many.

    Raises:
        ConfigurationError: no weights, or the file cannot be written.
        TransientError: the disk is full, or the tables cannot be read just now.
    """
    project = for_reading(settings)
    recipe = project.spec().recipe
    making = file.with_name(f".{file.name}.{uuid.uuid4().hex}.tmp")
    count = 0
    try:
        try:
            with open(making, "x") as out:
                out.write(f"{_FIRST}\n{json.dumps(asdict(recipe))}\n")
                for audio in _embedded(project, recipe):
                    out.write(f"{audio}\n")
                    count += 1
            os.replace(making, file)
        except BaseException:
            making.unlink(missing_ok=True)
            raise
    except OSError as e:
        kind = TransientError if is_passing(e) else ConfigurationError
        raise kind(f"--write-known {file}: {e.strerror or e}; choose another file") from e
    return count


def _embedded(project: Project, recipe: Recipe) -> Iterator[AudioHash]:
    for row in shard_rows.embeddings(project.tables, recipe.digest):
        if row.reason is None and project.store.has(recipe.digest, row.audio_hash):
            yield row.audio_hash


def read_known(file: Path, recipe: Recipe) -> list[AudioHash]:
    """The audio in a file that `write_known` wrote.

    Raises:
        ConfigurationError: it cannot be read, or has another recipe than this machine would use.
    """
    try:
        first, of, *hashes = file.read_text().splitlines()
        if first != _FIRST or not all(map(_HASH.fullmatch, hashes)):
            raise ValueError
        fields = json.loads(of)
        there = Recipe(**fields | {"frame_stats": tuple(fields["frame_stats"])})
    except OSError as e:
        raise ConfigurationError(f"--known {file}: {e.strerror}; name a file that exists") from e
    except (ValueError, TypeError, KeyError):
        raise ConfigurationError(
            f"--known {file}: it is damaged, or `embed-assets embed --write-known` did not write it"
        ) from None
    if there.digest != recipe.digest:
        raise ConfigurationError(
            f"--known {file} is of a library with other settings, so its vectors would be others:"
            f" {recipe_differences(there, recipe)}"
        )
    return list(map(AudioHash, hashes))
