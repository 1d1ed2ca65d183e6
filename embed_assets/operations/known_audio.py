"""A list of the audio that is embedded at home, so that another machine leaves it out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path

from embed_assets.errors import ConfigurationError, TransientError, is_passing
from embed_assets.identity import AudioHash, Recipe, RecipeDigest
from embed_assets.operations.recipe_differences import recipe_differences
from embed_assets.project import Project, for_reading
from embed_assets.settings import Settings
from embed_assets.storage import shard_rows
from embed_assets.storage.database import HASHES_PER_CALL
from embed_assets.storage.owner import check_owner
from embed_assets.storage.whole_file import whole_file

_FIRST = "embed_assets known audio 1"
_HASH = re.compile(r"[0-9a-f]{32}")


def write_known(settings: Settings, file: Path) -> int:
    """Write the audio that is embedded, below the recipe that each part is embedded under.

    Returns how many vectors it names. Raises:
        ConfigurationError: no weights, the file cannot be written, or the stored vectors are those
            of another library.
        TransientError: the disk is full, or tables or vectors cannot be read just now.
    """
    project = for_reading(settings)
    recipes = project.spec().recipes
    check_owner(project.tables, project.store)
    count = 0
    try:
        with whole_file(file) as out:
            out.write(f"{_FIRST}\n".encode())
            for recipe in recipes:
                out.write(f"{json.dumps(asdict(recipe))}\n".encode())
                for audio in _embedded(project, recipe):
                    out.write(f"{audio}\n".encode())
                    count += 1
    except OSError as e:
        kind = TransientError if is_passing(e) else ConfigurationError
        raise kind(f"--write-known {file}: {e.strerror or e}; choose another file") from e
    return count


def _embedded(project: Project, recipe: Recipe) -> Iterator[AudioHash]:
    digest = recipe.digest
    rows = (r.audio_hash for r in shard_rows.embeddings(project.tables, digest) if not r.reason)
    while some := list(islice(rows, HASHES_PER_CALL)):
        lost = set(project.store.known_lost(digest, some))
        yield from (audio for audio in some if audio not in lost)


def read_known(file: Path, recipes: Sequence[Recipe]) -> dict[RecipeDigest, list[AudioHash]]:
    """The audio in a file that `write_known` wrote, by recipe.

    Raises:
        ConfigurationError: it cannot be read, or lacks one of the recipes of this machine.
    """
    found: dict[RecipeDigest, list[AudioHash]] = {}
    there: list[Recipe] = []
    try:
        first, *lines = file.read_text().splitlines()
        if first != _FIRST:
            raise ValueError
        for line in lines:
            if line[:1] == "{":
                fields = json.loads(line)
                there.append(Recipe(**fields | {"frame_stats": tuple(fields["frame_stats"])}))
                found[there[-1].digest] = []
            elif _HASH.fullmatch(line):
                found[there[-1].digest].append(AudioHash(line))
            else:
                raise ValueError
        if not there:
            raise ValueError
    except OSError as e:
        raise ConfigurationError(f"--known {file}: {e.strerror}; name a file that exists") from e
    except (ValueError, TypeError, KeyError, IndexError):
        raise ConfigurationError(
            f"--known {file}: it is damaged, or `embed-assets embed --write-known` did not write it"
        ) from None
    for recipe in recipes:
        if recipe.digest not in found:
            other = next((r for r in there if r.encoder == recipe.encoder), there[0])
            raise ConfigurationError(
                f"--known {file} is of a library with other settings, so its vectors would be"
                f" others: {recipe_differences(other, [recipe])}"
            )
    return found
