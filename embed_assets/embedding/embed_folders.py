"""Embedding folders: window vectors for each track that has none under the recipe.

Worker processes decode, encode and store one track at a time (`embed_track.py`). This module
decides what is embedded, what is reused, and whether a failure becomes a rejected row or a retry.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from embed_assets.embedding.decode_ahead import DecodeAhead
from embed_assets.embedding.embed_track import Done, Job, embed_track
from embed_assets.encoders.config import EncoderConfig
from embed_assets.errors import TrackRejected, TransientError
from embed_assets.identity import FolderId, Recipe, TrackId, display_path, folder_id, local_path
from embed_assets.library.manifest import MusicFolder
from embed_assets.library.walk import library_in_a_run
from embed_assets.storage.records import Embedding, Track
from embed_assets.storage.tables import Tables
from embed_assets.storage.vector_store import Store
from embed_assets.workers import Pool


@dataclass(frozen=True)
class EmbedResult:
    """The outcome of a folder; the seconds of the stages are summed over the workers.

    `seconds`: from the start of its first track to the end of its last one; neighbouring folders
    overlap.
    """

    embedded: int = 0
    reused: int = 0
    rejected: int = 0
    seconds: float = 0.0
    audio_seconds: float = 0.0
    decode_seconds: float = 0.0
    encode_seconds: float = 0.0
    store_seconds: float = 0.0
    load_seconds: float = 0.0
    engine: str = ""
    device: str = ""
    dtype: str = ""
    warning: str = ""


@dataclass(frozen=True)
class EmbedContext:
    """What embedding works with: the library, the encoder, and where vectors are stored.

    `run_id` is recorded with each vector; `force` also embeds tracks that have vectors. `last`: the
    tracks are not embedded under another recipe afterwards, so that a retry is done.
    """

    library: MusicFolder
    recipe: Recipe
    encoder_config: EncoderConfig
    tables: Tables
    store: Store
    run_id: str = ""
    force: bool = False
    last: bool = True


def embed_folders(
    context: EmbedContext,
    paths: Iterable[bytes],
    pool: Pool | DecodeAhead,
    on_track: Callable[[Embedding], None] | None = None,
    before_first: Callable[[], None] = lambda: None,
) -> Iterator[tuple[bytes, EmbedResult | BaseException]]:
    """Embed the tracks of folders that have no vectors under the recipe.

    Yields each folder with its outcome, when it is done. The next folder starts while the last
    tracks of the previous one are in progress, so no worker is idle. Audio with a known hash is
    never embedded again, wherever it is now. `on_track` gets the row of each finished track.
    `before_first` is called before the first track that has no stored vectors; what it raises ends
    the generator.

    If tracks fail, the folder's outcome is the first error; the other tracks are kept:
        FolderChanged: a file changed since it was scanned; its vectors were not stored.
        TransientError: a file or the store could not be read or written.
        ConfigurationError: the encoder cannot be loaded, or the library is missing.
    """
    under_way = _UnderWay(context)
    jobs = _asking(before_first, under_way.first_tries(paths))
    while True:
        for job, outcome in pool.allowing(more_seconds).run(embed_track, jobs):
            row = under_way.take(job, outcome)
            if row is not None and on_track is not None:
                on_track(row)
            yield from under_way.finished()
        if not under_way.unsettled:
            break
        jobs = under_way.next_tries()
    yield from under_way.finished()


def _asking(before_first: Callable[[], None], jobs: Iterable[Job]) -> Iterator[Job]:
    asked = False
    for job in jobs:
        if not asked and (job.force or not _is_stored(job)):
            before_first()
            asked = True
        yield job


def _is_stored(job: Job) -> bool:
    return job.store.has(job.recipe.digest, job.track.audio)


@dataclass
class _Folder:
    """A folder in progress. `open`: its tracks without an outcome yet.

    `asked`: ids of tracks for which a person requested a retry.
    """

    path: bytes
    result: EmbedResult = field(default_factory=EmbedResult)
    problem: BaseException | None = None
    started: float = field(default_factory=time.monotonic)
    open: int = 0
    asked: set[TrackId] = field(default_factory=set)

    def count(self, row: Embedding) -> None:
        """Count a track whose audio was embedded by the job of another track."""
        name = "reused" if row.reason is None else "rejected"
        self.result = replace(self.result, **{name: getattr(self.result, name) + 1})

    def outcome(self) -> tuple[bytes, EmbedResult | BaseException]:
        seconds = time.monotonic() - self.started
        return self.path, self.problem or replace(self.result, seconds=seconds)


class _UnderWay:
    """The folders in progress, and their tracks without an outcome yet, by audio."""

    def __init__(self, context: EmbedContext) -> None:
        self.context = context
        self.unsettled: list[tuple[_Folder, Track]] = []
        """Tracks that waited for another file with the same audio, and that file failed."""
        self._claims: dict[str, list[tuple[_Folder, Track]]] = {}
        self._since: dict[str, Embedding] = {}
        """What was embedded since the tracks of the last folder were chosen."""
        self._done: list[_Folder] = []

    def first_tries(self, paths: Iterable[bytes]) -> Iterator[Job]:
        """A job for each track to embed, folder by folder."""
        for path in paths:
            folder = _Folder(path)
            self._since.clear()
            try:
                pending = _pending(self.context, folder)
            except Exception as error:  # noqa: BLE001  # it is the folder's, and raised for it
                folder.problem, pending = error, []
            folder.open = len(pending)
            yield from self._jobs(folder, pending)
            if not pending:
                self._done.append(folder)

    def next_tries(self) -> Iterator[Job]:
        """A job for each audio in `unsettled`, with another file: it may be intact."""
        unsettled, self.unsettled = self.unsettled, []
        for folder, track in unsettled:
            yield from self._jobs(folder, [track])

    def take(self, job: Job, outcome: Done | BaseException) -> Embedding | None:
        """Record the outcome of a track; returns its row, or None if it is to be retried."""
        (first, _), *others = self._claims.pop(job.track.audio)
        row = _take(first, job, outcome, self.context)
        settled = [first]
        if row is None:
            self.unsettled += others
        else:
            self._since[job.track.audio] = row
            for folder, _ in others:
                folder.count(row)
                settled.append(folder)
        for folder in settled:
            self._settle(folder)
        return row

    def _settle(self, folder: _Folder) -> None:
        """A track of a folder has its outcome."""
        folder.open -= 1
        if not folder.open:
            self._done.append(folder)

    def finished(self) -> Iterator[tuple[bytes, EmbedResult | BaseException]]:
        """Each folder that is done and was not yet yielded."""
        while self._done:
            yield self._done.pop(0).outcome()

    def _jobs(self, folder: _Folder, tracks: Iterable[Track]) -> Iterator[Job]:
        context = self.context
        for track in tracks:
            if (row := self._since.get(track.audio)) is not None:
                folder.count(row)
                self._settle(folder)
                continue
            mine = self._claims.setdefault(track.audio, [])
            mine.append((folder, track))
            # Wait if another file with the same audio is in progress.
            if len(mine) == 1:
                yield Job(
                    track,
                    local_path(context.library.root or "", track.path),
                    context.recipe,
                    context.encoder_config,
                    context.store,
                    context.run_id,
                    context.force or track.track_id in folder.asked,
                )


def _pending(context: EmbedContext, folder: _Folder) -> list[Track]:
    """The tracks to embed; tracks that have vectors are counted as reused."""
    library, tables, recipe = context.library, context.tables, context.recipe
    name = folder_id(library.name, folder.path)
    _forget_lost(tables, context.store, name, recipe)
    total = tables.folder_totals(name, recipe.digest)
    pending = tables.pending(name, recipe.digest, force=context.force)
    folder.asked = tables.asked_again(name)
    library_in_a_run(library.root, may_be_empty=not pending)
    if not context.force:
        folder.result = EmbedResult(reused=total.embedded)
    return pending


def _take(
    folder: _Folder, job: Job, outcome: Done | BaseException, context: EmbedContext
) -> Embedding | None:
    """Record the outcome of a track; None: its folder is retried."""
    if isinstance(outcome, TrackRejected):
        outcome = Done(_rejected(job, outcome), 0.0, 0.0, 0.0)
    elif isinstance(outcome, BaseException):
        # The other tracks continue: finished ones need no retry.
        folder.problem = folder.problem or _as_problem(job, outcome)
        return None
    try:
        context.tables.put_embeddings([outcome.row], finished=context.last, keep=not job.force)
    except TransientError as error:
        folder.problem = folder.problem or error
        return None
    folder.result = _add(folder.result, outcome)
    return outcome.row


def more_seconds(job: Job) -> float:
    """Extra seconds for long audio: ten times what a slow core needs for it with MuQ."""
    planned = job.recipe.windows * job.recipe.window_seconds
    return 5.0 * min(job.track.duration, planned or job.track.duration)


def _forget_lost(tables: Tables, store: Store, folder: FolderId, recipe: Recipe) -> None:
    """Forget embeddings whose vectors are known to be lost, so that they are embedded again."""
    embedded = [track.audio for track, _ in tables.indexable(folder, recipe.digest)]
    for audio_hash in store.known_lost(recipe.digest, embedded):
        tables.forget_embedding(recipe.digest, audio_hash)


def _rejected(job: Job, error: TrackRejected) -> Embedding:
    return Embedding(
        recipe=job.recipe.digest,
        audio_hash=job.track.audio,
        reason=str(error.reason),
        message=error.message,
        run_id=job.run_id,
        at=time.time(),
    )


def _as_problem(job: Job, error: BaseException) -> BaseException:
    if isinstance(error, OSError):
        name = display_path(job.track.path)
        return TransientError(
            f"{name}: cannot be read: {error.strerror or error}; check its permissions and the"
            " disk; it will be retried"
        )
    if type(error) is TransientError:
        return TransientError(f"{display_path(job.track.path)}: {error}")
    return error


def _add(result: EmbedResult, done: Done) -> EmbedResult:
    ok = done.row.reason is None
    return replace(
        result,
        embedded=result.embedded + (ok and not done.found),
        reused=result.reused + done.found,
        rejected=result.rejected + (not ok),
        audio_seconds=result.audio_seconds + done.row.decoded_seconds,
        decode_seconds=result.decode_seconds + done.decode_seconds,
        encode_seconds=result.encode_seconds + done.encode_seconds,
        store_seconds=result.store_seconds + done.store_seconds,
        load_seconds=result.load_seconds + done.load_seconds,
        engine=done.row.engine or result.engine,
        device=done.row.device or result.device,
        dtype=done.row.dtype or result.dtype,
        warning=done.warning or result.warning,
    )
