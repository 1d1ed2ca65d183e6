"""From due folders to run requests: contiguous ranges of partitions, as many as may be started."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain

from embed_assets.identity import PartitionKey
from embed_assets.planning.compare import Comparison, DueFolder, Removals
from embed_assets.planning.values import Known, Plan, Policy, RunRequest, SensorCursor

MAX_GAP = 4
"""Unchanged folders between two due ones that cost less inside a run than another run does."""


def plan_runs(
    result: Comparison, removals: Removals, known: Known, policy: Policy
) -> list[RunRequest]:
    """The runs that may be started now, most urgent first: removals, recent changes, imports.

    Imports are of full size; `split_imports` cuts them to what they have to embed.
    """
    order = known.partitions
    position = {key: i for i, key in enumerate(order)} if result.folders or removals.due else {}
    may_bridge = result.in_step.difference(known.running)
    due = result.folders.values()
    recent = [d for d in due if d.key in result.interactive]
    bulk = [d for d in due if d.key not in result.interactive]
    requests = chain(
        _ranges(removals.due, position, order, may_bridge, policy, remove=True),
        _ranges(recent, position, order, may_bridge, policy),
        _ranges(bulk, position, order, may_bridge, policy, is_import=True),
    )
    return _allowed(requests, policy)


def split_imports(
    requests: Iterable[RunRequest],
    result: Comparison,
    embedded: Mapping[PartitionKey, int],
    policy: Policy,
) -> list[RunRequest]:
    """The requests with imports split by the tracks to embed, as many as may be started.

    `embedded`: how many tracks of a folder have vectors already; those are no work.
    """
    files = {d.key: d.files for d in result.folders.values() if d.key not in result.interactive}
    share = math.ceil(sum(files.values()) / policy.encoders)
    most = min(policy.files_per_run, share)
    work = {key: max(0, n - embedded.get(key, 0)) for key, n in files.items()}
    pieces = (_split(r, work, most) if r.is_import else (r,) for r in requests)
    return _allowed(chain.from_iterable(pieces), policy)


def record_attempts(
    cursor: SensorCursor,
    requests: Iterable[RunRequest],
    result: Comparison,
    removals: Removals,
    now: float,
) -> None:
    """Note in the cursor what is requested now, for the backoff of what fails."""
    due = {d.key: d for d in (*result.folders.values(), *removals.due)}
    for request in requests:
        for key in due.keys() & set(request.keys):
            cursor.debouncing.pop(key, None)
            cursor.attempts[key] = (due[key].version, due[key].attempts + 1, now)


def plan_of(requests: Sequence[RunRequest], result: Comparison, removals: Removals) -> Plan:
    """All of it as one value."""
    return Plan(
        requests=tuple(requests),
        retire=removals.retire,
        adopt=tuple(result.unlisted),
        folders=result.total,
        files=result.files,
        in_step=len(result.in_step),
        due=result.due + len(removals.due),
        running=result.running + removals.running,
        backing_off=len(result.next_attempt_in) + len(removals.next_attempt_in),
        unreadable=result.unreadable,
        debounced_in=min(result.debounced_in, default=None),
        next_attempt_in=min((*result.next_attempt_in, *removals.next_attempt_in), default=None),
    )


def _ranges(
    due: Collection[DueFolder],
    position: Mapping[PartitionKey, int],
    order: Sequence[PartitionKey],
    may_bridge: Collection[PartitionKey],
    policy: Policy,
    *,
    remove: bool = False,
    is_import: bool = False,
) -> Iterator[RunRequest]:
    """Contiguous ranges of partitions, smaller after each failed attempt."""
    for level in sorted({d.retry_level for d in due}):
        size = (policy.folders_per_run, max(1, policy.folders_per_run // 8), 1)[level]
        group = [d for d in due if d.retry_level == level]
        there = sorted(position[d.key] for d in group if d.key in position)
        ranges: list[list[int]] = []
        for i in there:
            last = ranges[-1] if ranges else None
            gap = range(last[-1] + 1, i) if last else ()
            near = len(gap) <= MAX_GAP and all(order[g] in may_bridge for g in gap)
            if last is not None and near and i - last[0] < size:
                last.append(i)
            else:
                ranges.append([i])
        for r in ranges:
            yield RunRequest(tuple(order[r[0] : r[-1] + 1]), remove, is_import)
        new = [d.key for d in group if d.key not in position]
        for i in range(0, len(new), size):
            yield RunRequest(tuple(new[i : i + size]), remove, is_import)


def _split(
    request: RunRequest, work: Mapping[PartitionKey, int], most: int
) -> Iterator[RunRequest]:
    """Pieces of at most `most` tracks to embed, or of one folder that has more."""
    piece: list[PartitionKey] = []
    total = 0
    for key in request.keys:
        more = work.get(key, 0)
        if piece and total + more > most:
            yield RunRequest(tuple(piece), request.remove, request.is_import)
            piece, total = [], 0
        piece.append(key)
        total += more
    yield RunRequest(tuple(piece), request.remove, request.is_import)


def _allowed(requests: Iterable[RunRequest], policy: Policy) -> list[RunRequest]:
    allowed: list[RunRequest] = []
    imports = 0
    for request in requests:
        if len(allowed) >= policy.max_new_runs:
            break
        if request.is_import:
            if imports >= policy.max_import_runs:
                continue
            imports += 1
        allowed.append(request)
    return allowed
