"""`sync`: evaluates the library once, executes the runs it needs, and waits until they are done.

Works with or without `up`: it waits for runs that others started, and executes the rest itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from multiprocessing import connection
from typing import TYPE_CHECKING

from embed_assets.defs.activity import cause_of
from embed_assets.defs.dead_runs import cancel_unserved_queue, only_the_daemon_runs, reap
from embed_assets.defs.evaluation import IMPORT_RUNS, Evaluation, evaluate, prepare, summary
from embed_assets.defs.execution import wrong_setting
from embed_assets.defs.host_check import spec_tags
from embed_assets.defs.instance import open_instance
from embed_assets.defs.partitions import key_of, path_of
from embed_assets.defs.run_requests import drop_already_requested, request_lock
from embed_assets.defs.state import embedding_at_once, fit_pools
from embed_assets.errors import ConfigurationError
from embed_assets.formats import counted
from embed_assets.identity import IndexSpec, folder_id
from embed_assets.library.left_out import LeftOut
from embed_assets.library.walk import require_library
from embed_assets.operations.compare_index import matches_tables
from embed_assets.operations.errors import problems
from embed_assets.operations.run_processes import (
    RunProcess,
    start_run,
    stopped_at_the_end,
    wait_for_record,
)
from embed_assets.operations.sync_by_daemon import refuse_to_remove, wait_for_daemon
from embed_assets.operations.sync_counts import counts_of, other_runs
from embed_assets.operations.sync_progress import SyncProgress
from embed_assets.operations.up import running_address
from embed_assets.planning.values import Policy, SensorCursor
from embed_assets.project import Project
from embed_assets.settings import Settings
from embed_assets.storage import looks, queries
from embed_assets.storage.owner import own_store
from embed_assets.storage.records import NOT_DONE

if TYPE_CHECKING:
    import dagster as dg

    from embed_assets.storage.tables import Tables

WAIT_SECONDS = 0.5
EVALUATE_SECONDS = 5.0
"""How often the library is evaluated while more runs could be started."""

PATIENCE_SECONDS = 10.0
"""If the retry interval of a failed folder is longer than this, `sync` does not wait for it."""

LOCK_SECONDS = 120.0
"""How long to wait while another `sync` or the sensor requests runs."""


@dataclass
class SyncResult:
    """What `sync --json` prints: the state of the library at the end, and what was done.

    What was done is counted over the runs of this `sync`, and those of a running `up` that ended
    meanwhile.
    """

    folders: int = 0
    """Music folders in the library."""
    tracks: int = 0
    """Audio files in the library."""
    rejected: int = 0
    """Of these, tracks that cannot be embedded, as `status` counts them; no failure."""
    embedded: int = 0
    """Tracks that were embedded."""
    reused: int = 0
    """Tracks of the folders that were indexed whose vectors were stored before."""
    words_embedded: int = 0
    """Tracks that were embedded for `find` with `EMBED_WORDS`, in addition."""
    removed: int = 0
    """Tracks that left a folder, including moved and rejected ones."""
    failed_folders: int = 0
    """Folders that failed or cannot be read; if there are any, the exit code is 1."""
    links_skipped: int = 0
    """Symbolic links that are not followed: they lead out of the library, or are broken."""
    words_missing: str = ""
    """Why nothing was embedded for `find`, e.g. that weights are missing; then the exit code is 1.
    Empty if it was, or is not wanted."""
    runs: list[str] = field(default_factory=list)
    """Ids of the Dagster runs that `sync` executed."""
    other_runs: list[str] = field(default_factory=list)
    """Ids of the runs of a running `up`, or of another `sync`, that ended meanwhile."""
    seconds: float = 0.0
    """How long it took, in seconds."""
    listed: bool = False
    """Whether `errors` lists anything; not printed."""

    def count(self, instance: dg.DagsterInstance, began: float) -> None:
        """Add what runs did that have ended since a moment, in seconds since 1970."""
        self.other_runs = list(other_runs(instance, began, self.runs))
        for name, n in counts_of(instance, [*self.runs, *self.other_runs]).items():
            setattr(self, name, n)

    def count_rejected(self, project: Project, spec: IndexSpec) -> None:
        """Count the tracks of the library that are rejected, by whichever run."""
        tables = project.tables
        key = spec.collection_key(project.uri)
        self.rejected = queries.counts(tables, spec.recipe.digest, key).rejected
        for_words = queries.rejects(tables, spec) if spec.words else ()
        self.listed = bool(self.failed_folders or self.rejected or next(iter(for_words), None))

    def as_json(self) -> dict[str, object]:
        """The object that `--json` prints."""
        printed = asdict(self) | {"seconds": round(self.seconds, 3)}
        del printed["listed"]
        return printed


def sync(
    settings: Settings,
    *,
    confirm_removals: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> SyncResult:
    """Bring the index up to date; folders that fail are counted, not raised.

    Raises:
        LibraryUnavailable: the library is not there, or so much of it is gone that a person must
            confirm the removals.
        ConfigurationError: encoder, weights, vectors or index cannot work as configured.
        TransientError: the place of the vectors is away, or looks unmounted.
    """
    started, began = time.monotonic(), time.time()
    project = Project.of(settings)
    index = project.index()
    tables, spec = index.tables, index.spec
    require_library(index.library.root, may_be_empty=confirm_removals)
    own_store(tables, index.store)
    cursor = SensorCursor()
    result = SyncResult()
    report = SyncProgress(project, spec, progress)
    compared, printed = False, ""
    running: list[RunProcess] = []
    ended: dict[str, tuple[str, str]] = {}
    left_out = LeftOut()
    with open_instance(settings) as instance, stopped_at_the_end(instance, running, progress):
        if only_the_daemon_runs(instance):
            return _by_daemon(instance, settings, project, progress, removals=confirm_removals)
        asked = looks.begin(tables)
        if running_address(settings) is None:
            # If an `up` is running, its settings decide how many GPUs are used.
            fit_pools(instance, project.vectors.device_slots(), project.backend)
        embedding = embedding_at_once(instance)
        runs_at_once = embedding + IMPORT_RUNS
        policy = Policy(
            settings.settle_seconds,
            settings.folders_per_run,
            max_new_runs=runs_at_once,
            max_import_runs=runs_at_once,
            encoders=embedding,
            removals_confirmed=confirm_removals,
            # Otherwise files that were just copied would be imported in many small runs.
            interactive=False,
        )
        while True:
            # Without `up`, no other process frees the folders and slots of dead runs.
            reap(instance)
            cancel_unserved_queue(instance)
            if cursor.resume is None:  # Otherwise the walk and its counts are continued.
                left_out = LeftOut()
            found = evaluate(instance, index, cursor, policy, left_out=left_out)
            with request_lock(instance, LOCK_SECONDS):
                found = drop_already_requested(instance, found, cursor)
                prepare(instance, index, found.plan)
                line, _, _ = summary(found).rpartition(" (")
                if line != printed and (found.plan.requests or not running):
                    printed = line
                    progress(line)
                report.files = found.plan.files
                tags = spec_tags(instance, index)
                begun = [start_run(settings, request, tags) for request in found.plan.requests]
                running.extend(begun)
                wait_for_record(begun, instance)
            if not running and not _is_waiting(found):
                if (
                    compared
                    or not _in_order(found, cursor)
                    or matches_tables(project, index, progress)
                ):
                    break
                compared = True
                continue

            def meanwhile() -> None:
                report()
                reap(instance)

            _wait(found, running, runs_at_once, meanwhile)
            for done in [r for r in running if r.done]:
                running.remove(done)
                cursor.record_end(done.request, time.time())
                run = done.run(instance)
                ended |= dict.fromkeys(done.request.keys, _end_of(run))
                if run is None:
                    continue
                result.runs.append(run.run_id)
                why = "" if run.is_success else _cause(instance, tables, run)
                word = f"FAILED: {why}" if why else "done"
                what = counted(len(done.request.keys), "folder")
                progress(f"run {run.run_id[:8]}, {what}: {word}")
                if not run.is_success and (wrong := wrong_setting(instance, run.run_id)):
                    # Every other run would fail for the same reason, after all its work.
                    raise ConfigurationError(wrong)
        looks.finish(tables, asked)
        result.folders, result.tracks = found.plan.folders, found.plan.files
        result.links_skipped = left_out.links
        result.failed_folders = len(cursor.attempts) + found.plan.unreadable
        result.count(instance, began)
    _note_ends(settings, project, {k: v for k, v in ended.items() if k in cursor.attempts})
    result.count_rejected(project, spec)
    result.words_missing = project.vectors.words_missing()
    result.seconds = time.monotonic() - started
    return result


def _by_daemon(
    instance: dg.DagsterInstance,
    settings: Settings,
    project: Project,
    progress: Callable[[str], None],
    *,
    removals: bool,
) -> SyncResult:
    if removals:
        refuse_to_remove()
    started, began = time.monotonic(), time.time()
    waited = wait_for_daemon(instance, project, project.index(), settings.settle_seconds, progress)
    plan = waited.found.plan
    result = SyncResult(
        folders=plan.folders,
        tracks=plan.files,
        failed_folders=waited.failed_folders + plan.unreadable,
        links_skipped=waited.left_out.links,
        words_missing=project.vectors.words_missing(),
    )
    result.count(instance, began)
    result.count_rejected(project, project.spec())
    result.seconds = time.monotonic() - started
    return result


def _cause(instance: dg.DagsterInstance, tables: Tables, run: dg.DagsterRun) -> str:
    """Why a run failed: the reason of a folder, or else of the run."""
    mine = (f.message for f in queries.failed_folders(tables) if f.run_id == run.run_id)
    return next(mine, "") or cause_of(instance, run.run_id)


def _end_of(run: dg.DagsterRun | None) -> tuple[str, str]:
    """The id of a run that has ended (empty if it never began), and how it ended, in words."""
    if run is None:
        return "", (
            "the process of its run died before the run began: is the memory or the disk full?"
        )
    if run.is_success:
        return run.run_id, "it changed again after its run"
    return run.run_id, f"its run ended early ({run.status.value.lower()}); its log says why"


def _note_ends(settings: Settings, project: Project, ended: Mapping[str, tuple[str, str]]) -> None:
    """Record folders that are not done and have no reason yet, for `errors`."""
    explained = {key_of(p.folder) for p in problems(settings, project)} if ended else set()
    for key in ended.keys() - explained:
        run_id, why = ended[key]
        path = path_of(key)
        folder = folder_id(project.library.name, path)
        message = f"{why}; it is retried automatically"
        project.tables.put_failures([(folder, path)], NOT_DONE, message, run_id, unless_known=True)


def _is_waiting(found: Evaluation) -> bool:
    plan = found.plan
    soon = plan.next_attempt_in is not None and plan.next_attempt_in <= PATIENCE_SECONDS
    more = bool(plan.requests or plan.retire or plan.running or not found.complete)
    return more or plan.debounced_in is not None or soon


def _in_order(found: Evaluation, cursor: SensorCursor) -> bool:
    """Whether every folder is up to date by the tables; only then is the index compared."""
    return not cursor.attempts and not found.plan.backing_off


def _wait(
    found: Evaluation, running: list[RunProcess], runs_at_once: int, meanwhile: Callable[[], None]
) -> None:
    """Wait until a run ends, or until something may be due."""
    due = [t for t in (found.plan.debounced_in, found.plan.next_attempt_in) if t is not None]
    if not running:
        if due or found.plan.running:
            time.sleep(max(WAIT_SECONDS, min(due, default=WAIT_SECONDS)))
        return
    room = len(running) < runs_at_once
    seconds = max(WAIT_SECONDS, min([*due, EVALUATE_SECONDS])) if room else EVALUATE_SECONDS
    while not connection.wait([r.process.sentinel for r in running], seconds):
        meanwhile()
        if room:
            return
