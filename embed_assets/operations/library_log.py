"""Lines for people about what happens to the library, from Dagster's database and the tables."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator

import dagster as dg
from dagster import DagsterRunStatus

from embed_assets.defs.activity import (
    FolderOutcome,
    RunChange,
    RunWatch,
    SensorWatch,
    Tick,
    cause_of,
    outcomes,
)
from embed_assets.errors import EmbedAssetsError
from embed_assets.formats import counted, first_few
from embed_assets.identity import display_path
from embed_assets.project import Project
from embed_assets.storage import queries
from embed_assets.storage.records import CHANGED

PROGRESS_SECONDS = 30.0

FOLDER_LINES = 8
"""A run with more folders than this is described in one line."""


class LibraryLog:
    """Lines about the library, from Dagster's database and the tables."""

    def __init__(self, instance: dg.DagsterInstance, project: Project) -> None:
        self.instance = instance
        self.project = project
        self.watch = RunWatch(instance)
        self.sensor = SensorWatch(instance)
        self.changes: deque[RunChange] = deque()
        self.tick: Tick | None = None
        self.began = time.time()
        self.summary_due = True
        self.ended_at = 0.0
        self.progress_due = time.monotonic() + PROGRESS_SECONDS
        self.problem = ""

    def news(self) -> Iterator[str]:
        """A line for each thing that happened since the last call."""
        try:
            self.changes.extend(self.watch.changes())
            while self.changes:
                lines = list(self._of_run(self.changes[0]))
                self.changes.popleft()
                yield from lines
            yield from self._of_tick(self.sensor.last_tick())
            yield from self._progress()
            self.problem = ""
        except Exception as e:  # noqa: BLE001
            # E.g. a full disk or a locked database. Dagster continues, so `up` must, too.
            text = str(e) if isinstance(e, EmbedAssetsError) else f"{type(e).__name__}: {e}"
            if text != self.problem:
                self.problem = text
                yield f"the state of the library cannot be read now: {text}"

    def _of_run(self, change: RunChange) -> Iterator[str]:
        run = f"run {change.run_id[:8]}"
        if change.status is None:
            if change.folders:
                yield f"{'gone' if change.removes else 'to do'}: {change.folders} ({run})"
            return
        self.summary_due, self.ended_at = True, time.time()
        if change.folders:
            yield from folder_lines(outcomes(self.instance, change.run_id))
        if change.status == DagsterRunStatus.CANCELED:
            yield f"{run} was canceled; its finished work is kept"
        elif change.status == DagsterRunStatus.FAILURE:
            yield from self._of_failure(change)
        elif change.folders:
            yield from self._of_unfinished(change)
            yield f"{run} done: {change.folders}"

    def _of_failure(self, change: RunChange) -> Iterator[str]:
        yield from (lines := list(self._of_unfinished(change)))
        what = change.folders or change.job
        why = "" if lines else f": {cause_of(self.instance, change.run_id)}"
        yield f"run {change.run_id[:8]} FAILED ({what}){why}"

    def _of_unfinished(self, change: RunChange) -> Iterator[str]:
        folders: dict[tuple[str, str], list[str]] = {}
        for problem in queries.failed_folders(self.project.tables):
            if problem.run_id == change.run_id:
                name = display_path(problem.path)
                folders.setdefault((problem.reason, problem.message), []).append(name)
        for (reason, message), names in folders.items():
            retried = "" if reason == CHANGED else "; retried automatically"
            yield f"{first_few(names)}: {reason}: {message}{retried}"

    def _of_tick(self, tick: Tick | None) -> Iterator[str]:
        if tick is None or tick.timestamp < self.began or tick == self.tick:
            return
        before, self.tick = self.tick, tick
        if tick.error:
            if before is None or tick.error != before.error:
                yield f"{'' if tick.library_away else 'the library_sensor failed: '}{tick.error}"
            return
        if before is not None and before.library_away:
            yield "the library is there again"
            self.summary_due = True
        # A scan that began before the last run ended still counts its folders as in runs.
        is_newer = tick.timestamp > self.ended_at
        if self.summary_due and is_newer and tick.summary and not self.watch.live:
            self.summary_due = False
            yield tick.summary

    def _progress(self) -> Iterator[str]:
        if not self.watch.live:
            self.progress_due = time.monotonic() + PROGRESS_SECONDS
            return
        if time.monotonic() < self.progress_due:
            return
        self.progress_due = time.monotonic() + PROGRESS_SECONDS
        since = time.time() - PROGRESS_SECONDS
        tracks = sum(
            queries.embedded_since(self.project.tables, recipe.digest, since)[0]
            for recipe in self.project.spec().recipes
        )
        if tracks:
            rate = f"{tracks / PROGRESS_SECONDS:.1f} tracks/s"
            summary = f"; {self.tick.summary}" if self.tick and self.tick.summary else ""
            yield f"embedding, {rate}{summary}"


def folder_lines(done: Iterable[FolderOutcome]) -> Iterator[str]:
    """A line for each folder that changed, or one line for many folders."""
    done = [one for one in done if one.changed]
    if len(done) <= FOLDER_LINES:
        yield from (f"{one.folder}: {_counts(one)}" for one in done)
        return
    total = FolderOutcome(
        "",
        embedded=sum(one.embedded for one in done),
        removed=sum(one.removed for one in done),
        written=sum(one.written for one in done),
        rejected=sum(one.rejected for one in done),
        words=sum(one.words for one in done),
    )
    rejected = "; `embed-assets errors` says why" if total.rejected else ""
    yield f"{counted(len(done), 'folder')}: {_counts(total)}{rejected}"


def _counts(one: FolderOutcome) -> str:
    parts = [f"{counted(one.embedded, 'track')} embedded"] if one.embedded else []
    if one.words:
        n = str(one.words) if one.embedded else f"{counted(one.words, 'track')} embedded"
        parts.append(f"{n} for `find`")
    parts += [f"{one.removed} removed"] if one.removed else []
    if one.rejected:
        reasons = [f"{path.rpartition('/')[2]}: {reason}" for path, reason in one.rejects]
        why = f" ({first_few(reasons, '; ')})" if reasons else ""
        parts.append(f"{one.rejected} rejected{why}")
    return ", ".join(parts) or f"{counted(one.written, 'track')} written to the index"
