"""Embedding one folder: the window vectors of every track that has none yet under the recipe.

Decode, encode and store happen in worker processes, a track at a time (`embed_track.py`); here is
decided what is embedded, what is reused, and how a failure becomes a rejected row or a retry.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from embed_assets.errors import TrackRejected, TransientError
from embed_assets.identity import Recipe, display_path, folder_id, local_path
from embed_assets.library.manifest import Library
from embed_assets.library.walk import require_library
from embed_assets.rows import Embedding
from embed_assets.tables import Tables
from embed_assets.vectors.decode_ahead import DecodeAhead
from embed_assets.vectors.embed_track import Done, EncoderChoice, Job, embed_track
from embed_assets.vectors.store import Store
from embed_assets.workers import Pool


@dataclass(frozen=True)
class EmbedResult:
    """What became of a folder's tracks; the seconds are summed over the workers."""

    embedded: int = 0
    reused: int = 0
    rejected: int = 0
    audio_seconds: float = 0.0
    decode_seconds: float = 0.0
    encode_seconds: float = 0.0
    store_seconds: float = 0.0
    load_seconds: float = 0.0
    engine: str = ""
    device: str = ""
    dtype: str = ""
    warning: str = ""


def embed_folder(
    library: Library,
    path: bytes,
    recipe: Recipe,
    choice: EncoderChoice,
    tables: Tables,
    store: Store,
    pool: Pool | DecodeAhead,
    *,
    run_id: str = "",
    again: bool = False,
    on_track: Callable[[Embedding], None] = lambda row: None,
) -> EmbedResult:
    """Embed the tracks of a folder that have no vectors under the recipe; `again` embeds all.

    Audio that is known under its hash is never embedded again, wherever it lies now.

    Raises:
        FolderChanged: a file changed since it was scanned; its vectors were not stored.
        TransientError: a file or the store could not be read or written.
        ConfigurationError: the encoder cannot be loaded.
    """
    folder = folder_id(library.name, path)
    known: set[str] = set()
    result = EmbedResult()
    problem: BaseException | None = None
    _forget_lost(tables, store, folder, recipe)
    total = tables.folder_totals(folder, recipe.digest)
    pending = tables.pending(folder, recipe.digest, again)
    root = require_library(library.root, may_be_empty=not pending)
    jobs = (
        Job(t, local_path(root, t.path), recipe, choice, store.root, run_id, again)
        for t in pending
        if not (t.audio_hash in known or known.add(t.audio_hash))
    )
    for job, outcome in pool.allowing(_more_seconds).run(embed_track, jobs):
        if isinstance(outcome, TrackRejected):
            done = Done(_rejected(job, outcome), 0.0, 0.0, 0.0)
        elif isinstance(outcome, BaseException):
            # The others go on: what is finished needs no second try.
            problem = problem or _as_problem(job, outcome)
            continue
        else:
            done = outcome
        tables.put_embeddings([done.row])
        on_track(done.row)
        result = _add(result, done)
    if problem is not None:
        raise problem
    reused = max(total.embedded - (result.embedded if again else 0), 0)
    return replace(result, reused=result.reused + reused + len(pending) - len(known))


def _more_seconds(job: Job) -> float:
    """Hours of audio take their time: ten times what a slow core needs for them with MuQ."""
    planned = job.recipe.windows * job.recipe.window_seconds
    return 5.0 * min(job.track.duration, planned or job.track.duration)


def _forget_lost(tables: Tables, store: Store, folder: str, recipe: Recipe) -> None:
    """Have audio embedded again whose vectors are gone from the store, all of it at once."""
    for track in list(tables.embeddable(folder, recipe.digest)):
        if not store.has(recipe.digest, track.audio_hash or ""):
            tables.forget_embedding(recipe.digest, track.audio_hash or "")


def _rejected(job: Job, error: TrackRejected) -> Embedding:
    return Embedding(
        recipe=job.recipe.digest,
        audio_hash=job.track.audio_hash or "",
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
            " disk; it is tried again"
        )
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
