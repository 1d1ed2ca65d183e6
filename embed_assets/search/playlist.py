"""Playlists as M3U files: relative paths in UTF-8, as players and music servers import them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from embed_assets.errors import EmbedAssetsError
from embed_assets.identity import local_path, track_id
from embed_assets.index.nearest import Match
from embed_assets.library.manifest import MusicFolder
from embed_assets.library.walk import require_library
from embed_assets.search.map_page import write_file


def write_m3u(file: Path, library: MusicFolder, matches: Sequence[Match]) -> list[str]:
    """Write tracks of the library to `file`; returns a note for each one that was left out.

    Paths are relative to the folder of the file. Names that are not UTF-8 or contain a line break
    are left out.

    Raises:
        LibraryUnavailable: the library is not there.
        ConfigurationError: the file has the name of an audio file.
        EmbedAssetsError: the file cannot be written.
    """
    root = os.path.realpath(require_library(library.root))
    # What Path.expanduser makes of an unknown user is a RuntimeError.
    path = Path(os.path.expanduser(file))
    base = os.path.realpath(os.fsencode(path.absolute().parent))
    text, left_out = m3u_text(
        library,
        matches,
        lambda raw: os.fsdecode(os.path.relpath(local_path(root, raw), base)),
    )
    notes = [f"left out of {file}: {note}" for note in left_out]
    try:
        write_file(path, text)
    except (OSError, UnicodeEncodeError) as e:
        why = getattr(e, "strerror", None) or e
        raise EmbedAssetsError(f"cannot write the playlist {file}: {why}; name another file") from e
    return notes


def m3u_text(
    library: MusicFolder,
    matches: Sequence[Match],
    path_of: Callable[[bytes], str] = os.fsdecode,
) -> tuple[str, list[str]]:
    """A playlist, and a note for each track that was left out.

    `path_of`: library-relative path -> path in the playlist; default: the same.
    """
    lines, notes = ["#EXTM3U"], []
    for match in matches:
        raw = match.path.encode()
        if track_id(library.name, raw) != match.track_id:
            # The displayed path differs from the real one.
            notes.append(f"{match.path} (its name is not UTF-8)")
            continue
        path = path_of(raw)
        if re.search(r"[\r\n\v\f\x1c-\x1e\x85\u2028\u2029]", path) or path != path.strip():
            notes.append(f"{match.path} (its name contains a line break)")
            continue
        name = f"{match.artist} - {match.title}" if match.artist else match.title
        lines.append(f"#EXTINF:{round(match.duration)},{' '.join(name.split())}")
        # A line that starts with # is a comment.
        lines.append(f"./{path}" if path.startswith("#") else path)
    return "\n".join(lines) + "\n", notes
