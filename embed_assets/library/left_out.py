"""What a walk leaves out: links that lead out of the library, audio of other kinds, CUE sheets."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from embed_assets.identity import display_path
from embed_assets.library.kinds import AUDIO_SUFFIXES, NOT_TAKEN, OTHER_SUFFIXES
from embed_assets.library.walk import IGNORE_MARKERS, LITTER, is_audio, is_hidden, is_inside

EXAMPLES = 3

LINKS_TODO = (
    "instead, mount the folder inside the library (`mount --bind`, or a share), copy it, or set"
    " EMBED_LIBRARY to the folder that contains the music"
)


class LeftOutCounts(TypedDict):
    """The `counts` of the check `left out` in `doctor --json`."""

    links_to_folders: int
    """Symbolic links to folders outside the library."""
    links_to_files: int
    """Symbolic links to audio files outside the library."""
    broken_links: int
    """Symbolic links to nothing."""
    endings: dict[str, int]
    """Files that are not indexed, by extension, e.g. `{".mid": 3}`."""
    cue_sheets: int
    """CUE sheets of albums in one file."""


class LeftOut:
    """Counts of what is left out of the `folders` that a walk passed; `walk` fills it.

    Symbolic links count if their name ends like audio, or has no ending: `linked_folders` and
    `linked_files` lead out of the library, `broken_links` nowhere. A link to a place inside the
    library leaves nothing out, since its target is indexed anyway.
    `endings`: number of files with each ending of `NOT_TAKEN`. `cue_sheets`: albums in one file
    with a CUE sheet that lists its tracks.
    """

    def __init__(self) -> None:
        self.linked_folders = self.linked_files = self.broken_links = 0
        self.folders = self.cue_sheets = 0
        self.endings: Counter[str] = Counter()
        self.links_seen: list[bytes] = []
        self.sheets_seen: list[bytes] = []

    @property
    def links(self) -> int:
        """Symbolic links that are not followed."""
        return self.linked_folders + self.linked_files + self.broken_links

    def note(self, base: bytes, path: bytes, entries: Sequence[os.DirEntry[bytes]]) -> None:
        """Count what a folder of the library below `base` contains, as it was listed."""
        self.folders += 1
        if any(entry.name in IGNORE_MARKERS for entry in entries):
            return
        audio: list[tuple[bytes, bytes]] = []
        sheets: list[bytes] = []
        for entry in entries:
            name = entry.name
            if is_hidden(name) or name in LITTER:
                continue
            stem, _, suffix = name.rpartition(b".")
            suffix = suffix.lower() if stem else b""
            # Some file systems are asked for each entry's kind, and may fail; a count is no reason
            # for a walk to stop.
            try:
                is_link = entry.is_symlink()
                is_file = suffix in OTHER_SUFFIXES and entry.is_file(follow_symlinks=False)
            except OSError:
                continue
            if is_link:
                self._note_link(base, path, entry, suffix)
            elif suffix in AUDIO_SUFFIXES:
                audio.append((stem, name))
            elif suffix == b"cue":
                sheets.append(name)
            elif is_file:
                self.endings[f".{suffix.decode()}"] += 1
        for sheet in sheets:
            # A sheet beside tracks that were ripped one by one only lists them.
            if len(audio) == 1 or any(sheet[: -len(b".cue")] in names for names in audio):
                self.cue_sheets += 1
                _add(self.sheets_seen, path, sheet)

    def _note_link(
        self, base: bytes, path: bytes, entry: os.DirEntry[bytes], suffix: bytes
    ) -> None:
        is_audio = suffix in AUDIO_SUFFIXES
        try:
            mode = os.stat(entry.path).st_mode
            if is_inside(base, entry.path):
                return
        except OSError:
            if suffix and not is_audio:
                return
            self.broken_links += 1
        else:
            if stat.S_ISDIR(mode):
                self.linked_folders += 1
            elif is_audio and stat.S_ISREG(mode):
                self.linked_files += 1
            else:
                return
        _add(self.links_seen, path, entry.name)

    def as_json(self) -> LeftOutCounts:
        """The object that `doctor --json` prints."""
        return {
            "links_to_folders": self.linked_folders,
            "links_to_files": self.linked_files,
            "broken_links": self.broken_links,
            "endings": dict(sorted(self.endings.items())),
            "cue_sheets": self.cue_sheets,
        }

    def about_links(self) -> str:
        """How many links are not followed, and what to do about it; empty if none."""
        counted = [
            f"{n} to {what}"
            for n, what in (
                (self.linked_folders, "folders outside the library"),
                (self.linked_files, "files outside it"),
                (self.broken_links, "nothing (broken)"),
            )
            if n
        ]
        if not counted:
            return ""
        return (
            f"symbolic links are not followed ({', '.join(counted)}; e.g."
            f" {_shown(self.links_seen)}): {LINKS_TODO}"
        )

    def sentences(self) -> list[str]:
        """What is left out, and what to do about it: one sentence per kind."""
        sentences = [self.about_links()] if self.links else []
        for kind in NOT_TAKEN:
            counts = [(self.endings[f".{ending}"], ending) for ending in kind.endings]
            if found := ", ".join(f"{n} .{ending}" for n, ending in counts if n):
                sentences.append(f"{found} not indexed ({kind.name}: {kind.why}): {kind.instead}")
        if self.cue_sheets:
            sentences.append(
                f"{self.cue_sheets} CUE sheets of albums in one file (e.g."
                f" {_shown(self.sheets_seen)}): such a file is indexed as one track; to index the"
                " single tracks, split it, e.g. with `shnsplit` or `flacon`"
            )
        return sentences


def why_left_out(root: Path, path: bytes) -> str:
    """Why a file or folder of the library is not indexed, in a sentence; empty if it is.

    `path`: relative to `root`. Says nothing of what is not there.
    """
    base = os.fsencode(os.path.realpath(root))
    full = os.path.join(base, path)
    if path in (b"", b".") or path.startswith(b"../") or not os.path.lexists(full):
        return ""
    return _why_folder_left_out(base, path) or _why_file_left_out(base, full)


def _why_folder_left_out(base: bytes, path: bytes) -> str:
    """The same, by the name of the file or of a folder above it."""
    names = path.split(b"/")
    for i in range(len(names)):
        above = os.path.join(base, *names[:i])
        for marker in IGNORE_MARKERS:
            if os.path.lexists(os.path.join(above, marker)):
                return f"{display_path(b'/'.join(names[:i]))} holds {marker.decode()}"
        name = display_path(names[i])
        if is_hidden(names[i]):
            return f"{name} is a hidden name"
        if names[i] in LITTER:
            return f"{name} is a system folder or file of a NAS or desktop"
        if i + 1 < len(names) and os.path.islink(os.path.join(above, names[i])):
            return (
                f"{name} is a symbolic link to a folder, and these are not followed: {LINKS_TODO}"
            )
    return ""


def _why_file_left_out(base: bytes, full: bytes) -> str:
    """The same, by the kind of the file."""
    if os.path.islink(full) and (os.path.isdir(full) or not os.path.exists(full)):
        return (
            "it is a symbolic link to a folder or to nothing, and these are not followed:"
            f" {LINKS_TODO}"
        )
    if os.path.isdir(full):
        return ""
    try:
        if not is_inside(base, full):
            return f"it is a symbolic link that leads out of the library: {LINKS_TODO}"
    except OSError as e:
        return f"it cannot be read ({e.strerror})"
    name = os.path.basename(full)
    stem, _, suffix = name.rpartition(b".")
    ending = suffix.lower().decode(errors="replace")
    for kind in NOT_TAKEN if stem else ():
        if ending in kind.endings:
            return f".{ending} files are not indexed ({kind.name}: {kind.why}): {kind.instead}"
    return "" if is_audio(name) else "its extension is not one of audio files"


def _add(seen: list[bytes], path: bytes, name: bytes) -> None:
    if len(seen) < EXAMPLES:
        seen.append(path + b"/" + name if path else name)


def _shown(paths: list[bytes]) -> str:
    return ", ".join(repr(display_path(p)) for p in paths)
