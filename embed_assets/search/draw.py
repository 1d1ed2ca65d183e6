"""The map of the library: drawn in one HTML file for `map`, or as points for other programs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from embed_assets.errors import ConfigurationError, EmbedAssetsError
from embed_assets.index.track_rows import row_of
from embed_assets.search.map_page import page, write_file
from embed_assets.search.projection import draw, lay_out
from embed_assets.search.snapshot import Snapshot


class WrittenMap(TypedDict):
    """What `map --json` prints."""

    file: str
    """The HTML file."""
    tracks: int
    """Tracks on the map."""
    by: str
    """What the colours show: `genre` or `folder`."""
    method: str
    """`tsne` or `pca`."""
    bytes: int
    """Size of the file."""


def write_map(tracks: Snapshot, file: Path, by: str = "", method: str = "") -> WrittenMap:
    """Write the map of the indexed tracks; returns what was drawn, and how.

    Raises:
        ConfigurationError: nothing is indexed, or the file has the name of an audio file.
        EmbedAssetsError: the file cannot be written.
    """
    if not len(tracks):
        raise ConfigurationError("nothing is indexed yet: run `embed-assets sync`")
    drawing = draw(tracks, by, method)
    text = page(tracks, drawing)
    try:
        write_file(Path(os.path.expanduser(file)), text)
    except OSError as e:
        raise EmbedAssetsError(f"cannot write {file}: {e.strerror or e}; name another file") from e
    return {
        "file": str(file),
        "tracks": len(drawing.positions),
        "by": drawing.by,
        "method": drawing.method,
        "bytes": len(text.encode()),
    }


@dataclass(frozen=True)
class MapPoints:
    """The position of each track on the map, in columns of equal length.

    `path`: relative to the library. `duration`: in seconds. `x`, `y`: from 0 to 1; similar tracks
    are close. `group`: index into `groups`, the names that the colours mean. `by`: `genre` or
    `folder`. `method`: `tsne` or `pca`.
    """

    track_id: list[str]
    path: list[str]
    title: list[str]
    artist: list[str]
    duration: list[float]
    x: list[float]
    y: list[float]
    group: list[int]
    groups: list[str]
    by: str
    method: str


def map_points(tracks: Snapshot, by: str = "", method: str = "") -> MapPoints:
    """The points of the map of the indexed tracks; see `projection.lay_out`."""
    if not len(tracks):
        return MapPoints([], [], [], [], [], [], [], [], [], by or "genre", method or "pca")
    found = lay_out(tracks, by, method)
    rows = [row_of(tracks.track(i)) for i in found.positions]
    points = found.points.round(4).astype(float)
    return MapPoints(
        [row.track_id for row in rows],
        [row.path for row in rows],
        [row.title for row in rows],
        [row.artist for row in rows],
        [row.duration for row in rows],
        points[:, 0].tolist(),
        points[:, 1].tolist(),
        found.group,
        found.groups,
        found.by,
        found.method,
    )
