"""One look at the library, as sensor and `sync` take it: walk, compare, say what to run."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import dagster as dg

from embed_assets import asked, ctimes, reports
from embed_assets.defs import state
from embed_assets.defs.execution import IN_PROCESS
from embed_assets.defs.partitions import key_of, path_of
from embed_assets.defs.ranged_run import LANE_TAG, REMOVE_TAG
from embed_assets.encoders import is_quick
from embed_assets.errors import ConfigurationError
from embed_assets.identity import IndexSpec, folder_id
from embed_assets.index.folders import version_of, written_versions
from embed_assets.library.changes import decide
from embed_assets.library.left_out import LeftOut
from embed_assets.library.manifest import MusicFolder
from embed_assets.library.plan import EMPTY, Memory, Plan, Policy, Request, Seen
from embed_assets.library.walk import Folder, order, require_library, walk
from embed_assets.tables import Tables

LIVE_RUNS = 3
"""Runs that looks at the library keep alive beside those that embed; more would only queue."""

BULK_RUNS = 1
"""Of these, imports: one reads the next folders while the others embed."""


IMPORT_SECONDS = 600.0
"""A run of an import embeds for about so long: an album dropped meanwhile waits for it, since the
encoder does one run's work at a time. Loading MuQ again for the next run costs a hundredth."""

FIRST_IMPORT_FILES = 100
"""Tracks of a run while nobody knows how long one takes, unless the encoder is quick anywhere."""


@dataclass(frozen=True)
class Look:
    """What one look found; `complete` says that the walk reached the end of the library.

    `newest` is the youngest run as it began, `tries_before` the memory's tries before it asked.
    """

    plan: Plan
    complete: bool
    live_runs: int
    seconds: float
    newest: int
    tries_before: dict[str, tuple[str, int, float]]


def look(
    instance: dg.DagsterInstance,
    library: MusicFolder,
    tables: Tables,
    spec: IndexSpec,
    uri: str,
    memory: Memory,
    policy: Policy,
    budget_seconds: float = 45.0,
    left_out: LeftOut | None = None,
) -> Look:
    """Compare the library with Dagster's record; `memory` is updated, nothing else is changed.

    A walk that takes longer than its budget goes on at the next look. `left_out` counts what this
    one leaves out.

    Raises:
        LibraryUnavailable: the library is not there, or so much is gone that it looks unmounted.
    """
    started = time.monotonic()
    root = require_library(library.root, may_be_empty=policy.confirmed)
    # In this order: a run that ends between the two reads is then held or seen, never neither.
    newest = state.newest_run(instance)
    runs = state.live_runs(instance)
    known = state.known_keys(instance)
    held = state.held_keys(runs, known)
    have = _agreed(state.indexed_versions(instance), tables, spec, uri)
    for path, at in asked.open_requests(tables).items():
        key = key_of(path)
        have.pop(key, None)
        # It does not rest after tries that failed before a person asked for another one.
        if key in memory.tries and memory.tries[key][2] < at:
            del memory.tries[key]
    read = ctimes.known(tables, time.time())
    failed = {key_of(path): own for path, own in reports.failures(tables).items()}
    live, bulk = state.lanes(runs)
    policy = replace(
        policy,
        room=max(0, policy.room - live),
        bulk_room=max(0, min(policy.bulk_room - bulk, policy.room - live)),
        files_per_run=_files_per_run(tables, spec, policy),
    )
    after = None if memory.resume is None else path_of(memory.resume)
    last: bytes | None = None
    finished = True
    unreadable: list[bytes] = []

    def touched(folder: Folder, key: str, version: str) -> str:
        alike = read.get(folder.path, folder.ctimes) == folder.ctimes
        return "" if alike or have.get(key) != version else f"+{folder.ctimes:x}"

    def seen() -> Iterator[Seen]:
        nonlocal last, finished
        for folder in walk(root, after, left_out):
            last = folder.path
            key = key_of(folder.path)
            if folder.digest is None:
                unreadable.append(folder.path)
                yield Seen(key, None)
                continue
            version = version_of(folder.digest, spec)
            newest = folder.newest_ns / 1e9
            yield Seen(key, version, folder.files, newest, touched(folder, key, version))
            if time.monotonic() - started > budget_seconds:
                finished = False
                return

    def passed(key: str) -> bool:
        try:
            place = order(path_of(key))
        except ConfigurationError:
            # Typed in by hand: no run can do anything for it, so its partition goes.
            have[key] = EMPTY
            return True
        begun = after is None or place > order(after)
        return begun and (finished or last is None or place <= order(last))

    def below_unreadable(key: str) -> bool:
        try:
            path = path_of(key)
        except ConfigurationError:
            return False
        return any(not u or path.startswith(u + b"/") for u in unreadable)

    def embedded(keys: Sequence[str]) -> dict[str, int]:
        folders = {folder_id(library.name, path_of(key)): key for key in keys}
        found = reports.readiness(tables, folders, spec.recipe.digest)
        return {folders[f]: tracks - pending for f, (_, tracks, pending) in found.items()}

    tries_before = dict(memory.tries)
    plan = decide(
        seen(),
        known,
        have,
        held,
        memory,
        time.time(),
        policy,
        failed=failed,
        complete=lambda: finished,
        in_segment=passed,
        unreadable_above=below_unreadable,
        embedded=embedded,
    )
    memory.resume = None if finished or last is None else key_of(last)
    return Look(plan, finished, live, time.monotonic() - started, newest, tries_before)


def _files_per_run(tables: Tables, spec: IndexSpec, policy: Policy) -> int:
    seconds = reports.seconds_per_track(tables, spec.recipe.digest, 100 * policy.encoders)
    if seconds is None:
        return policy.files_per_run if is_quick(spec.recipe.encoder) else FIRST_IMPORT_FILES
    return max(1, int(IMPORT_SECONDS / seconds))


def _agreed(have: dict[str, str], tables: Tables, spec: IndexSpec, uri: str) -> dict[str, str]:
    """Versions that the tables know of as well, at this address.

    Dagster remembers what was done; whether it is still there, it cannot know. Tables that were
    deleted, another EMBED_MILVUS_URI and a deleted Lite file are found out here, at every look;
    what only the index knows, by the hourly reconciliation.
    """
    agreed = {key_of(path): v for path, v in written_versions(tables, spec, uri).items()}
    return {k: v for k, v in have.items() if v == EMPTY or agreed.get(k) == v}


def prepare(instance: dg.DagsterInstance, library: MusicFolder, tables: Tables, plan: Plan) -> None:
    """Retire folders that are out of the index, and add those that are to be run for."""
    for key in plan.retire:
        instance.delete_dynamic_partition("music_folders", key)
        try:
            tables.forget_folder(folder_id(library.name, path_of(key)))
        except ConfigurationError:
            continue
    keys = [key for request in plan.requests for key in request.keys if not request.remove]
    if keys:
        state.add_keys(instance, keys)


def run_tags(request: Request) -> dict[str, str]:
    """Tags of the run that does a request."""
    tags = state.range_tags(request.keys) | {LANE_TAG: "bulk" if request.bulk else "fresh"}
    return tags | ({REMOVE_TAG: "true"} if request.remove else {})


def run_config(request: Request) -> dict[str, object]:
    """How the steps of the run that does a request are executed."""
    return {} if request.bulk else IN_PROCESS


def summary(look: Look) -> str:
    """One line for people on what a look found."""
    plan = look.plan
    parts = [f"{plan.folders} folders, {plan.files} files", f"{plan.in_step} in step"]
    again = f", the next for {plan.next_try_in:.0f} s" if plan.next_try_in else ""
    for n, what in (
        (plan.due, "to do"),
        (plan.held, "in runs"),
        (plan.resting, f"resting after a failure{again}"),
        (plan.unreadable, "unreadable"),
        (len(plan.retire), "retired"),
    ):
        parts += [f"{n} {what}"] if n else []
    if plan.settles_in is not None:
        parts.append("waiting for folders to hold still")
    if not look.complete:
        parts.append("the walk goes on at the next look")
    return ", ".join(parts) + f" ({look.seconds:.1f} s)"
