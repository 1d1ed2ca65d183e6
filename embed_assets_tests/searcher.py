"""A process that searches in a loop while a test does something to the index."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from embed_assets_tests.patience import PATIENCE

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Searcher:
    """What it has printed so far: a line a search."""

    process: subprocess.Popen[bytes]
    out: Path

    def lines(self) -> list[str]:
        return self.out.read_text().split()

    def wait_for(self, last: str, seconds: float = PATIENCE) -> None:
        """Wait until its last search printed this, and it is alive."""
        deadline = time.monotonic() + seconds
        while self.lines()[-1:] != [last]:
            assert self.process.poll() is None, self.out.with_suffix(".err").read_text()
            assert time.monotonic() < deadline, f"not {last}: {self.lines()[-3:]}"
            time.sleep(0.02)


@contextmanager
def searching(
    command: list[str], folder: Path, environment: Mapping[str, str] = os.environ
) -> Iterator[Searcher]:
    """Start it, wait for its first search; fails if a single one of its searches fails."""
    out = folder / f"searches{time.monotonic_ns()}.out"
    with open(out, "wb") as told, open(out.with_suffix(".err"), "wb") as failed:
        process = subprocess.Popen(
            command,
            env={**environment, "PYTHONPATH": str(ROOT)},
            cwd=folder,
            stdout=told,
            stderr=failed,
        )
    searcher = Searcher(process, out)
    try:
        deadline = time.monotonic() + PATIENCE
        while not searcher.lines():
            assert process.poll() is None, out.with_suffix(".err").read_text()
            assert time.monotonic() < deadline, "it never found anything"
            time.sleep(0.02)
        yield searcher
        assert process.poll() is None, out.with_suffix(".err").read_text()
    finally:
        process.kill()
        process.wait()
