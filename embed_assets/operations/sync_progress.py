"""Lines about the progress of `sync`, now and then."""

from __future__ import annotations

import time
from collections.abc import Callable

from embed_assets.formats import duration
from embed_assets.identity import TRACKS, IndexSpec
from embed_assets.project import Project
from embed_assets.storage import queries

SAY_SECONDS = 15.0
"""Seconds between lines about the progress."""


class SyncProgress:
    """Prints a line now and then: how many tracks are embedded, and the time left."""

    def __init__(self, project: Project, spec: IndexSpec, progress: Callable[[str], None]) -> None:
        self.tables, self.uri = project.tables, project.uri
        self._alone = [one for one in spec.every_collection if one.rows == TRACKS]
        self.progress = progress
        notices = (one.first_load_notice() for _, one in project.vectors.passes(spec))
        self.preparation = "; ".join(filter(None, notices))
        self.files = 0
        self.began, self.due = time.time(), time.monotonic() + SAY_SECONDS

    def __call__(self) -> None:
        """Print a line if nothing was printed for a while."""
        started = time.monotonic()
        if started < self.due:
            return
        self._print()
        # Counting a large library takes a second: use at most a fiftieth of the time for it.
        now = time.monotonic()
        self.due = now + max(SAY_SECONDS, 50 * (now - started))

    def _print(self) -> None:
        since = {
            one: queries.embedded_since(self.tables, one.recipe.digest, self.began)
            for one in self._alone
        }
        # One encoder follows the other: what is counted is the work of the one that works now.
        spec = max(since, key=lambda one: since[one][1])
        now, _, _ = since[spec]
        if not now:
            if self.preparation:
                self.progress(self.preparation)
                self.preparation = ""
            return
        counts = queries.counts(self.tables, spec.recipe.digest, spec.collection_key(self.uri))
        left = max(self.files - counts.embedded - counts.rejected, 0)
        rate = now / (time.time() - self.began)
        self.progress(
            f"{counts.embedded} of {self.files} tracks embedded"
            + (" for `find`" if spec != self._alone[0] else "")
            + f", {rate:.1f} tracks/s"
            + (f", {duration(left / rate)} to go" if left else "")
        )
