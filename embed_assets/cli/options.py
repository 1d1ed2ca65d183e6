"""Options shared by the commands that query the index, and how they are parsed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from embed_assets.api import Library
from embed_assets.cli.terminal import print_note
from embed_assets.project import for_reading
from embed_assets.search.filters import Condition, condition, parse
from embed_assets.search.names import Names, each_or_one

Query = Annotated[
    list[str],
    typer.Argument(
        help="A track or folder, or several: the path of each, or words from its title and artist"
        " in quotes. Words without quotes are one name."
    ),
]
M3u = Annotated[
    Path | None, typer.Option("--m3u", help="Also write a playlist, with paths relative to it.")
]
To = Annotated[
    str | None,
    typer.Option(
        "--to",
        metavar="SERVER:NAME",
        help="Also put the tracks into the playlist NAME of a music server in EMBED_SERVERS; a"
        " playlist of that name is replaced.",
    ),
]
PerArtist = Annotated[int, typer.Option(min=0, help="Most results per artist; 0: no limit.")]
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


def conditions(
    genre: Genre = None,
    not_genre: NotGenre = None,
    artist: Artist = None,
    not_artist: NotArtist = None,
    year: Year = "",
    min_duration: Least = "",
    max_duration: Most = "",
    where: Where = None,
) -> list[Condition]:
    """The conditions of these options."""
    found = [condition("genre", g) for g in genre or ()]
    found += [condition("genre", g, negate=True) for g in not_genre or ()]
    found += [condition("artist", a) for a in artist or ()]
    found += [condition("artist", a, negate=True) for a in not_artist or ()]
    found += [condition("year", year)] if year else []
    found += [condition("duration", f"{min_duration}..")] if min_duration else []
    found += [condition("duration", f"..{max_duration}")] if max_duration else []
    return found + [parse(w) for w in where or ()]


def with_filters(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `conditions` in place of its parameter `where`.

    Typer turns the parameters of a function into options, so they are added to its signature.
    """
    options = inspect.signature(conditions, eval_str=True).parameters
    own = inspect.signature(command, eval_str=True)
    parameters: list[inspect.Parameter] = []
    for name, parameter in own.parameters.items():
        parameters += options.values() if name == "where" else [parameter]

    @wraps(command)
    def with_options(**values: Any) -> None:
        where = conditions(**{name: values.pop(name) for name in options})
        command(**values, where=where)

    del with_options.__wrapped__  # Otherwise Typer would use its signature.
    # Functions may have this attribute, but their type does not declare it.
    with_options.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    with_options.__annotations__ = {p.name: p.annotation for p in parameters}
    return with_options


def meant(library: Library, arguments: list[str]) -> list[str]:
    """The names in arguments of the command line; see `each_or_one`."""
    return each_or_one(Names(for_reading(library.settings)), arguments)


def print_notes(notes: Iterable[str]) -> None:
    """Print lines for people on stderr."""
    for note in notes:
        print_note(note)
