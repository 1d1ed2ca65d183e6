"""One evaluation of the library, as the sensor and `sync` do it: walk, compare, plan runs."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import dagster as dg

from embed_assets.context import IndexContext
from embed_assets.defs import state
from embed_assets.defs.execution import IN_PROCESS
from embed_assets.defs.partitions import key_of, names_of, path_of
from embed_assets.defs.ranged_run import FOLDERS_TAG, PRIORITY_TAG, REMOVE_TAG
from embed_assets.encoders.cards import card_of
from embed_assets.errors import ConfigurationError
from embed_assets.formats import counted
from embed_assets.identity import PartitionKey, folder_id
from embed_assets.index.folders import version_of, written_versions
from embed_assets.library import ctimes
from embed_assets.library.left_out import LeftOut
from embed_assets.library.partition_keys import about_many
from embed_assets.library.walk import Folder, order, require_library, walk
from embed_assets.planning.compare import compare, plan_removals
from embed_assets.planning.runs import plan_of, plan_runs, record_attempts, split_imports
from embed_assets.planning.values import (
    FolderSnapshot,
    Known,
    Plan,
    Policy,
    RunRequest,
    SensorCursor,
)
from embed_assets.storage import queries, retry_requests
from embed_assets.storage.records import EMPTY

LIVE_RUNS = 3
"""Live runs beside those that embed; more would only queue."""

IMPORT_RUNS = 1
"""How many of them are imports: one scans the next folders while the others embed."""

IMPORT_SECONDS = 600.0
"""Seconds of encoder time per run of an import. A new album waits for that run, since the encoder
serves one run at a time. Loading the model again for the next run costs a hundredth of it."""

FIRST_IMPORT_FILES = 100
"""Tracks per run before the encoder's speed was measured, unless it is quick on any machine."""


@dataclass(frozen=True)
class Evaluation:
    """The result of one evaluation; `complete`: the walk reached the end of the library.

    `newest_run`: the newest run when it began. `attempts_before`: the cursor's attempts before it.
    """

    plan: Plan
    complete: bool
    live_runs: int
    seconds: float
    newest_run: int
    attempts_before: dict[PartitionKey, tuple[str, int, float]]


def evaluate(
    instance: dg.DagsterInstance,
    context: IndexContext,
    cursor: SensorCursor,
    policy: Policy,
    budget_seconds: float = 45.0,
    left_out: LeftOut | None = None,
) -> Evaluation:
    """Compare the library with what is indexed; `cursor` is updated, nothing else is changed.

    A walk that takes longer than its budget continues at the next evaluation. `left_out` counts
    what this one leaves out.

    Raises:
        LibraryUnavailable: the library is missing, or so much of it that it looks unmounted.
    """
    started = time.monotonic()
    tables = context.tables
    root = require_library(context.library.root, may_be_empty=policy.removals_confirmed)
    # In this order, so that a run that ends between the two reads is not missed.
    newest_run = state.newest_run(instance)
    runs = state.live_runs(instance)
    known = _known(instance, context, runs)
    live, imports = state.count_runs(runs)
    free = max(0, policy.max_new_runs - live)
    policy = replace(
        policy,
        max_new_runs=free,
        max_import_runs=max(0, min(policy.max_import_runs - imports, free)),
        files_per_run=_files_per_run(context, policy),
    )
    for path, at in retry_requests.open_requests(tables).items():
        # A retry request ends the backoff.
        key = key_of(path)
        if key in cursor.attempts and cursor.attempts[key][2] < at:
            del cursor.attempts[key]
    steps = _Walk(walk(root, _path(cursor.resume), left_out), started + budget_seconds)
    ctimes_read = ctimes.known(tables, time.time())
    attempts_before = dict(cursor.attempts)
    walked = _snapshots(steps, context, known, ctimes_read)
    found = compare(walked, known, cursor, policy, time.time())
    missing = _missing(known, found.found, steps, _path(cursor.resume))
    if typed := [key for key in missing if _path(key) is None]:
        # Keys that were typed by hand: no run can process them, so they are removed.
        known = replace(known, indexed={**known.indexed, **dict.fromkeys(typed, EMPTY)})
    removals = plan_removals(
        missing, found, known, cursor, policy, time.time(), complete=steps.complete
    )
    requests = plan_runs(found, removals, known, policy)
    keys = [key for request in requests if request.is_import for key in request.keys]
    requests = split_imports(requests, found, _embedded(context, keys), policy)
    record_attempts(cursor, requests, found, removals, time.time())
    cursor.resume = None if steps.complete or steps.last is None else key_of(steps.last)
    return Evaluation(
        plan_of(requests, found, removals),
        steps.complete,
        live,
        time.monotonic() - started,
        newest_run,
        attempts_before,
    )


def prepare(instance: dg.DagsterInstance, context: IndexContext, plan: Plan) -> None:
    """Delete partitions of folders that are out of the index, and add missing partitions."""
    for key in plan.retire:
        instance.delete_dynamic_partition("music_folders", key)
        if (path := _path(key)) is not None:
            context.tables.forget_folder(folder_id(context.library.name, path))
    # Folders of a request must be neighbours, as a run covers a range of partitions.
    if keys := [*plan.adopt, *(key for request in plan.requests for key in request.keys)]:
        state.add_keys(instance, keys)


def run_tags(request: RunRequest) -> dict[str, str]:
    """Tags of the run of a request."""
    priority = "import" if request.is_import else "interactive"
    tags = state.range_tags(request.keys) | {
        PRIORITY_TAG: priority,
        FOLDERS_TAG: names_of(request.keys),
    }
    return tags | ({REMOVE_TAG: "true"} if request.remove else {})


def run_config(request: RunRequest) -> Mapping[str, object]:
    """Run config of the run of a request."""
    return {} if request.is_import else IN_PROCESS


def summary(found: Evaluation) -> str:
    """What an evaluation found, in one line."""
    plan = found.plan
    parts = [
        counted(plan.folders, "folder"),
        counted(plan.files, "file"),
        f"{plan.in_step} in step",
    ]
    again = f", the next in {plan.next_attempt_in:.0f} s" if plan.next_attempt_in else ""
    for n, what in (
        (plan.due, "to do"),
        (plan.running, "in runs"),
        (plan.backing_off, f"waiting after a failure{again}"),
        (plan.unreadable, "unreadable"),
        (len(plan.retire), "retired"),
    ):
        parts += [f"{n} {what}"] if n else []
    if plan.debounced_in is not None:
        parts.append("waiting until folders stop changing")
    if not found.complete:
        parts.append("the walk continues at the next look")
    if many := about_many(plan.folders):
        parts.append(many)
    return ", ".join(parts) + f" ({found.seconds:.1f} s)"


@dataclass
class _Walk:
    """A walk that stops when its time is up, and knows how far it came."""

    folders: Iterable[Folder]
    deadline: float
    complete: bool = False
    last: bytes | None = None
    unreadable: list[bytes] = field(default_factory=list)

    def __iter__(self) -> Iterator[Folder]:
        for folder in self.folders:
            self.last = folder.path
            if folder.digest is None:
                self.unreadable.append(folder.path)
            yield folder
            if folder.digest is not None and time.monotonic() > self.deadline:
                return
        self.complete = True


def _known(
    instance: dg.DagsterInstance, context: IndexContext, runs: Sequence[dg.DagsterRun]
) -> Known:
    partitions = state.known_keys(instance)
    indexed = written_versions(context.tables, context.spec, context.uri)
    there = set(partitions)
    return Known(
        partitions=partitions,
        indexed={key_of(path): version for path, version in indexed.items()},
        running=state.held_keys(runs, partitions),
        failed={key_of(path): own for path, own in queries.failures(context.tables).items()},
        unlisted=[
            key for _, path, _ in context.tables.folders() if (key := key_of(path)) not in there
        ],
    )


def _snapshots(
    folders: Iterable[Folder], context: IndexContext, known: Known, ctimes_read: dict[bytes, int]
) -> Iterator[FolderSnapshot]:
    for folder in folders:
        key = key_of(folder.path)
        if folder.digest is None:
            yield FolderSnapshot(key, None)
            continue
        version = version_of(folder.digest, context.spec)
        same = ctimes_read.get(folder.path, folder.ctimes) == folder.ctimes
        other = "" if same or known.indexed.get(key) != version else f"+{folder.ctimes:x}"
        yield FolderSnapshot(key, version, folder.files, folder.newest_ns / 1e9, other)


def _missing(
    known: Known, found: Collection[PartitionKey], steps: _Walk, after: bytes | None
) -> list[PartitionKey]:
    """Known folders that the walk did not find, in the part of the library that it covered.

    Folders below an unreadable folder do not count as missing.
    """
    missing = []
    for key in (*known.partitions, *known.unlisted):
        if key in found:
            continue
        path = _path(key)
        if path is None:
            missing.append(key)
            continue
        if any(not u or path.startswith(u + b"/") for u in steps.unreadable):
            continue
        begun = after is None or order(path) > order(after)
        ended = steps.complete or steps.last is None or order(path) <= order(steps.last)
        if begun and ended:
            missing.append(key)
    return missing


def _embedded(context: IndexContext, keys: Sequence[PartitionKey]) -> dict[PartitionKey, int]:
    """How many tracks of these folders have all their vectors or were rejected."""
    folders = {folder_id(context.library.name, path_of(key)): key for key in keys}
    found: dict[PartitionKey, int] = {}
    for recipe in context.spec.recipes:
        states = queries.folder_states(context.tables, folders, recipe.digest)
        for folder, one in states.items():
            done = one.tracks - one.pending
            found[folders[folder]] = min(found.get(folders[folder], done), done)
    return found


def _files_per_run(context: IndexContext, policy: Policy) -> int:
    """Tracks that all encoders together embed in `IMPORT_SECONDS`."""
    tables, total, unmeasured = context.tables, 0.0, False
    for recipe in context.spec.recipes:
        seconds = queries.seconds_per_track(tables, recipe.digest, 100 * policy.encoders)
        unmeasured |= seconds is None and not card_of(recipe.encoder).is_quick
        total += seconds or 0.0
    if unmeasured:
        return FIRST_IMPORT_FILES
    return max(1, int(IMPORT_SECONDS / total)) if total else policy.files_per_run


def _path(key: str | None) -> bytes | None:
    try:
        return None if key is None else path_of(key)
    except ConfigurationError:
        return None
