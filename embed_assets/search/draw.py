"""`map`: the library drawn in one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict

from embed_assets.errors import ConfigurationError, EmbedAssetsError
from embed_assets.search.map_page import page, write_file
from embed_assets.search.projection import draw
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
        write_file(file.expanduser(), text)
    except OSError as e:
        raise EmbedAssetsError(f"cannot write {file}: {e.strerror or e}; name another file") from e
    return {
        "file": str(file),
        "tracks": len(drawing.positions),
        "by": drawing.by,
        "method": drawing.method,
        "bytes": len(text.encode()),
    }
