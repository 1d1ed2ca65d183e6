"""The map as one HTML file that needs no network: a page with the data of a drawing."""

from __future__ import annotations

import errno
import json
import os
import stat
import tempfile
from contextlib import suppress
from importlib import resources
from pathlib import Path

import numpy as np

from embed_assets.errors import ConfigurationError
from embed_assets.index.track_rows import row_of
from embed_assets.library.walk import is_audio
from embed_assets.search.projection import COLOURS, GROUPS, Drawing
from embed_assets.search.snapshot import Snapshot


def page(searcher: Snapshot, drawing: Drawing) -> str:
    """The HTML file. Text from tags and names cannot become markup or code."""
    rows = [row_of(searcher.track(i)) for i in drawing.positions]
    points = np.round(drawing.points * 9999).astype(int)
    data = {
        "by": f"{drawing.by}, {'t-SNE' if drawing.method == 'tsne' else 'PCA'}",
        "x": points[:, 0].tolist(),
        "y": points[:, 1].tolist(),
        "title": [r.title for r in rows],
        "artist": [r.artist for r in rows],
        "path": [r.path for r in rows],
        "group": drawing.group,
        "groups": drawing.groups,
        "colours": [*COLOURS[: min(len(drawing.groups), GROUPS)], COLOURS[-1]],
        "near": drawing.near.tolist(),
    }
    # In JSON these characters occur only inside strings, where an escape means the same.
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    for mark in "<>&\u2028\u2029":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    text = text.encode("utf-8", "replace").decode()
    frame = resources.files(__package__).joinpath("map.html").read_text("utf-8")
    before, _, after = frame.partition("/*DATA*/")
    return before + text + after


def write_file(file: Path, text: str) -> None:
    """Write a text atomically, so that readers see all of it or the old file; keeps symlinks.

    Raises:
        OSError: it cannot be written.
        ConfigurationError: the file has the extension of an audio file, so it may be music.
    """
    if is_audio(os.fsencode(file.name)):
        raise ConfigurationError(f"{file} has the extension of an audio file: choose another name")
    with suppress(FileNotFoundError):
        if not stat.S_ISREG((status := file.stat()).st_mode):
            if stat.S_ISDIR(status.st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(file))
            # A pipe or a device, such as /dev/stdout, cannot be replaced: write into it.
            file.write_text(text, encoding="utf-8", newline="\n")
            return
        file = file.resolve()
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
