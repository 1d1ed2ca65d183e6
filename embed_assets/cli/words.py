"""The command that finds music by words of what is heard."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from embed_assets.api import open_library
from embed_assets.cli.options import M3u, OneRecording, PerArtist, To, with_filters
from embed_assets.cli.playlists import Playlists
from embed_assets.cli.queries import print_result
from embed_assets.cli.terminal import AsJson
from embed_assets.search.served import encoder_note


def add_to(app: typer.Typer) -> None:
    """Add this command to the command line."""
    example = 'Example: embed-assets find "calm piano" "rain" --not "singing" -n 10'
    app.command(epilog=example)(find)


@with_filters
def find(
    phrases: Annotated[
        list[str],
        typer.Argument(help='What is to be heard, each phrase in quotes: "calm piano" "rain".'),
    ],
    n: Annotated[int, typer.Option("-n", min=1, max=1000, help="Number of results.")] = 20,
    without: Annotated[
        list[str] | None,
        typer.Option("--not", metavar="PHRASE", help="Less of this; repeatable."),
    ] = None,
    like: Annotated[
        list[str] | None,
        typer.Option(help="Also be like this: a path, a folder or words of a title; repeatable."),
    ] = None,
    per_artist: PerArtist = 0,
    where: Any = (),
    one_recording: OneRecording = False,
    m3u: M3u = None,
    to: To = None,
    as_json: AsJson = False,
) -> None:
    """List the tracks that sound most like what you say. Needs EMBED_WORDS.

    Two to four short phrases of what is heard find most: instruments, moods, styles, voices. They
    are averaged, and half of each --not is subtracted. A negation inside a phrase does not work:
    "no singing" finds singing. Keys, lyrics and the language that is sung are not heard.

    The score is a cosine, smaller than those of `similar`, and not to be compared with them. What
    counts is how many standard deviations (sd) it is above the mean of the library.
    """
    library = open_library()
    answer = library.find(
        phrases,
        n,
        without=without or (),
        like=like or (),
        where=where,
        per_artist=per_artist,
        one_recording=one_recording,
    )
    print_result(
        answer,
        f"Sounds like {answer.query.name}:",
        Playlists(library, m3u, to),
        as_json=as_json,
        asked=n,
        place=lambda m: f"{m.deviations:+.1f} sd",
    )
    if not as_json:
        note = encoder_note(library.settings, answer.spec)
        typer.echo(f"(scores are cosines, sd standard deviations above the mean; vectors: {note})")
