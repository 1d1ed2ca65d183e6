"""What is to be done about the library: wanted versions, held and indexed ones -> requests. Pure.

Level-triggered: each look compares the whole, and what it does not act on now it will see again.
So the memory between two looks holds only what cannot be seen: since when a folder holds still,
how often a version was tried in vain, and where a long walk goes on.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from types import MappingProxyType

from embed_assets.errors import LibraryUnavailable
from embed_assets.library.plan import EMPTY, Memory, Plan, Policy, Request, Seen

BACKOFF = (60.0, 300.0, 1800.0, 10_800.0, 43_200.0)
"""Seconds until a version that was tried 1, 2, 3, 4, 5 or more times is tried again."""

IMPATIENT = (5.0, 60.0, 300.0, 1800.0, 10_800.0, 43_200.0)
"""The same for a folder that did not fail itself: it changed meanwhile, or its run was killed."""

FRESH_SECONDS = 900.0
"""A folder that changed so recently has somebody waiting for it: it goes before an import."""

BRIDGE = 4
"""Unchanged folders between two changed ones that cost less inside a run than another run does."""

GUARD = 3
"""So many folders may go at once; beyond that, half of the library only if a person says so."""

FRESH_FOLDERS = 8
"""So many of the most recently changed folders go first; the others are an import."""

REMEMBERED_GONE = 5000
"""Removals that a walk of several looks remembers; what is beyond is found by the next walk."""


def decide(
    seen: Iterable[Seen],
    known: Sequence[str],
    have: Mapping[str, str],
    held: Collection[str],
    memory: Memory,
    now: float,
    policy: Policy,
    *,
    failed: Mapping[str, bool] = MappingProxyType({}),
    complete: bool | Callable[[], bool] = True,
    in_segment: Callable[[str], bool] = lambda key: True,
    unreadable_above: Callable[[str], bool] = lambda key: False,
    embedded: Callable[[Sequence[str]], Mapping[str, int]] = lambda keys: {},
) -> Plan:
    """Compare a walk with what is known; `memory` is updated in place.

    `known` are the partitions in their order, `failed` those whose last try failed, with whether
    the fault was their own: then each is tried again alone, so that it holds no other back, and
    otherwise (Milvus was away) together. A walk may end early
    (`complete` is asked after the last of `seen`); then `in_segment` says which keys it has
    passed, and removals wait for a walk that reaches the end. Nothing below a folder that could
    not be read is taken for gone. `embedded` says how many tracks of these folders have their
    vectors already: those are no work, when an import is cut into runs.

    Raises:
        LibraryUnavailable: so much is gone that the library looks unmounted; nothing is removed.
    """
    position = {key: i for i, key in enumerate(known)}
    met: set[str] = set()
    in_step: set[str] = set()
    due: dict[str, _Due] = {}
    fresh: list[tuple[float, str]] = []
    new_bulk = folders = files = waiting = unreadable = total_due = 0
    moved: set[str] = set()
    versions = set(have.values())
    settles: list[float] = []
    rests: list[float] = []
    for folder in seen:
        key, version = folder.key, folder.version
        met.add(key)
        if version is None:
            unreadable += 1
            continue
        folders += 1
        files += folder.files
        if key not in position and version in versions:
            moved.add(version)
        # One whose partition is gone (by hand, or retired as it came back) is new, whatever it had.
        if have.get(key) == version and key in position and not folder.touched:
            in_step.add(key)
            memory.settling.pop(key, None)
            memory.tries.pop(key, None)
        elif key in held:
            waiting += 1
        # Without the ctimes, which may be others at each look: it would never hold still.
        elif (wait := _settles_in(folder, version, memory, now, policy)) > 0:
            settles.append(wait)
        elif (wait := _rests_for(key, version + folder.touched, memory, now, failed)) > 0:
            rests.append(wait)
        else:
            total_due += 1
            item = _due(key, version + folder.touched, memory, failed, folder.files)
            if policy.fresh_first and now - folder.newest < FRESH_SECONDS:
                due[key] = item
                heapq.heappush(fresh, (folder.newest, key))
                if len(fresh) <= FRESH_FOLDERS:
                    continue
                item = due.pop(heapq.heappop(fresh)[1])
            # What is new and beyond this look's room is found again: memory stays flat.
            if item.key in position or new_bulk < policy.folders_per_run * policy.bulk_room:
                due[item.key] = item
                new_bulk += item.key not in position
    finished = complete() if callable(complete) else complete
    passed = [k for k in known if k not in met and in_segment(k) and not unreadable_above(k)]
    retire = [k for k in passed if have.get(k) == EMPTY and k not in held]
    for key in retire:
        memory.tries.pop(key, None)
    # A folder without a version may have left rows behind a failed run: it is removed like others.
    gone = _gone([k for k in passed if have.get(k) != EMPTY], memory, finished)
    if finished:
        memory.settling = {k: v for k, v in memory.settling.items() if k in met}
    if not policy.confirmed:
        lost = [k for k in gone if have.get(k) not in moved]
        _guard(lost, folders, sum(have.get(k) != EMPTY for k in known))
    removals = []
    for key in gone:
        if key in held:
            waiting += 1
        elif (wait := _rests_for(key, EMPTY, memory, now, failed)) > 0:
            rests.append(wait)
        else:
            removals.append(_due(key, EMPTY, memory, failed))
    may_bridge = in_step.difference(held)
    first = {key for _, key in fresh}
    bulk = [d for d in due.values() if d.key not in first]
    sizes = {d.key: d.files for d in bulk}
    share = math.ceil(sum(sizes.values()) / policy.encoders)
    most = min(policy.files_per_run, share)
    requests = chain(
        _requests(removals, position, may_bridge, policy, remove=True),
        _requests([d for d in due.values() if d.key in first], position, may_bridge, policy),
        chain.from_iterable(
            _cut(r, sizes, embedded(r.keys), most)
            for r in _requests(bulk, position, may_bridge, policy, bulk=True)
        ),
    )
    chosen = list(_within(requests, policy))
    wanted = {d.key: d for d in (*due.values(), *removals)}
    for request in chosen:
        for key in request.keys:
            if key in wanted:
                item = wanted[key]
                memory.settling.pop(key, None)
                memory.tries[key] = (item.version, item.tried + 1, now)
    return Plan(
        requests=tuple(chosen),
        retire=tuple(retire),
        folders=folders,
        files=files,
        in_step=len(in_step),
        due=total_due + len(removals),
        held=waiting,
        resting=len(rests),
        unreadable=unreadable,
        settles_in=min(settles, default=None),
        next_try_in=min(rests, default=None),
    )


@dataclass(frozen=True, slots=True)
class _Due:
    key: str
    version: str
    tried: int
    caution: int
    """0: in a full run; 1: in a small one; 2: alone."""
    files: int = 0


def _settles_in(folder: Seen, version: str, memory: Memory, now: float, policy: Policy) -> float:
    """Seconds until the folder has held still for long enough; 0 if it has."""
    age = now - folder.newest
    if age >= policy.settle_seconds:
        return 0.0
    # Younger than the settle time, or dated in the future: then only our own clock can tell.
    before, since = memory.settling.get(folder.key, ("", now))
    if before != version:
        since = now
    memory.settling[folder.key] = (version, since)
    return max(0.0, policy.settle_seconds - max(now - since, age))


def _rests_for(
    key: str, version: str, memory: Memory, now: float, failed: Collection[str]
) -> float:
    """Seconds until this version is tried again; 0 if now."""
    before, count, at = memory.tries.get(key, ("", 0, 0.0))
    if before != version or count == 0:
        return 0.0
    steps = BACKOFF if key in failed else IMPATIENT
    return max(0.0, at + steps[min(count, len(steps)) - 1] - now)


def _due(
    key: str, version: str, memory: Memory, failed: Mapping[str, bool], files: int = 0
) -> _Due:
    before, count, _ = memory.tries.get(key, ("", 0, 0.0))
    tried = count if before == version else 0
    return _Due(key, version, tried, _caution(tried, failed.get(key)), files)


def _caution(tried: int, own_fault: bool | None) -> int:
    if not tried or own_fault is False:
        return 0
    return 2 if own_fault else min(tried, 2)


def _gone(passed: list[str], memory: Memory, finished: bool) -> list[str]:
    """What a walk that has reached its end did not see; nothing before."""
    if not finished:
        memory.gone = [*memory.gone, *passed][:REMEMBERED_GONE]
        return []
    gone = list(dict.fromkeys([*memory.gone, *passed]))
    memory.gone = []
    return gone


def _guard(gone: list[str], folders: int, indexed: int) -> None:
    """Stop where half of the library is gone; what is found again under another name is not."""
    if gone and (folders == 0 or (len(gone) > GUARD and 2 * len(gone) >= indexed)):
        raise LibraryUnavailable(
            f"{len(gone)} of {indexed} indexed folders are gone from the library at once"
            f" (first: {gone[0]!r}). If the disk or share is not mounted, mount it; if they were"
            " really deleted, run `embed-assets sync --confirm-removals`. Nothing was removed"
        )


def _requests(
    items: list[_Due],
    position: Mapping[str, int],
    may_bridge: Collection[str],
    policy: Policy,
    *,
    remove: bool = False,
    bulk: bool = False,
) -> Iterator[Request]:
    """Runs for these folders: contiguous ranges of partitions, smaller after each failed try."""
    order = sorted(position, key=position.__getitem__) if items else []
    for caution in sorted({d.caution for d in items}):
        size = (policy.folders_per_run, max(1, policy.folders_per_run // 8), 1)[caution]
        group = [d for d in items if d.caution == caution]
        there = sorted(position[d.key] for d in group if d.key in position)
        ranges: list[list[int]] = []
        for i in there:
            last = ranges[-1] if ranges else None
            gap = range(last[-1] + 1, i) if last else ()
            near = len(gap) <= BRIDGE and all(order[g] in may_bridge for g in gap)
            if last is not None and near and i - last[0] < size:
                last.append(i)
            else:
                ranges.append([i])
        for r in ranges:
            yield Request(tuple(order[r[0] : r[-1] + 1]), remove, bulk)
        new = [d.key for d in group if d.key not in position]
        for i in range(0, len(new), size):
            yield Request(tuple(new[i : i + size]), remove, bulk)


def _cut(
    request: Request, sizes: Mapping[str, int], embedded: Mapping[str, int], room: int
) -> Iterator[Request]:
    """The request in pieces of at most so many tracks to embed, or of one folder that has more."""
    piece: list[str] = []
    work = 0
    for key in request.keys:
        more = max(0, sizes.get(key, 0) - embedded.get(key, 0))
        if piece and work + more > room:
            yield Request(tuple(piece), request.remove, request.bulk)
            piece, work = [], 0
        piece.append(key)
        work += more
    yield Request(tuple(piece), request.remove, request.bulk)


def _within(requests: Iterable[Request], policy: Policy) -> Iterator[Request]:
    room, bulk = policy.room, policy.bulk_room
    for request in requests:
        if room <= 0:
            return
        if request.bulk:
            if bulk <= 0:
                continue
            bulk -= 1
        room -= 1
        yield request
