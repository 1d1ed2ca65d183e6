"""The partitions of the assets: a partition is a music folder, and its key the folder's path."""

from __future__ import annotations

import dagster as dg

from embed_assets.library.partition_keys import ROOT, key_of, path_of

__all__ = ["FOLDERS_NAME", "MUSIC_FOLDERS", "ROOT", "key_of", "path_of"]

FOLDERS_NAME = "music_folders"
MUSIC_FOLDERS = dg.DynamicPartitionsDefinition(name=FOLDERS_NAME)
