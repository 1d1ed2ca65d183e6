"""Compares a walk with what is known: which folders are due, and which are missing."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from embed_assets.errors import LibraryUnavailable
from embed_assets.identity import PartitionKey
from embed_assets.planning.values import FolderSnapshot, Known, Policy, SensorCursor
from embed_assets.storage.records import EMPTY

BACKOFF = (60.0, 300.0, 1800.0, 10_800.0, 43_200.0)
"""Seconds until a version that failed 1, 2, 3, 4, 5 or more times is retried."""

SHORT_BACKOFF = (5.0, 60.0, 300.0, 1800.0, 10_800.0, 43_200.0)
"""The same for a folder that did not fail itself: it changed meanwhile, or its run was killed."""

INTERACTIVE_SECONDS = 900.0
"""A folder that changed within this time is processed before imports: somebody may wait for it."""

INTERACTIVE_FOLDERS = 8
"""Most recently changed folders that are processed before an import; others belong to it."""

MASS_REMOVAL_MIN = 3
"""Removing more folders than this, if they are at least half of the library, needs a person's
confirmation."""

MAX_MISSING = 5000
"""Most missing folders kept during a walk over several evaluations; the next walk finds others."""


@dataclass(frozen=True, slots=True)
class DueFolder:
    """A folder that needs a run; `retry_level` 0: in a full run, 1: in a small one, 2: alone."""

    key: PartitionKey
    version: str
    attempts: int
    retry_level: int
    files: int = 0


@dataclass
class Comparison:
    """The result of comparing the folders of a walk.

    `unlisted`: folders that are up to date and have no partition, in the order of the walk. Not all
    due folders are kept in `folders`: the next evaluation finds those again that cannot be started
    now, so memory does not grow with an import.
    """

    folders: dict[PartitionKey, DueFolder] = field(default_factory=dict)
    interactive: set[PartitionKey] = field(default_factory=set)
    found: set[PartitionKey] = field(default_factory=set)
    in_step: set[PartitionKey] = field(default_factory=set)
    unlisted: list[PartitionKey] = field(default_factory=list)
    new_versions: set[str] = field(default_factory=set)
    total: int = 0
    files: int = 0
    due: int = 0
    running: int = 0
    unreadable: int = 0
    debounced_in: list[float] = field(default_factory=list)
    next_attempt_in: list[float] = field(default_factory=list)


def compare(
    walked: Iterable[FolderSnapshot],
    known: Known,
    cursor: SensorCursor,
    policy: Policy,
    now: float,
) -> Comparison:
    """Classify the folders of a walk; `cursor` is updated in place."""
    result = Comparison()
    partitions = set(known.partitions)
    indexed_versions = set(known.indexed.values())
    recent: list[tuple[float, PartitionKey]] = []
    max_new = policy.folders_per_run * policy.max_import_runs
    new = 0
    for folder in walked:
        key, version = folder.key, folder.version
        result.found.add(key)
        if version is None:
            result.unreadable += 1
            continue
        result.total += 1
        result.files += folder.files
        if known.indexed.get(key) != version and version in indexed_versions:
            result.new_versions.add(version)
        if known.indexed.get(key) == version and not folder.ctimes:
            result.in_step.add(key)
            if key not in partitions:
                result.unlisted.append(key)
            cursor.debouncing.pop(key, None)
            cursor.attempts.pop(key, None)
            continue
        if key in known.running:
            result.running += 1
            continue
        # Without the ctimes: if they differ at each walk, the folder would never be unchanged.
        if (wait := _debounced_in(folder, version, cursor, now, policy)) > 0:
            result.debounced_in.append(wait)
            continue
        attempted = version + folder.ctimes
        if (wait := _next_attempt_in(key, attempted, known, cursor, now)) > 0:
            result.next_attempt_in.append(wait)
            continue
        result.due += 1
        item = _due(key, attempted, known, cursor, folder.files)
        if policy.interactive and now - folder.newest < INTERACTIVE_SECONDS:
            result.folders[key] = item
            heapq.heappush(recent, (folder.newest, key))
            if len(recent) <= INTERACTIVE_FOLDERS:
                continue
            item = result.folders.pop(heapq.heappop(recent)[1])
        if item.key in partitions or new < max_new:
            result.folders[item.key] = item
            new += item.key not in partitions
    result.interactive = {key for _, key in recent}
    return result


@dataclass(frozen=True)
class Removals:
    """Missing folders: those to remove from the index, and those that are already out of it."""

    due: tuple[DueFolder, ...] = ()
    retire: tuple[PartitionKey, ...] = ()
    running: int = 0
    next_attempt_in: tuple[float, ...] = ()


def plan_removals(
    missing: Sequence[PartitionKey],
    result: Comparison,
    known: Known,
    cursor: SensorCursor,
    policy: Policy,
    now: float,
    *,
    complete: bool,
) -> Removals:
    """What to do about known folders that the walk did not find; `cursor` is updated.

    Nothing is removed before a walk is `complete`.

    Raises:
        LibraryUnavailable: so much is missing that the library looks unmounted; nothing is removed.
    """
    retire = [k for k in missing if known.indexed.get(k) == EMPTY and k not in known.running]
    for key in retire:
        cursor.attempts.pop(key, None)
    # A folder without a version may have left rows behind a failed run: it is removed like others.
    gone = [k for k in missing if known.indexed.get(k) != EMPTY]
    if complete:
        gone = list(dict.fromkeys([*cursor.missing, *gone]))
        cursor.missing = []
        kept = cursor.debouncing.items()
        cursor.debouncing = {k: v for k, v in kept if k in result.found}
    else:
        cursor.missing = [*cursor.missing, *gone][:MAX_MISSING]
        gone = []
    if not policy.removals_confirmed:
        lost = [k for k in gone if known.indexed.get(k) not in result.new_versions]
        every = (*known.partitions, *known.unlisted)
        # The last part of a long walk may have no folder left.
        emptied = result.total == 0 and cursor.resume is None
        indexed = sum(known.indexed.get(k) != EMPTY for k in every)
        _refuse_mass_removal(lost, indexed, emptied=emptied)
    due, waits, running = [], [], 0
    for key in gone:
        if key in known.running:
            running += 1
        elif (wait := _next_attempt_in(key, EMPTY, known, cursor, now)) > 0:
            waits.append(wait)
        else:
            due.append(_due(key, EMPTY, known, cursor))
    return Removals(tuple(due), tuple(retire), running, tuple(waits))


def _debounced_in(
    folder: FolderSnapshot, version: str, cursor: SensorCursor, now: float, policy: Policy
) -> float:
    """Seconds until the folder has been unchanged for long enough; 0 if it has."""
    age = now - folder.newest
    if age >= policy.settle_seconds:
        return 0.0
    # Younger than the settle time, or dated in the future: then only our own clock can tell.
    before, since = cursor.debouncing.get(folder.key, ("", now))
    if before != version:
        since = now
    cursor.debouncing[folder.key] = (version, since)
    return max(0.0, policy.settle_seconds - max(now - since, age))


def _next_attempt_in(
    key: PartitionKey, version: str, known: Known, cursor: SensorCursor, now: float
) -> float:
    """Seconds until this version is retried; 0 if now."""
    before, count, at = cursor.attempts.get(key, ("", 0, 0.0))
    if before != version or count == 0:
        return 0.0
    steps = BACKOFF if key in known.failed else SHORT_BACKOFF
    return max(0.0, at + steps[min(count, len(steps)) - 1] - now)


def _due(
    key: PartitionKey, version: str, known: Known, cursor: SensorCursor, files: int = 0
) -> DueFolder:
    before, count, _ = cursor.attempts.get(key, ("", 0, 0.0))
    attempts = count if before == version else 0
    return DueFolder(
        key, version, attempts, _retry_level(attempts, own_fault=known.failed.get(key)), files
    )


def _retry_level(attempts: int, *, own_fault: bool | None) -> int:
    if not attempts or own_fault is False:
        return 0
    return 2 if own_fault else min(attempts, 2)


def _refuse_mass_removal(gone: Sequence[PartitionKey], indexed: int, *, emptied: bool) -> None:
    if gone and (emptied or (len(gone) > MASS_REMOVAL_MIN and 2 * len(gone) >= indexed)):
        raise LibraryUnavailable(
            f"{len(gone)} of {indexed} indexed folders are gone from the library at once"
            f" (first: {gone[0]!r}). If the disk or share is not mounted, mount it; if they were"
            " really deleted, run `embed-assets sync --confirm-removals`. Nothing was removed"
        )
