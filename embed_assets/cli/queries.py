"""Commands that query the index; they parse arguments and print the answers."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from embed_assets.api import open_library
from embed_assets.cli.options import (
    M3u,
    OneRecording,
    PerArtist,
    Query,
    To,
    Where,
    meant,
    print_notes,
    with_filters,
)
from embed_assets.cli.playlists import Playlists
from embed_assets.cli.terminal import AsJson, print_json, print_matches
from embed_assets.formats import plain
from embed_assets.search.answers import Result
from embed_assets.search.parts import clock
from embed_assets.search.served import encoder_note


def add_to(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    example = "Example: embed-assets "
    app.command(epilog=example + 'similar "nina simone sinnerman" -n 10 --year 1955..1965')(similar)
    app.command(epilog=example + 'path "Blue Train" Kraftwerk/Autobahn.flac --steps 12')(path)
    app.command(epilog=example + "radio Miles/Blue -n 50 --m3u evening.m3u")(radio)
    app.command(epilog=example + "duplicates --json")(duplicates)
    app.command(epilog=example + 'parts "long mix" --part 1:30..2:00 -n 10')(parts)
    app.command("map", epilog=example + "map library.html --by folder")(draw_map)


@with_filters
def similar(
    query: Query,
    n: Annotated[int, typer.Option("-n", min=1, max=1000, help="Number of results.")] = 20,
    also: Annotated[
        list[str] | None,
        typer.Option(help="Also be like this: a path, a folder or words; repeatable."),
    ] = None,
    avoid: Annotated[
        list[str] | None,
        typer.Option(
            help="Drop results that are closer to this than to your query: a path, a folder or"
            " words; repeatable."
        ),
    ] = None,
    per_artist: PerArtist = 0,
    where: Any = (),
    one_recording: OneRecording = False,
    m3u: M3u = None,
    to: To = None,
    as_json: AsJson = False,
) -> None:
    """List the tracks that sound most like a track, several tracks or a folder.

    Scores are cosines in [-1, 1]. All filters must match, also when an option is repeated.
    Identical audio is listed once, under the path that sorts first among those that match; the
    other paths are its `copies`.
    """
    library = open_library()
    answer = library.similar(
        [*meant(library, query), *(also or ())],
        n,
        avoid=avoid or (),
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
    )
    if not as_json:
        note = encoder_note(library.settings, answer.spec)
        typer.echo(f"(scores are cosines in [-1, 1]; vectors: {note})")


@with_filters
def parts(
    query: Query,
    part: Annotated[
        str,
        typer.Option(
            "--part",
            help="Which part of the track: FROM..TO or a position, e.g. 1:30..2:00, 90s..2m, 12:05."
            " Default: all of it.",
        ),
    ] = "",
    n: Annotated[int, typer.Option("-n", min=1, max=1000, help="Number of results.")] = 20,
    per_artist: PerArtist = 0,
    where: Any = (),
    one_recording: OneRecording = False,
    m3u: M3u = None,
    to: To = None,
    as_json: AsJson = False,
) -> None:
    """List the tracks that contain a part which sounds like this track, and where that part is.

    Finds a medley or a long mix by one of its parts. Identical audio is listed once. The score is
    the cosine, in [-1, 1], of the best window of a track. Needs EMBED_PARTS=true; EMBED_WINDOWS
    decides how much of each track can be found.
    """
    library = open_library()
    answer = library.parts(
        meant(library, query),
        n,
        part=part,
        where=where,
        per_artist=per_artist,
        one_recording=one_recording,
    )
    heading = f"Parts that sound like {answer.query.name}{f', {part}' if part else ''}:"
    print_result(
        answer,
        heading,
        Playlists(library, m3u, to),
        as_json=as_json,
        place=lambda m: f"{clock(m.start)}..{clock(m.end)}",
    )
    if not as_json:
        note = encoder_note(library.settings, answer.spec)
        typer.echo(f"(scores are cosines in [-1, 1], of the best window; vectors: {note})")


@with_filters
def path(
    start: Annotated[str, typer.Argument(help="The first track: a path or words.")],
    end: Annotated[str, typer.Argument(help="The last track: a path or words.")],
    steps: Annotated[
        int, typer.Option(min=2, max=200, help="Number of tracks, both ends included.")
    ] = 10,
    where: Any = (),
    one_recording: OneRecording = False,
    m3u: M3u = None,
    to: To = None,
    as_json: AsJson = False,
) -> None:
    """List a smooth path from one track to another; a score is the cosine to the track before."""
    library = open_library()
    answer = library.path(start, end, steps, where=where, one_recording=one_recording)
    heading = "A path (score: the cosine to the track before):"
    print_result(answer, heading, Playlists(library, m3u, to), as_json=as_json, asked=steps)


@with_filters
def radio(
    query: Query,
    n: Annotated[
        int, typer.Option("-n", min=0, help="Number of tracks; 0: until all are played or Ctrl-C.")
    ] = 50,
    drift: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="0 stays near the first track, 1 follows the last one played."
        ),
    ] = 0.5,
    random: Annotated[
        int | None,
        typer.Option(min=0, help="Seed of the random choice; the same seed gives the same list."),
    ] = None,
    where: Any = (),
    one_recording: OneRecording = False,
    m3u: M3u = None,
    to: To = None,
    as_json: AsJson = False,
) -> None:
    """Drift from a track through the library; a score is the cosine to the track before."""
    library = open_library()
    seeds = meant(library, query)
    drifting = library.drift(
        seeds, drift=drift, seed=random, where=where, one_recording=one_recording
    )
    heading = f"Drifting from {drifting.result.query.name}:"
    if as_json or m3u or to:
        playlists = Playlists(library, m3u, to)
        print_result(drifting.take(n or None), heading, playlists, as_json=as_json, asked=n)
        return
    print_notes(drifting.result.notes)
    print_matches(heading, islice(drifting, n or None), asked=n)


def duplicates(
    least: Annotated[
        float | None,
        typer.Option(
            "--min-score",
            min=-1,
            max=1,
            help="Lowest cosine of a suggested pair. Default: .95 with the encoder `acoustic`, .995"
            " otherwise.",
        ),
    ] = None,
    where: Where = None,
    as_json: AsJson = False,
) -> None:
    """List duplicates: identical audio, and pairs that may be the same recording.

    Nothing is merged or deleted. A pair is a suggestion: durations that differ by at most 2 s, and
    nearly equal vectors.
    """
    found = open_library().duplicates(least, where=where or ())
    if as_json:
        print_json([d.as_json() for d in found])
        return
    for d in found:
        kind = "the same audio" if d.certain else f"perhaps one recording (cosine {d.score:.4f})"
        typer.echo(kind)
        for t in d.tracks:
            typer.echo(plain(f"    {t.path}  ({t.duration:.0f} s)"))
    certain = sum(d.certain for d in found)
    typer.echo(f"{certain} certain, {len(found) - certain} suggestions")


def draw_map(
    file: Annotated[Path, typer.Argument(help="The HTML file to write.")] = Path("map.html"),
    by: Annotated[
        str,
        typer.Option(
            help="Colour by `genre` or `folder`. Default: `genre` if most tracks have one."
        ),
    ] = "",
    method: Annotated[
        str, typer.Option(help="`tsne` or `pca`. Default: `tsne` up to 5,000 tracks.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Draw a map of the library: one HTML file that works offline; similar tracks are close."""
    if by not in ("", "genre", "folder") or method not in ("", "tsne", "pca"):
        raise typer.BadParameter("--by is genre or folder, --method is tsne or pca")
    found = open_library().draw_map(file, by, method)
    if as_json:
        print_json(found)
        return
    what = f"{found['tracks']} tracks by {found['by']} ({found['method']})"
    typer.echo(plain(f"{found['file']}: {what}"))


def print_result(
    result: Result,
    heading: str,
    playlists: Playlists,
    *,
    as_json: bool,
    place: Callable[[Any], str] = lambda _: "",
    asked: int = 0,
) -> None:
    """Print notes and matches, and write the playlists; see `print_matches`."""
    print_notes(result.notes)
    playlists.write(result)
    if as_json:
        print_json(list(result))
    else:
        print_matches(heading, result, place, asked=asked)
