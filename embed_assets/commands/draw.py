"""`map`: the library as a picture in one HTML file."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from embed_assets.commands.similar import searcher_of
from embed_assets.errors import ConfigurationError
from embed_assets.index.page import page
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


def write_file(file: Path, text: str) -> None:
    """All of a text or nothing, for somebody may be reading; raises OSError."""
    handle, name = tempfile.mkstemp(dir=file.absolute().parent, prefix=".", suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as out:
            out.write(text)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)
        os.replace(name, file)
    except BaseException:
        os.unlink(name)
        raise
