"""What the benchmarks share: figures of a sample, made-up libraries, how results are printed."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def prepare() -> None:
    """Let this process and those that it starts import the project, free of outside settings."""
    for name in list(os.environ):
        if name.startswith(("EMBED_", "DAGSTER_")):
            del os.environ[name]
    sys.path.insert(0, str(ROOT))
    outside = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = f"{ROOT}{os.pathsep}{outside}" if outside else str(ROOT)


def parser(doc: str | None) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=(doc or "").split("\n")[0])
    made.add_argument("--json", action="store_true", help="print one JSON object, nothing else")
    made.add_argument("--dir", type=Path, help="make the temporary folder in here")
    return made


def show(figures: dict[str, Any], as_json: bool) -> None:
    figures = {
        **figures,
        "cpu": cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "date": datetime.now(UTC).date().isoformat(),
    }
    if as_json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:34} {value}")


def cpu() -> str:
    """Name of the CPU, with its family and model where the name says little."""
    found = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        found.setdefault(name.strip(), value.strip())
    numbers = [found.get(n, "?") for n in ("cpu family", "model")]
    return f"{found.get('model name', 'unknown')} (family {numbers[0]}, model {numbers[1]})"


def median(values: Sequence[float]) -> float:
    return round(statistics.median(values), 3)


def rounded(values: Sequence[float]) -> list[float]:
    return [round(float(v), 3) for v in values]


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def find_seconds(root: Path) -> float:
    """What `find` takes to print the size and mtime of every file."""
    command = ["find", str(root), "-type", "f", "-printf", "%s %T@\n"]
    return timed(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))


def rss_mib() -> float:
    import psutil

    return psutil.Process().memory_info().rss / 2**20


def make_tree(root: Path, folders: int, files: int) -> None:
    """A library of empty tracks, ten albums an artist, last changed an hour ago."""
    old = time.time() - 3600
    for i in range(folders):
        folder = root / f"Artist {i // 10:05d}" / f"Album {i % 10} of a Few Words"
        folder.mkdir(parents=True)
        here = files // folders + (i < files % folders)
        for j in range(here):
            path = os.path.join(folder, f"{j + 1:02d} - A Title of Some Length.flac")
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))
            os.utime(path, (old + j, old + j))


def tracks_in(folder: Path) -> list[Path]:
    """Every audio file below a folder, by path."""
    from embed_assets.library.walk import is_audio

    return sorted(p for p in folder.rglob("*") if p.is_file() and is_audio(os.fsencode(p.name)))


class PeakMemory:
    """The most memory that a process and all below it held at once, in MiB; shared pages once.

    Looked at twice a second, so that a shorter peak may be missed.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.mib = 0

    def watch(self) -> None:
        """Look until the process is gone."""
        import psutil

        while True:
            try:
                top = psutil.Process(self.pid)
                if top.status() == psutil.STATUS_ZOMBIE:
                    return
                every = [top, *top.children(recursive=True)]
            except psutil.Error:
                return
            total = 0
            for process in every:
                try:
                    total += process.memory_full_info().pss
                except (psutil.Error, AttributeError):
                    continue
            self.mib = max(self.mib, total >> 20)
            time.sleep(0.5)
