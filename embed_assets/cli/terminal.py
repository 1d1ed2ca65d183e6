"""Printing lines and JSON; control characters in names and tags never reach the terminal."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, is_dataclass
from typing import Annotated, Any

import typer

from embed_assets.formats import counted, plain
from embed_assets.index.nearest import Match

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]

_IN_JSON = re.compile(r"[\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def require_text(option: str, value: str) -> None:
    """Refuse an option with an empty value, e.g. of an unset variable in a script.

    Raises typer.BadParameter.
    """
    if not value.strip():
        raise typer.BadParameter(f"{option} is empty: give it a value, or leave it out")


def print_json(value: Any) -> None:
    """Print a value as one JSON document on stdout; dataclasses become objects."""
    text = json.dumps(value, ensure_ascii=False, default=_as_json)
    typer.echo(_IN_JSON.sub(lambda m: f"\\u{ord(m[0]):04x}", text))


def _as_json(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else str(value)


def print_note(text: str) -> None:
    """Print one line for people on stderr, even if a name contains a line break."""
    typer.echo(plain(text), err=True)


def print_matches(
    heading: str,
    matches: Iterable[Match],
    place: Callable[[Any], str] = lambda _: "",
    *,
    asked: int = 0,
) -> None:
    """Print each match at once: cosine, position in the track if given, title, artist, paths.

    `asked`: the requested number; if there are fewer, a last line says so.
    """
    typer.echo(plain(heading))
    number = 0
    for m in matches:
        number += 1
        by = f" - {m.artist}" if m.artist else ""
        where = f"{place(m):>12}  " if place(m) else ""
        also = f", also {m.copies[0]}" if m.copies else ""
        also += f" and {len(m.copies) - 1} more" if len(m.copies) > 1 else ""
        typer.echo(plain(f"  {m.score:+.3f}  {where}{m.title}{by}  ({m.path}){also}"))
    if not number:
        typer.echo("  none: no other track matches")
    elif number < asked:
        match = "matches" if number == 1 else "match"
        typer.echo(f"  only {counted(number, 'track')} {match}")
