"""Options shared by the commands that query the index, and how they are parsed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from embed_assets.commands.terminal import tell

Query = Annotated[
    list[str],
    typer.Argument(help="One or more paths, a folder, or words from title and artist."),
]
M3u = Annotated[
    Path | None, typer.Option("--m3u", help="Also write a playlist, with paths relative to it.")
]
OneRecording = Annotated[
    bool,
    typer.Option(
        "--one-recording",
        help="Show only one of the tracks that `duplicates` would call one recording.",
    ),
]
Genre = Annotated[list[str] | None, typer.Option(help="Words of the genre; repeatable.")]
NotGenre = Annotated[
    list[str] | None, typer.Option(help="Words that the genre must not contain; repeatable.")
]
Artist = Annotated[list[str] | None, typer.Option(help="Words of the artist; repeatable.")]
NotArtist = Annotated[
    list[str] | None, typer.Option(help="Words that the artist must not contain; repeatable.")
]
Year = Annotated[str, typer.Option(help="A year or a range: 1959, 1955..1965, 1990.., ..1960")]
Least = Annotated[str, typer.Option(help="Minimum duration: 90, 2m, 1m30s, 1:30 or 1h")]
Most = Annotated[str, typer.Option(help="Maximum duration, in the same forms.")]
Where = Annotated[
    list[str] | None,
    typer.Option(
        help="A condition on any field: FIELD=WORDS, FIELD!=WORDS or FIELD=MIN..MAX, e.g."
        " codec=flac, added_at=2026-01.., bit_rate=256000..; repeatable."
    ),
]


def seconds_of(text: str) -> tuple[float, float | None] | None:
    """From and to in seconds of what a person wrote of a part."""
    from embed_assets.index.filters import seconds

    if not text.strip():
        return None
    begin, dots, end = text.partition("..")
    try:
        start = seconds(begin) if begin.strip() else 0.0
        stop = (seconds(end) if end.strip() else float("inf")) if dots else None
    except ValueError as e:
        raise typer.BadParameter(f"--part {text!r}: {e}") from None
    if stop is not None and stop <= start:
        raise typer.BadParameter(f"--part {text!r}: it ends before it begins")
    return start, stop


def conditions(
    genre: Sequence[str] | None,
    not_genre: Sequence[str] | None,
    artist: Sequence[str] | None,
    not_artist: Sequence[str] | None,
    year: str,
    min_duration: str,
    max_duration: str,
    where: Sequence[str] | None,
) -> list[Any]:
    """The conditions that these options mean."""
    from embed_assets.index.filters import condition, parse

    found = [condition("genre", g) for g in genre or ()]
    found += [condition("genre", g, negate=True) for g in not_genre or ()]
    found += [condition("artist", a) for a in artist or ()]
    found += [condition("artist", a, negate=True) for a in not_artist or ()]
    found += [condition("year", year)] if year else []
    found += [condition("duration", f"{min_duration}..")] if min_duration else []
    found += [condition("duration", f"..{max_duration}")] if max_duration else []
    return found + [parse(w) for w in where or ()]


def playlist(project: Any, file: Path | None, matches: Sequence[Any]) -> None:
    """Write the playlist that was asked for, if one was."""
    if file is None:
        return
    from embed_assets.commands.playlist import write_m3u
    from embed_assets.library.walk import require_library
    from embed_assets.reports import tracks_by_id

    root = require_library(project.library.root)
    by_id = tracks_by_id(project.tables, [m.track_id for m in matches])
    tracks = [by_id[m.track_id] for m in matches if m.track_id in by_id]
    left_out = write_m3u(file, root, tracks)
    tell_all([*left_out, f"{len(tracks) - len(left_out)} tracks written to {file}"])


def tell_all(notes: Iterable[str]) -> None:
    """Lines for people on stderr."""
    for note in notes:
        tell(note)
