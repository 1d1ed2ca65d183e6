"""What makes two things the same: ids of tracks and folders, a vector's recipe, the index spec.

Pure values and hashes only: nothing here opens a file or knows where one lies.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, NewType

TrackId = NewType("TrackId", str)
"""Names a track by its path; see `track_id`."""

FolderId = NewType("FolderId", str)
"""Names a folder by its path; see `folder_id`."""

AudioHash = NewType("AudioHash", str)
"""Names what is heard: a hash of a file's encoded audio, which tags and path do not change."""

RecipeDigest = NewType("RecipeDigest", str)
"""Names a `Recipe`; with an audio hash, it names vectors."""

IndexDigest = NewType("IndexDigest", str)
"""Names what the rows of a collection are made of, an `IndexSpec`."""

CollectionKey = NewType("CollectionKey", str)
"""Names a collection at a Milvus address, in the tables; see `IndexSpec.collection_key`."""

CollectionName = NewType("CollectionName", str)
"""The name of a collection in Milvus."""

PartitionKey = NewType("PartitionKey", str)
"""Names a folder for Dagster: its path, as a person would read it."""

ROW_SCHEMA_VERSION = 2
"""Raised when the fields of an index row change, so that a new collection is filled."""


def digest(*parts: bytes | str, size: int = 16) -> str:
    """Hash length-delimited parts with BLAKE2b; `2 * size` hex digits."""
    prefixed: list[bytes] = []
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        prefixed += (len(raw).to_bytes(8, "little"), raw)
    return hashlib.blake2b(b"".join(prefixed), digest_size=size).hexdigest()


def track_id(library: str, path: bytes) -> TrackId:
    """Stable id of a track: 32 hex digits over the library's name and its relative path.

    The path's raw bytes count, not a Unicode normalisation of them: a library may hold both
    spellings of a name, and each is a track. What a copy between systems renames keeps its
    vector all the same, through the audio hash.
    """
    return TrackId(digest("track", library, path))


def folder_id(library: str, path: bytes) -> FolderId:
    """Stable id of a folder: 32 hex digits over the library's name and its relative path."""
    return FolderId(digest("folder", library, path))


def display_path(path: bytes) -> str:
    r"""Path for people and for the index: UTF-8 as it is, other bytes as `\xNN`; root is `.`."""
    return path.decode("utf-8", "backslashreplace") or "."


def local_path(root: str | os.PathLike[str], path: bytes) -> bytes:
    """The bytes that open a library-relative path."""
    return os.path.join(os.fsencode(root), path) if path else os.fsencode(root)


@dataclass(frozen=True)
class Recipe:
    """All that decides a window vector; device, dtype, engine and batch size do not.

    `frame_stats` names the statistics over an encoder's frames that are kept for each window, in
    the order of axis 1 of the stored array.
    """

    encoder: str
    weights: str
    sample_rate: int
    dim: int
    window_seconds: float
    windows: int
    frame_stats: tuple[str, ...] = ("mean",)
    version: int = 1

    @cached_property
    def digest(self) -> RecipeDigest:
        """32 hex digits; names the recipe's room in the store and in the tables."""
        return RecipeDigest(digest("recipe", json.dumps(asdict(self), sort_keys=True)))


TRACKS, PARTS = "tracks", "parts"
"""What a collection has a row for: each track, or each of the windows that were embedded of it."""

WORDS = "words"
"""The alias of the collection that `find` searches, if it is not the one behind `tracks`."""


def parts_of(collection: CollectionName) -> CollectionName:
    """Name of the collection of parts that stands beside a collection of tracks."""
    return CollectionName(f"{PARTS}_{collection.removeprefix(f'{TRACKS}_')}")


@dataclass(frozen=True)
class IndexSpec:
    """What a collection holds: a recipe, the pooling of windows, the row's fields, rows of what.

    Two more collections may be wanted beside that of the tracks, whose name and digest are the same
    with and without them. `parts`: one of the windows, that of `segment_spec`. `words`: one for
    `find`, that of `words_spec`, with vectors of this other recipe.
    `vector_type`, `shards`: how a server stores the rows, which it cannot change later. These are
    the shards of a Milvus collection, not the portable ones of `embed`.
    """

    recipe: Recipe
    pooling: str = "mean"
    row_schema: int = ROW_SCHEMA_VERSION
    rows: str = TRACKS
    parts: bool = False
    words: Recipe | None = None
    vector_type: str = "float32"
    shards: int = 1

    @property
    def dim(self) -> int:
        """Width of the vectors in the collection."""
        return self.recipe.dim * (3 if self.pooling == "enriched" else 1)

    @property
    def digest(self) -> IndexDigest:
        """32 hex digits; part of every folder's wanted version."""
        if self.rows == TRACKS:
            return self._digest
        return IndexDigest(digest(self.rows, self._digest))

    @cached_property
    def _digest(self) -> IndexDigest:
        parts = ["index", self.recipe.digest, self.pooling, str(self.row_schema)]
        if (self.vector_type, self.shards) != ("float32", 1):
            parts += [self.vector_type, str(self.shards)]
        return IndexDigest(digest(*parts))

    @property
    def segment_spec(self) -> IndexSpec:
        """The spec of the collection of windows beside this one's, wanted or not."""
        return replace(self, rows=PARTS, parts=False, words=None)

    @property
    def words_spec(self) -> IndexSpec | None:
        """The spec of the collection for `find` beside this one's; None if none is wanted.

        It is that of an encoder that knows words, as if this encoder were the only one.
        """
        if self.words is None:
            return None
        return replace(self, recipe=self.words, pooling="mean", parts=False, words=None)

    @property
    def collection_specs(self) -> tuple[IndexSpec, ...]:
        """The specs of the collections that are served together, the tracks' first."""
        alone = replace(self, parts=False, words=None)
        return (alone, self.segment_spec) if self.parts else (alone,)

    @property
    def every_collection(self) -> tuple[IndexSpec, ...]:
        """The specs of all collections that are to be filled, the tracks' first.

        A folder is up to date when it is in all of them.
        """
        return (*self.collection_specs, *([self.words_spec] if self.words_spec else ()))

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        """The recipes of all these collections, each once, the tracks' first."""
        return tuple(dict.fromkeys(one.recipe for one in self.every_collection))

    def collection_key(self, uri: str) -> CollectionKey:
        """Where the rows of this spec are, at a Milvus address: 32 hex digits."""
        return CollectionKey(digest("place", uri, self.digest))

    def dump(self) -> str:
        """Text from which `load` makes an equal spec."""
        return json.dumps(self.as_json(), sort_keys=True)

    def as_json(self) -> dict[str, Any]:
        """All fields; without those that earlier versions lack if they have their defaults."""
        late = {"words": None, "vector_type": "float32", "shards": 1}
        return {k: v for k, v in asdict(self).items() if k not in late or v != late[k]}

    @classmethod
    def load(cls, text: str) -> IndexSpec | None:
        """The spec that `dump` wrote; None if a version with other recipes wrote it."""
        try:
            raw = json.loads(text)
            recipes = {k: _recipe(raw[k]) for k in ("recipe", "words") if raw.get(k)}
            return cls(**(raw | recipes))
        except (ValueError, TypeError, KeyError):
            return None

    @property
    def collection(self) -> CollectionName:
        """Name of the collection; the alias `tracks` points to the one that is served."""
        encoder = self.recipe.encoder.replace("-", "_")
        name = CollectionName(f"{TRACKS}_{encoder}_{self._digest[:12]}")
        return name if self.rows == TRACKS else parts_of(name)


def _recipe(raw: dict[str, Any]) -> Recipe:
    return Recipe(**(raw | {"frame_stats": tuple(raw["frame_stats"])}))
