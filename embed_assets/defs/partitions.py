"""The partitions of the assets: a partition is a music folder, and its key the folder's path."""

from __future__ import annotations

from collections.abc import Collection

import dagster as dg

from embed_assets.errors import ConfigurationError
from embed_assets.formats import first_few
from embed_assets.identity import PartitionKey, display_path
from embed_assets.library.partition_keys import ROOT, key_of, path_of

__all__ = ["FOLDERS_NAME", "MUSIC_FOLDERS", "ROOT", "key_of", "name_of", "names_of", "path_of"]

FOLDERS_NAME = "music_folders"
MUSIC_FOLDERS = dg.DynamicPartitionsDefinition(name=FOLDERS_NAME)


def name_of(key: str) -> str:
    """The folder of a partition, for people."""
    try:
        return display_path(path_of(key)) if key != ROOT else "the library's top folder"
    except ConfigurationError:
        return key


def names_of(keys: Collection[PartitionKey]) -> str:
    """`A`, or `2 folders: A, B`; at most three are named."""
    names = first_few(sorted(map(name_of, keys)))
    return names if len(keys) == 1 else f"{len(keys)} folders: {names}"
