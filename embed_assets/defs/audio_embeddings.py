"""The asset `audio_embeddings`: the window vectors of each track, or the reason why it has none."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeGuard

import dagster as dg

from embed_assets.defs.canary import check_before_embedding
from embed_assets.defs.checks import READABLE, every_track_readable
from embed_assets.defs.dead_runs import refuse_ended_run
from embed_assets.defs.execution import (
    GPU_POOL,
    RETRIES,
    no_retry_on_interrupt,
    wrong_settings_fail_at_once,
)
from embed_assets.defs.host_check import refuse_other_host
from embed_assets.defs.partitions import MUSIC_FOLDERS, key_of
from embed_assets.defs.ranged_run import (
    Progress,
    each_folder,
    folder_metadata,
    note_changed,
    note_failure,
    rejects_of,
)
from embed_assets.defs.resources import (
    EncoderResource,
    LibraryResource,
    MilvusResource,
    StateResource,
)
from embed_assets.defs.track_manifest import track_manifest
from embed_assets.embedding.decode_ahead import DecodeAhead, open_embedders
from embed_assets.embedding.embed_folders import EmbedContext, EmbedResult, embed_folders
from embed_assets.errors import ConfigurationError, FolderChanged, LibraryUnavailable
from embed_assets.identity import FolderId, folder_id
from embed_assets.storage import queries
from embed_assets.storage.owner import own_store
from embed_assets.storage.records import Embedding
from embed_assets.workers import Pool

LAST_TRY = RETRIES.max_retries
"""Number of the last retry of the step."""

REUSED = "none: all vectors were reused"

COLUMNS = dg.TableSchema(
    [
        dg.TableColumn("recipe", "string", "digest of everything that determines a vector"),
        dg.TableColumn("audio_hash", "string", "hash of the encoded audio"),
        dg.TableColumn("windows", "int", "number of stored window vectors"),
        dg.TableColumn("decoded_seconds", "float", "seconds of audio in the windows"),
        dg.TableColumn(
            "note", "string", "what was damaged, if only part of the audio could be used"
        ),
        dg.TableColumn("reason", "string", "why the track was rejected, if it was"),
        dg.TableColumn("engine", "string"),
        dg.TableColumn("device", "string"),
        dg.TableColumn("dtype", "string"),
        dg.TableColumn("run_id", "string", "the run that embedded it"),
    ]
)


class EmbedConfig(dg.Config):
    """Options of a run that a person launches."""

    embed_again: bool = False
    """Embed tracks that have vectors already."""
    retry_rejected: bool = False
    """Retry rejected tracks even if their files did not change."""


@dg.asset(
    deps=[track_manifest],
    partitions_def=MUSIC_FOLDERS,
    group_name="music",
    kinds={"python", "pytorch"},
    pool=GPU_POOL,
    retry_policy=RETRIES,
    check_specs=[READABLE],
    metadata={"dagster/column_schema": COLUMNS},
    description=(
        "Window vectors of the folder's tracks. They depend on the audio and the recipe only and"
        " are stored once: moved, copied or retagged audio is never embedded again. Bad tracks are"
        " rejected with a reason and do not hold back the others. With EMBED_WORDS all are embedded"
        " once more, for `find`, by another encoder, after the first one was unloaded."
    ),
)
@no_retry_on_interrupt("audio_embeddings")
def audio_embeddings(
    context: dg.AssetExecutionContext,
    config: EmbedConfig,
    library: LibraryResource,
    state: StateResource,
    encoder: EncoderResource,
    milvus: MilvusResource,
) -> dg.MaterializeResult:  # type: ignore[type-arg]  # Dagster wants the bare class
    """Embed the tracks without vectors, in each folder of the run."""
    refuse_ended_run(context)
    refuse_other_host(context, library, state, encoder, milvus)
    music, tables = library.library(), state.tables()
    vectors = encoder.vectors()
    with wrong_settings_fail_at_once("audio_embeddings"):
        spec = vectors.spec()
        passes = vectors.passes(spec)
        for _, encoder_config in passes:
            encoder_config.require()
    if missing := vectors.words_missing():
        context.log.warning(f"nothing is embedded for `find`: {missing}")
    last = spec.recipes[-1]

    def embed(paths: list[bytes]) -> Outcomes:
        # Before anything counts as lost: without its disk, a folder of vectors is empty.
        store = own_store(tables, state.store())
        first = EmbedContext(
            music, spec.recipe, vectors.tracks, tables, store, context.run_id, config.embed_again
        )
        works = [
            replace(first, recipe=recipe, encoder_config=encoder_config, last=recipe == last)
            for recipe, encoder_config in passes
        ]
        return _in_turn(context, works, paths, retry_rejected=config.retry_rejected)

    each_folder(context, music, tables, embed)
    return dg.MaterializeResult(check_results=[every_track_readable(tables, spec)])


Outcomes = Iterator[tuple[bytes, dict[str, Any] | BaseException]]
"""Each folder with its metadata, or what went wrong."""


def _in_turn(
    context: dg.AssetExecutionContext,
    works: Sequence[EmbedContext],
    paths: list[bytes],
    *,
    retry_rejected: bool,
) -> Outcomes:
    """Embed the folders with one encoder after the other, so that one at a time is in memory.

    A folder that failed with an encoder is left out of what the next ones do. One that fails with
    the encoder of words only is retried like others; after the last try, or at once if no retry can
    help, it is done as far as searches by sound need it, stays out of date, and `errors` lists it.
    """
    done: dict[bytes, dict[str, Any]] = {path: {} for path in paths}
    for work in works:
        first = work is works[0]
        step = _Step(context, work, list(done), retry_rejected=retry_rejected, beside=not first)
        last_try = context.retry_number >= LAST_TRY
        for path, outcome in step.embed_all() if first else step.outcomes(last_try=last_try):
            made = outcome
            if not first and _is_for_words_only(outcome, last_try=last_try):
                stage = context.asset_key.path[-1]
                note_failure(context, work.library, work.tables, key_of(path), stage, outcome)
                made = {"failed": str(outcome)}
            if isinstance(made, BaseException):
                del done[path]
                yield path, made
                continue
            done[path] |= made if first else _of_words(made)
            if work.last:
                yield path, done[path]


def _is_for_words_only(outcome: object, *, last_try: bool) -> TypeGuard[Exception]:
    """Whether what failed with the encoder of words leaves a folder done for searches by sound."""
    if not isinstance(outcome, Exception) or isinstance(outcome, LibraryUnavailable):
        return False
    return last_try or isinstance(outcome, ConfigurationError)


def _of_words(metadata: dict[str, Any]) -> dict[str, Any]:
    """What the metadata of a folder says of its vectors for `find`."""
    counts = ("embedded", "reused", "rejected", "rejects", "failed")
    names = (*counts, "seconds", "engine", "engine_warning")
    return {f"words_{name}": metadata[name] for name in names if name in metadata}


class _Step:
    """What one encoder does in an execution of the asset; `beside`: it is not that of tracks."""

    def __init__(
        self,
        run: dg.AssetExecutionContext,
        work: EmbedContext,
        paths: list[bytes],
        *,
        retry_rejected: bool,
        beside: bool,
    ) -> None:
        self.beside = beside
        self.run = run
        self.work = work
        self.paths = paths
        self.retry_rejected = retry_rejected
        totals = [
            work.tables.folder_totals(self._folder(path), work.recipe.digest) for path in paths
        ]
        self.any_pending = any(t.pending for t in totals)
        self.progress = Progress(run.log.info, sum(t.tracks for t in totals))
        self.progress.known(
            reused=sum(t.embedded for t in totals),
            rejected=sum(t.rejected + t.unreadable for t in totals),
        )
        self._spent: Counter[str] = Counter()
        self._warned: set[str] = set()

    def embed_all(self) -> Outcomes:
        """Embed the folders, in processes of their own, and log what was done."""
        encoder_config, log = self.work.encoder_config, self.run.log
        if self.any_pending and (wait := encoder_config.first_load_notice()):
            log.info(wait)
        # Fewer after each failed attempt, as lack of memory may have killed the workers.
        seconds, failed_tries = self.work.recipe.window_seconds, self.run.retry_number
        with open_embedders(encoder_config, seconds, failed_tries) as pool:
            yield from self._embed(self.paths, pool)
        log.info(f"{encoder_config.name}: {self.progress.line()}")
        log.info(self.seconds_line())

    def outcomes(self, *, last_try: bool) -> Outcomes:
        """The same for words; an error that ends it for them only is that of each folder left."""
        left = dict.fromkeys(self.paths)
        try:
            for path, outcome in self.embed_all():
                del left[path]
                yield path, outcome
        except Exception as error:
            if not _is_for_words_only(error, last_try=last_try):
                raise
            yield from ((path, error) for path in left)

    def _embed(self, paths: list[bytes], pool: Pool | DecodeAhead) -> Outcomes:
        music, tables = self.work.library, self.work.tables
        changed: list[bytes] = []
        for path, outcome in embed_folders(
            self.work,
            self._unchanged(paths, changed),
            pool,
            self._count,
            lambda: check_before_embedding(self.run, self.work, pool, beside=self.beside),
        ):
            if isinstance(outcome, FolderChanged):
                tables.mark_dirty(self._folder(path))
                yield path, note_changed(self.run, music, tables, path, str(outcome))
            elif isinstance(outcome, BaseException):
                yield path, outcome
            else:
                self._warn(outcome.warning)
                yield path, folder_metadata(music, path) | self._metadata(path, outcome)
        for path in changed:
            looked_at = {"changed_meanwhile": "the folder is looked at again"}
            yield path, folder_metadata(music, path) | looked_at

    def seconds_line(self) -> str:
        """Seconds of each stage over all folders, for the log."""
        seconds = ", ".join(
            f"{s:.1f} {name.removeprefix('seconds_')}" for name, s in self._spent.items()
        )
        return f"seconds, summed over the workers: {seconds or 'none'}".replace("_", " ")

    def _folder(self, path: bytes) -> FolderId:
        return folder_id(self.work.library.name, path)

    def _unchanged(self, paths: list[bytes], changed: list[bytes]) -> Iterator[bytes]:
        """The folders whose manifest is complete; others are added to `changed`."""
        tables = self.work.tables
        for path in paths:
            folder = self._folder(path)
            if self.retry_rejected:
                tables.forget_rejected(folder, self.work.recipe.digest)
            if tables.digest(folder) is None:
                changed.append(path)
            else:
                yield path

    def _count(self, row: Embedding) -> None:
        self.progress.add("rejected" if row.reason else "embedded")

    def _warn(self, warning: str) -> None:
        if warning and warning not in self._warned:
            self._warned.add(warning)
            self.run.log.warning(warning)

    def _metadata(self, path: bytes, result: EmbedResult) -> dict[str, Any]:
        folder, recipe, tables = self._folder(path), self.work.recipe, self.work.tables
        total = tables.folder_totals(folder, recipe.digest)
        seconds = {
            "seconds_loading_model": round(result.load_seconds, 3),
            "seconds_decoding": round(result.decode_seconds, 3),
            "seconds_in_encoder": round(result.encode_seconds, 3),
            "seconds_storing": round(result.store_seconds, 3),
        }
        self._spent.update(seconds)
        metadata = {
            "dagster/row_count": total.embedded,
            "tracks": total.tracks,
            "embedded": result.embedded,
            "reused": result.reused,
            "rejected": total.rejected + total.unreadable,
            **rejects_of(queries.folder_rejects(tables, folder, recipe.digest)),
            "audio_seconds": round(result.audio_seconds, 1),
            "seconds": round(result.seconds, 3),
            **seconds,
            "audio_seconds_per_second": round(result.audio_seconds / max(result.seconds, 1e-9), 1),
            "encoder": recipe.encoder,
            "weights": recipe.weights[:16],
            "engine": result.engine or REUSED,
            "device": result.device or REUSED,
            "dtype": result.dtype or REUSED,
        }
        return metadata | ({"engine_warning": result.warning} if result.warning else {})
