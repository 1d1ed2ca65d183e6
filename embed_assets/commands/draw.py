"""`map`: the library as a picture in one HTML file."""

from __future__ import annotations

from pathlib import Path

from embed_assets.commands.served import searcher_of
from embed_assets.errors import ConfigurationError
from embed_assets.index.page import page, write_file
from embed_assets.index.projection import draw
from embed_assets.project import Project


def write_map(project: Project, file: Path, by: str = "", method: str = "") -> dict[str, object]:
    """Write the map of what is indexed; returns what was drawn, and how.

    Raises:
        ConfigurationError: nothing is indexed, or the file cannot be written.
    """
    searcher = searcher_of(project)
    if not len(searcher):
        raise ConfigurationError("nothing is indexed yet: run `embed-assets sync`")
    drawing = draw(searcher, by, method)
    text = page(searcher, drawing)
    try:
        write_file(file.expanduser(), text)
    except OSError as e:
        raise ConfigurationError(
            f"cannot write {file}: {e.strerror or e}; name another file"
        ) from e
    return {
        "file": str(file),
        "tracks": len(drawing.positions),
        "by": drawing.by,
        "method": drawing.method,
        "bytes": len(text.encode()),
    }
