"""Playlists as M3U files: relative paths in UTF-8, as players and music servers import them."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from embed_assets.errors import ConfigurationError
from embed_assets.identity import display_path, local_path
from embed_assets.index.page import write_file
from embed_assets.index.wanted import row_of
from embed_assets.rows import Track


def write_m3u(file: Path, root: Path, tracks: Sequence[Track]) -> list[str]:
    """Write tracks of the library at `root` to `file`; returns a note for each that was left out.

    Paths are relative to the folder of the file. A name that is no UTF-8 or holds a line break
    cannot stand in a playlist.

    Raises:
        ConfigurationError: the file cannot be written.
    """
    base = os.path.realpath(os.fsencode(file.expanduser().absolute().parent))
    lines, notes = ["#EXTM3U"], []
    for track in tracks:
        full = local_path(os.path.realpath(root), track.path)
        try:
            path = os.path.relpath(full, base).decode()
        except UnicodeDecodeError:
            notes.append(f"left out of {file}: {display_path(track.path)} (its name is no UTF-8)")
            continue
        if re.search(r"[\r\n\v\f\x1c-\x1e\x85\u2028\u2029]", path) or path != path.strip():
            notes.append(
                f"left out of {file}: {display_path(track.path)} (a line break in its name)"
            )
            continue
        row = row_of(track)
        name = f"{row.artist} - {row.title}" if row.artist else row.title
        lines.append(f"#EXTINF:{round(track.duration)},{' '.join(name.split())}")
        # Such a line would be a comment.
        lines.append(f"./{path}" if path.startswith("#") else path)
    try:
        write_file(file.expanduser(), "\n".join(lines) + "\n")
    except OSError as e:
        raise ConfigurationError(
            f"cannot write the playlist {file}: {e.strerror or e}; name another file"
        ) from e
    return notes
