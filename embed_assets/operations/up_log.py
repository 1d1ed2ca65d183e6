"""The output of `up`: a line for each thing that happens to the library.

The lines come from Dagster's database and the tables. Of Dagster's output only warnings and errors
are printed, shortened; with `verbose` all of it. A separate thread prints, so that a terminal that
is stopped (Ctrl-S) blocks nothing else.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from embed_assets.formats import plain
from embed_assets.operations.dagster_output import DagsterOutput
from embed_assets.operations.library_log import LibraryLog

POLL_SECONDS = 2.0

LEAVE_SECONDS = 2.0


class UpLog:
    """Prints what happens to the library, and the lines of `info`, until its block is left."""

    def __init__(self, library: LibraryLog, dagster_log: Path, *, verbose: bool) -> None:
        self.library = library
        self.output = DagsterOutput(dagster_log)
        self.verbose = verbose
        self.day = time.localtime()[:3]
        self.watching = True
        self.lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> UpLog:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.lines.put(None)
        # A stopped terminal blocks the thread, but must not block the end of `up`.
        self.thread.join(LEAVE_SECONDS)

    def info(self, line: str) -> None:
        """Print a line with the time; returns at once."""
        self.lines.put(line)

    def stop_watching(self) -> None:
        """From now on print only the lines of `info` and, if `verbose`, the output of Dagster."""
        self.watching = False

    def _run(self) -> None:
        due = time.monotonic() + POLL_SECONDS
        while True:
            try:
                line = self.lines.get(timeout=max(0.0, due - time.monotonic()))
            except queue.Empty:
                due = time.monotonic() + POLL_SECONDS
                self._poll()
                continue
            if line is None:
                break
            self._print(line)
        if self.verbose:
            _write(self.output.new())

    def _poll(self) -> None:
        text = self.output.new()
        if self.verbose:
            _write(text)
        if not self.watching:
            return
        for line in self.output.warnings(text) if not self.verbose else ():
            self._print(f"Dagster: {line} (more in {self.output.path})")
        for line in self.library.news():
            # What stopped runs did is not worth a line.
            if self.watching:
                self._print(line)

    def _print(self, line: str) -> None:
        now = time.localtime()
        day = time.strftime("%Y-%m-%d ", now) if now[:3] != self.day else ""
        self.day = now[:3]
        _write(f"{day}{time.strftime('%H:%M:%S', now)} {plain(line)}\n".encode())


def _write(text: bytes) -> None:
    # Not through Python's buffer, whose lock would be held while the terminal is stopped.
    with suppress(OSError, ValueError):
        number = sys.stderr.fileno()
        while text:
            text = text[os.write(number, text) :]
