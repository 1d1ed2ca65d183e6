"""`retry`: has a track, or a folder and everything below it, read and embedded again."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from embed_assets.defs import state
from embed_assets.defs.ranged_run import paths_of
from embed_assets.errors import NotFound
from embed_assets.identity import display_path, folder_id
from embed_assets.library.left_out import why_left_out
from embed_assets.operations.read_only import open_existing, require_setting
from embed_assets.project import for_reading
from embed_assets.settings import Settings
from embed_assets.storage import retry_requests
from embed_assets.storage.find_tracks import tracks_by_words

SHOWN = 3
"""Paths that are suggested for a name that is none."""


@dataclass(frozen=True)
class Asked:
    """What `retry` requested; `--json` prints it."""

    folders: list[str]
    """The folders with tracks that will be read again, relative to the library."""
    tracks: int
    """How many tracks will be read and embedded again."""


def retry(settings: Settings, name: str) -> Asked:
    """Have a track, or a folder and everything below it, read and embedded again.

    File times, vectors and rejections are ignored, and retry intervals after failures end. The next
    evaluation of `up`, or the next `sync`, does the work; the request stays in the tables until
    then.

    Raises:
        NotFound: there is no such track or folder; says why if it is left out.
    """
    require_setting(settings)
    project = for_reading(settings)
    if not name:
        raise NotFound("name a track or a folder; `.` is the whole library")
    wanted = _relative(settings, name)
    library = project.library.name
    with open_existing(settings) as instance:
        # The tables lack a folder whose runs were killed before they began.
        known = paths_of(state.known_keys(instance))
    covered = {folder_id(library, p): p for p in known if _covers(wanted, p)}
    folders, tracks = retry_requests.ask(
        project.tables, lambda p: _covers(wanted, p), covered.items()
    )
    if not folders:
        root = settings.library
        if root and (why := why_left_out(root, os.fsencode(_inside(root, name)))):
            raise NotFound(f"{name!r} is left out of the library: {why}")
        meant = [display_path(t.path) for t in tracks_by_words(project.tables, name, SHOWN)]
        is_it = f" Is it {' or '.join(map(repr, meant))}?" if meant else ""
        raise NotFound(
            f"{name!r}: there is no track or folder with that name; words of a title are not"
            f" enough.{is_it} `embed-assets errors` lists failed ones; `embed-assets sync` reads"
            " new music"
        )
    return Asked(sorted(map(display_path, folders)), tracks)


def _relative(settings: Settings, name: str) -> str:
    """The name as `errors` prints it: relative to the library; `.` is the library."""
    return display_path(os.fsencode(_inside(settings.library, name)))


def _inside(root: Path | None, name: str) -> str:
    if root and os.path.isabs(name):
        name = os.path.relpath(name, root)
    return os.path.normpath(name)


def _covers(wanted: str, path: bytes) -> bool:
    shown = display_path(path)
    return wanted in (".", shown) or shown.startswith(wanted + "/")
