"""What the benchmarks share: options, real and made-up music, how results are printed."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import dagster as dg
    import numpy as np
    from dagster._core.events.log import EventLogEntry

ROOT = Path(__file__).resolve().parent.parent
FOLDER_COLUMNS = ("folder_id", "path", "digest", "scan", "scanned_at")


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
    made.add_argument(
        "--small", action="store_true", help="show that it runs: its figures mean nothing"
    )
    return made


def parse(
    made: argparse.ArgumentParser, argv: Sequence[str] | None, **small: Any
) -> argparse.Namespace:
    """Parse the arguments; with --small, `small` has the defaults of the other options."""
    args = made.parse_args(argv)
    if args.small:
        made.set_defaults(**small)
        args = made.parse_args(argv)
    return args


def show(figures: dict[str, Any], args: argparse.Namespace) -> None:
    """Print the figures, with the machine's, as JSON or as lines."""
    figures = {
        **figures,
        **({"small": True} if args.small else {}),
        "cpu": cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "date": datetime.now(UTC).date().isoformat(),
    }
    if args.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:34} {dict(value) if isinstance(value, Counter) else value}")


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


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Of the medians."""
    return round(statistics.median(above) / statistics.median(below), 2)


def rounded(values: Sequence[float]) -> list[float]:
    return [round(float(v), 3) for v in values]


def insert(db: Any, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write rows into a table of the project; columns that are not named have their defaults."""
    marks = ", ".join("?" * len(columns))
    db.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", rows)


def materialized(run_id: str, made: dg.AssetMaterialization) -> EventLogEntry:
    """The event of a materialization by the index step, as Dagster stores it."""
    from dagster import DagsterEventType
    from dagster._core.events import DagsterEvent, StepMaterializationData
    from dagster._core.events.log import EventLogEntry

    names = {"step_key": "milvus_index", "job_name": "bring_in_step"}
    event = DagsterEvent(
        event_type_value=DagsterEventType.ASSET_MATERIALIZATION.value,
        event_specific_data=StepMaterializationData(made),
        **names,
    )
    return EventLogEntry(
        error_info=None,
        level="debug",
        user_message="",
        run_id=run_id,
        timestamp=time.time(),
        dagster_event=event,
        **names,
    )


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


def playable(paths: Iterable[Path], left_out: Counter[str], damaged: bool = True) -> Iterator[Path]:
    """The tracks that would be embedded; what would be rejected is counted by its reason.

    `damaged`: also tracks that decode only in part, since they would be embedded as well.
    """
    from embed_assets.audio.decode import read_windows
    from embed_assets.audio.windows import WindowPolicy
    from embed_assets.errors import TrackRejected
    from embed_assets.library.probe import probe

    for path in paths:
        try:
            duration = probe(os.fsencode(path)).duration
            heard = read_windows(os.fsencode(path), duration, WindowPolicy(10.0, 3), 24_000)
        except TrackRejected as e:
            left_out[str(e.reason)] += 1
            continue
        if heard.notes and not damaged:
            left_out["damaged"] += 1
        else:
            yield path


def middles(paths: Iterable[Path], seconds: float, left_out: Counter[str]) -> list[np.ndarray]:
    """The middle of each track, float32 [seconds * 24,000]; shorter tracks are left out as well."""
    from embed_assets.audio.decode import read_windows
    from embed_assets.audio.windows import WindowPolicy
    from embed_assets.errors import Reason, TrackRejected

    found = []
    for path in paths:
        try:
            window = read_windows(os.fsencode(path), 0.0, WindowPolicy(seconds, 1), 24_000).windows[
                0
            ]
        except TrackRejected as e:
            left_out[str(e.reason)] += 1
            continue
        if len(window) == round(seconds * 24_000):
            found.append(window)
        else:
            left_out[str(Reason.TOO_SHORT)] += 1
    if not found:
        raise SystemExit(f"no track of {seconds:g} s that can be decoded; left out: {left_out}")
    return found


def make_tracks(folder: Path, count: int, seconds: float) -> list[Path]:
    """Made-up tracks, each with audio of its own, cut from as few encoded ones as can be."""
    import numpy as np

    from embed_assets_tests.synth import music, write_audio

    tunes = min(count, 12)
    folder.mkdir(parents=True, exist_ok=True)
    source, made = folder / "tune.ogg", []
    for tune in range(tunes):
        mine = range(tune, count, tunes)
        # A second further for each track: shared audio, other packets, so other hashes.
        whole = seconds + len(mine)
        samples = np.tile(music(20.0, tune), (1, -int(-whole // 20)))
        write_audio(source, samples[:, : round(whole * 44_100)])
        for begin, i in enumerate(mine):
            made.append(folder / f"{i:04d}.ogg")
            cut(source, made[-1], begin / whole, (begin + seconds) / whole)
        source.unlink()
    return sorted(made)


def cut(source: Path, target: Path, begin: float, end: float) -> None:
    """Copy the packets between two shares of a track, without encoding them again.

    Raises:
        av.FFmpegError: its container cannot be cut.
    """
    import av

    with av.open(str(source)) as whole:
        stream = whole.streams.audio[0]
        packets = [p for p in whole.demux(stream) if p.dts is not None]
        kept = packets[round(begin * len(packets)) : round(end * len(packets))]
        with av.open(str(target), "w") as out:
            copy = out.add_stream_from_template(stream)
            base = kept[0].dts if kept else 0
            for packet in kept:
                packet.dts -= base
                packet.pts = packet.dts if packet.pts is None else packet.pts - base
                packet.stream = copy
                out.mux(packet)


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
