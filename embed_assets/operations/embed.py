"""`embed`: embeds music into shards, on a machine without Dagster, Milvus and tables.

`union` takes them in at home (`operations/union.py`). A folder of shards has a folder `work`, with
tables and vectors of its own; what is embedded is there until it is packed into a shard.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from embed_assets.embedding.canary.environment import environment
from embed_assets.embedding.decode_ahead import open_embedders
from embed_assets.embedding.embed_folders import EmbedContext, EmbedResult
from embed_assets.embedding.pack_shards import Packer, WorkStore
from embed_assets.embedding.scan_and_embed import scan_and_embed
from embed_assets.errors import (
    ConfigurationError,
    FolderChanged,
    LibraryUnavailable,
    NotFound,
    TransientError,
)
from embed_assets.formats import duration
from embed_assets.identity import display_path, folder_id
from embed_assets.library.walk import Folder, require_library, walk
from embed_assets.operations.known_audio import read_known
from embed_assets.operations.ready import ready
from embed_assets.operations.sync_progress import SAY_SECONDS
from embed_assets.operations.work_folder import stopped_by_sigterm, work_folder
from embed_assets.project import Project, tables_in
from embed_assets.settings import Settings
from embed_assets.storage import queries
from embed_assets.storage.records import Embedding
from embed_assets.storage.shard_manifest import Origin
from embed_assets.workers import cpu_count, open_pool

PAUSES = (0.0, 2.0, 10.0)
"""Seconds before each try of folders that failed for a temporary reason."""


@dataclass(frozen=True)
class RejectedTrack:
    """A track that cannot be embedded."""

    path: str
    """The file, relative to the library."""
    reason: str
    """Why, in a few words, e.g. `corrupt` or `too short`."""
    message: str
    """What is wrong with it."""


@dataclass(frozen=True)
class UnfinishedFolder:
    """A folder in which some tracks were not embedded."""

    path: str
    """The folder, relative to the library."""
    message: str
    """Why, and what to do."""


@dataclass
class EmbedIntoResult:
    """What `embed --into --json` prints."""

    folders: int = 0
    """Music folders that were looked at."""
    tracks: int = 0
    """Audio files in them."""
    embedded: int = 0
    """Tracks that were embedded now; with `EMBED_WORDS` counted for each encoder."""
    reused: int = 0
    """Those whose vectors were there: in a shard, by `--known`, or of a file with equal audio."""
    rejected: list[RejectedTrack] = field(default_factory=list)
    """Tracks that cannot be embedded; no failure."""
    failed: list[UnfinishedFolder] = field(default_factory=list)
    """Folders that are not done; if there are any, the exit code is 1."""
    words_missing: str = ""
    """Why nothing was embedded for `find`, e.g. that weights are missing; then the exit code is 1.
    Empty if it was, or is not wanted."""
    shards: list[str] = field(default_factory=list)
    """The shards that were written now."""
    seconds: float = 0.0
    """How long it took."""


def embed_into(
    settings: Settings,
    into: Path,
    folders: Sequence[str] = (),
    known: Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> EmbedIntoResult:
    """Embed the library, or folders of it, into shards in the folder `into`.

    What is there already is not embedded again. `known`: a file that `embed --write-known` wrote at
    home; the audio in it is left out.

    Raises:
        LibraryUnavailable: the library is missing.
        NotFound: there is no music in one of `folders`.
        ConfigurationError: encoder, weights or `known` cannot work as configured.
        TransientError: the disk fails, or another process writes shards into this folder.
    """
    started = time.monotonic()
    settings = ready(settings, progress)
    project = Project.of(settings)
    root = require_library(project.library.root)
    passes = project.vectors.passes(project.spec())
    left_out = read_known(known, [recipe for recipe, _ in passes]) if known else {}
    found = _chosen(root, folders)
    result = EmbedIntoResult(folders=len(found), tracks=sum(f.files for f in found))
    result.words_missing = project.vectors.words_missing()
    with work_folder(into) as work, stopped_by_sigterm():
        tables = tables_in(work)
        origin = Origin(host=platform.node(), environment=environment(settings.device))
        # While one connection is open, no other is the last: SQLite tidies up behind each last one.
        with tables.connect():
            for recipe, encoder_config in passes:
                store = WorkStore(work / "vectors")
                packer = Packer(into, recipe, origin, tables, store)
                packer.resume(progress)
                packer.leave_out(left_out.get(recipe.digest, ()))
                context = EmbedContext(project.library, recipe, encoder_config, tables, store)
                try:
                    _embed_all(context, found, packer, result, progress)
                finally:
                    packer.pack()
                result.shards += [path.name for path in packer.written]
                failed = {folder.path for folder in result.failed}
                found = [f for f in found if display_path(f.path) not in failed]
    result.seconds = round(time.monotonic() - started, 3)
    return result


def _embed_all(
    context: EmbedContext,
    folders: Sequence[Folder],
    packer: Packer,
    result: EmbedIntoResult,
    progress: Callable[[str], None],
) -> None:
    if notice := context.encoder_config.first_load_notice():
        progress(notice)
    report = _Progress(context.recipe.encoder, result.tracks, progress)
    problems = {f.path: _unreadable(f) for f in folders if f.digest is None}
    left = {f.path: f for f in folders if f.path not in problems}

    def on_track(row: Embedding) -> None:
        packer.add(row)
        report.add(row)

    for failed_tries, pause in enumerate(PAUSES):
        time.sleep(pause)
        try:
            for path, outcome in _outcomes(context, list(left.values()), on_track, failed_tries):
                if isinstance(outcome, EmbedResult):
                    del left[path]
                    report.done(_with_vectors(context, path))
                    continue
                if isinstance(outcome, FolderChanged):
                    context.tables.mark_dirty(folder_id(context.library.name, path))
                problems[path] = str(outcome)
        except TransientError as error:
            if failed_tries == len(PAUSES) - 1:
                raise
            progress(str(error))
        if not left:
            break
    not_done = [f.path for f in folders if f.digest is None or f.path in left]
    result.embedded += report.embedded
    there = report.with_vectors + sum(_with_vectors(context, path) for path in left)
    result.reused += there - report.embedded
    _list_problems(context, folders, not_done, problems, result)


def _unreadable(folder: Folder) -> str:
    return f"it cannot be read: {folder.error}; check its permissions and the disk"


def _outcomes(
    context: EmbedContext,
    folders: list[Folder],
    on_track: Callable[[Embedding], None],
    failed_tries: int,
) -> Iterator[tuple[bytes, EmbedResult | BaseException]]:
    """As `scan_and_embed`, with processes of its own; what stops every folder is raised."""
    seconds = context.recipe.window_seconds
    with (
        open_pool(min(cpu_count(), 8)) as scanners,
        # Fewer after each failed attempt, as lack of memory may have killed the workers.
        open_embedders(context.encoder_config, seconds, failed_tries) as workers,
        closing(scan_and_embed(context, folders, scanners, workers, on_track)) as outcomes,
    ):
        for path, outcome in outcomes:
            mounted = not isinstance(outcome, LibraryUnavailable)
            if isinstance(outcome, ConfigurationError) and mounted:
                raise outcome
            yield path, outcome


def _with_vectors(context: EmbedContext, path: bytes) -> int:
    """Tracks of a folder that have vectors."""
    folder = folder_id(context.library.name, path)
    return context.tables.folder_totals(folder, context.recipe.digest).embedded


def _list_problems(
    context: EmbedContext,
    folders: Sequence[Folder],
    left: Collection[bytes],
    problems: Mapping[bytes, str],
    result: EmbedIntoResult,
) -> None:
    looked_at = {folder.path for folder in folders}
    listed = {track.path for track in result.rejected}
    result.rejected += [
        RejectedTrack(display_path(p.path), p.reason, p.message or "")
        for p in queries.rejected_tracks(context.tables, context.recipe.digest)
        if p.folder in looked_at and display_path(p.path) not in listed
    ]
    result.failed += [
        UnfinishedFolder(display_path(path), problems.get(path, "not reached: start it again"))
        for path in left
    ]


class _Progress:
    """Prints a line now and then, as `sync` does."""

    def __init__(self, encoder: str, files: int, progress: Callable[[str], None]) -> None:
        self.encoder, self.files, self.progress = encoder, files, progress
        self.began = self.said = time.monotonic()
        self.embedded = self.rejected = 0
        """Since it began."""
        self.with_vectors = 0
        """Of the folders that are done."""

    def add(self, row: Embedding) -> None:
        """A track was embedded or rejected."""
        if row.reason is None:
            self.embedded += 1
        else:
            self.rejected += 1
        self._say()

    def done(self, with_vectors: int) -> None:
        """A folder is done; `with_vectors`: how many of its tracks have vectors."""
        self.with_vectors += with_vectors
        self._say()

    def _say(self) -> None:
        at = time.monotonic()
        if at - self.said < SAY_SECONDS or not self.embedded:
            return
        self.said = at
        done = max(self.with_vectors, self.embedded)
        rate = self.embedded / (at - self.began)
        left = max(self.files - done - self.rejected, 0)
        self.progress(
            f"{done} of {self.files} tracks embedded with {self.encoder}, {rate:.1f} tracks/s"
            + (f", {duration(left / rate)} to go" if left else "")
        )


def _chosen(root: Path, folders: Sequence[str]) -> list[Folder]:
    """The music folders of the library, or those in `folders` and below."""
    found = list(walk(root))
    if not folders:
        return found
    wanted = {name: _relative(root, name) for name in folders}
    for name, path in wanted.items():
        if not any(_covers(path, folder.path) for folder in found):
            raise NotFound(f"{name!r}: there is no music folder with that name in {root}")
    return [f for f in found if any(_covers(path, f.path) for path in wanted.values())]


def _relative(root: Path, name: str) -> bytes:
    inside = os.path.relpath(name, root) if os.path.isabs(name) else os.path.normpath(name)
    return b"" if inside == "." else os.fsencode(inside)


def _covers(wanted: bytes, path: bytes) -> bool:
    return not wanted or path == wanted or path.startswith(wanted + b"/")
