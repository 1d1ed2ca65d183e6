"""The output of `status` in a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from embed_assets.cli.terminal import print_json
from embed_assets.formats import counted, duration, plain
from embed_assets.neighbours.ranking import COSINE
from embed_assets.operations.music_servers import ServerRow
from embed_assets.operations.status import Status, WordsStatus

REDRAW_SECONDS = 2.0


def show(status: Status) -> None:
    """Print the status once."""
    Console().print(_layout(status))


def watch(ask: Callable[[], Status]) -> None:
    """Redraw the status until Ctrl-C."""
    console = Console()
    with Live(_layout(ask()), console=console, auto_refresh=False) as live:
        while True:
            time.sleep(REDRAW_SECONDS)
            live.update(_layout(ask()), refresh=True)


def can_redraw() -> bool:
    """Whether stdout is a terminal; in a pipe or a file `--watch` prints once."""
    return Console().is_terminal


def stream(ask: Callable[[], Status]) -> None:
    """Print one JSON document per line until Ctrl-C."""
    while True:
        print_json(ask().as_json())
        time.sleep(REDRAW_SECONDS)


def _layout(s: Status) -> Group:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    rows = [
        ("library", s.library or "EMBED_LIBRARY is not set"),
        (
            "folders",
            f"{s.folders_in_step} of {s.folders} up to date, {s.folders_to_do} to do,"
            f" {s.folders_in_runs} in runs, {s.folders_failed} failed"
            + (f", {s.folders_unreadable} cannot be read" if s.folders_unreadable else ""),
        ),
        (
            "tracks",
            f"{s.tracks_embedded} of {s.tracks} embedded, {s.tracks_rejected} rejected,"
            f" {s.tracks_pending} remaining, {s.audio_hours:.1f} h of audio"
            + (f", {s.tracks_damaged} partly damaged" if s.tracks_damaged else ""),
        ),
        ("rate", f"{s.rate:.1f} tracks/s, ETA {'-' if s.eta is None else duration(s.eta)}"),
        ("runs", f"{s.live_runs} live"),
        ("encoder", f"{s.encoder}: {s.note}"),
        ("engine", s.engine or f"none yet (EMBED_DEVICE={s.device})"),
        ("collection", _collection(s)),
        ("UI", s.ui or ("a daemon runs without `up`" if s.daemon else "not up: `embed-assets up`")),
    ]
    if s.ranking != COSINE:
        rows.insert(-1, ("neighbours", f"ranked by {s.ranking}: see `embed-assets evaluate`"))
    if s.words:
        rows.insert(-1, ("words", _words(s.words)))
    rows += [(one.name, _server(one)) for one in s.servers]
    if s.links_skipped:
        links = f"{counted(s.links_skipped, 'symbolic link')} not followed"
        rows.insert(3, ("left out", f"{links}: `embed-assets doctor` says what to do"))
    if s.milvus:
        rows.insert(0, ("Milvus", s.milvus))
    if s.vectors:
        rows.insert(0, ("vectors", s.vectors))
    if s.weights:
        rows.insert(0, ("WEIGHTS", s.weights))
    if s.problem:
        rows.insert(0, ("PROBLEM", s.problem))
    for name, text in rows:
        table.add_row(name, Text(plain(text)))
    bars = Progress(
        TextColumn("{task.description:<18}"), BarColumn(40), TextColumn("{task.percentage:>3.0f} %")
    )
    # Two bars: with another pooling all tracks are done, but no folder is up to date.
    bars.add_task(
        "tracks done", total=max(s.tracks, 1), completed=s.tracks_embedded + s.tracks_rejected
    )
    bars.add_task("folders up to date", total=max(s.folders, 1), completed=s.folders_in_step)
    return Group(table, bars)


def _server(one: ServerRow) -> str:
    if one.problem:
        return one.problem
    if one.listed_at is None:
        return f"{one.kind}, not listed yet: `embed-assets serve` does it"
    return f"{one.kind}, {one.mapped} of {counted(one.items, 'track')} known"


def _words(w: WordsStatus) -> str:
    if w.problem:
        return f"PROBLEM: {w.problem}"
    counts = f"{w.tracks_embedded} embedded by {w.encoder}, {w.tracks_rejected} rejected by it only"
    where = w.collection if w.served == w.collection else f"{w.served or 'none'} is served until"
    where += "" if w.served == w.collection else f" {w.collection} is complete"
    return f"{counts}, {w.tracks_pending} remaining, {w.rate:.1f} tracks/s; {where}"


def _collection(s: Status) -> str:
    if s.served in (None, s.collection):
        return s.collection
    if s.served_by_hand:
        return f"{s.served} was chosen by hand: `embed-assets promote` serves {s.collection}"
    return f"{s.served} is served until {s.collection} is complete"
