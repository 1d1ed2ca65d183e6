"""A sample of the tracks of a library, the same each time, in bounded memory."""

from __future__ import annotations

import heapq
from pathlib import Path

from embed_assets.identity import digest
from embed_assets.library.walk import list_audio, walk


def sample(root: Path, n: int) -> tuple[list[bytes], int]:
    """Library-relative paths of at most `n` tracks, and the number of tracks in the library.

    The sample consists of the paths with the smallest hashes, so it is random and repeatable.
    Folders that cannot be read are left out.
    """
    chosen: list[tuple[int, bytes]] = []
    tracks = 0
    for folder in walk(root):
        if folder.digest is None:
            continue
        prefix = folder.path + b"/" if folder.path else b""
        for file in list_audio(root, folder.path):
            tracks += 1
            path = prefix + file.name
            item = (-int(digest("sample", path), 16), path)
            if len(chosen) < n:
                heapq.heappush(chosen, item)
            else:
                heapq.heappushpop(chosen, item)
    return [path for _, path in sorted(chosen, reverse=True)], tracks
