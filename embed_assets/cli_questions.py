"""The commands that ask the index: arguments in, lines or JSON out; see `commands/similar.py`."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from embed_assets.cli_options import (
    Artist,
    Genre,
    Least,
    M3u,
    Most,
    NotArtist,
    NotGenre,
    OneRecording,
    Query,
    Where,
    Year,
    conditions,
    playlist,
    seconds_of,
    tell_all,
)
from embed_assets.commands.terminal import AsJson, plain, print_json, print_matches
from embed_assets.settings import Settings


def add_to(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    example = "Example: embed-assets "
    app.command(epilog=example + 'similar "nina simone sinnerman" -n 10 --year 1955..1965')(similar)
    app.command(epilog=example + 'path "Blue Train" Kraftwerk/Autobahn.flac --steps 12')(path)
    app.command(epilog=example + "radio Miles/Blue -n 50 --m3u evening.m3u")(radio)
    app.command(epilog=example + "duplicates --json")(duplicates)
    app.command(epilog=example + 'parts "long mix" --part 1:30..2:00 -n 10')(parts)
    app.command("map", epilog=example + "map library.html --by folder")(draw_map)


def similar(
    query: Query,
    n: Annotated[int, typer.Option("-n", min=1, max=1000, help="How many.")] = 20,
    also: Annotated[
        list[str] | None, typer.Option(help="One more to be like: a path, a folder or words.")
    ] = None,
    avoid: Annotated[
        list[str] | None,
        typer.Option(help="Leave out what is nearer to this: a path, a folder or words."),
    ] = None,
    per_artist: Annotated[int, typer.Option(min=0, help="At most so many an artist; 0: any.")] = 0,
    genre: Genre = None,
    not_genre: NotGenre = None,
    artist: Artist = None,
    not_artist: NotArtist = None,
    year: Year = "",
    min_duration: Least = "",
    max_duration: Most = "",
    where: Where = None,
    one_recording: OneRecording = False,
    m3u: M3u = None,
    as_json: AsJson = False,
) -> None:
    """List the tracks that sound most like one, several or a folder; scores are cosines in [-1, 1].

    Several paths are several tracks to be like. Conditions must all hold; the same option given
    twice as well. Equal audio is shown once, as the track whose path sorts first of those that fit;
    the others are its `copies`.
    """
    from embed_assets.commands import similar as command
    from embed_assets.commands.reading import reading
    from embed_assets.commands.served import encoder_note

    settings = Settings.load()
    project = reading(settings)
    answer = command.similar(
        project,
        query,
        n,
        also=also or (),
        avoid=avoid or (),
        where=conditions(
            genre, not_genre, artist, not_artist, year, min_duration, max_duration, where
        ),
        per_artist=per_artist,
        one_recording=one_recording,
    )
    tell_all(answer.notes)
    playlist(project, m3u, answer.matches)
    if as_json:
        print_json([command.as_json(m) for m in answer.matches])
        return
    print_matches(f"Sounds like {answer.name}:", answer.matches, asked=n)
    typer.echo(f"(scores are cosines in [-1, 1]; vectors: {encoder_note(settings, answer.spec)})")


def parts(
    query: Query,
    part: Annotated[
        str,
        typer.Option(
            "--part",
            help="Which part of it: FROM..TO, or a place, as 1:30..2:00, 90s..2m, 12:05; left"
            " out: all of it.",
        ),
    ] = "",
    n: Annotated[int, typer.Option("-n", min=1, max=1000, help="How many.")] = 20,
    per_artist: Annotated[int, typer.Option(min=0, help="At most so many an artist; 0: any.")] = 0,
    genre: Genre = None,
    not_genre: NotGenre = None,
    artist: Artist = None,
    not_artist: NotArtist = None,
    year: Year = "",
    min_duration: Least = "",
    max_duration: Most = "",
    where: Where = None,
    one_recording: OneRecording = False,
    m3u: M3u = None,
    as_json: AsJson = False,
) -> None:
    """List the tracks a part of which sounds most like a part of this one, and where in them.

    Finds a medley or a long mix by one of its parts. Equal audio is shown once. Scores are cosines
    in [-1, 1], of the best window of each track. Needs EMBED_PARTS=true; EMBED_WINDOWS says which
    parts are there to find.
    """
    from embed_assets.commands import parts as command
    from embed_assets.commands import similar
    from embed_assets.commands.reading import reading
    from embed_assets.commands.served import encoder_note

    settings = Settings.load()
    project = reading(settings)
    chosen = conditions(
        genre, not_genre, artist, not_artist, year, min_duration, max_duration, where
    )
    answer, notes = command.parts(
        project,
        query,
        n,
        part=seconds_of(part),
        where=chosen,
        per_artist=per_artist,
        one_recording=one_recording,
    )
    tell_all([*answer.notes, *notes])
    playlist(project, m3u, answer.matches)
    if as_json:
        print_json([similar.as_json(m) for m in answer.matches])
        return
    print_matches(
        f"Parts that sound like {answer.name}{f', {part}' if part else ''}:",
        answer.matches,
        lambda m: f"{command.clock(m.start)}..{command.clock(m.end)}",
    )
    note = encoder_note(settings, answer.spec)
    typer.echo(f"(scores are cosines in [-1, 1], of the best window; vectors: {note})")


def path(
    start: Annotated[str, typer.Argument(help="The first track: a path, or words.")],
    end: Annotated[str, typer.Argument(help="The last track: a path, or words.")],
    steps: Annotated[int, typer.Option(min=2, max=200, help="Tracks, both ends included.")] = 10,
    genre: Genre = None,
    not_genre: NotGenre = None,
    artist: Artist = None,
    not_artist: NotArtist = None,
    year: Year = "",
    min_duration: Least = "",
    max_duration: Most = "",
    where: Where = None,
    one_recording: OneRecording = False,
    m3u: M3u = None,
    as_json: AsJson = False,
) -> None:
    """A smooth way from one track to another; the score is the cosine to the track before."""
    from embed_assets.commands import similar as command
    from embed_assets.commands.reading import reading

    project = reading(Settings.load())
    chosen = conditions(
        genre, not_genre, artist, not_artist, year, min_duration, max_duration, where
    )
    answer = command.path(project, start, end, steps, chosen, one_recording=one_recording)
    tell_all(answer.notes)
    playlist(project, m3u, answer.matches)
    if as_json:
        print_json([command.as_json(m) for m in answer.matches])
        return
    print_matches("A way (score: the cosine to the track before):", answer.matches, asked=steps)


def radio(
    query: Query,
    n: Annotated[
        int, typer.Option("-n", min=0, help="How many; 0: until all were played, or Ctrl-C.")
    ] = 50,
    drift: Annotated[
        float, typer.Option(min=0, max=1, help="0 stays near the seed, 1 follows the last track.")
    ] = 0.5,
    random: Annotated[
        int | None, typer.Option(min=0, help="A number; the same one gives the same drift.")
    ] = None,
    genre: Genre = None,
    not_genre: NotGenre = None,
    artist: Artist = None,
    not_artist: NotArtist = None,
    year: Year = "",
    min_duration: Least = "",
    max_duration: Most = "",
    where: Where = None,
    one_recording: OneRecording = False,
    m3u: M3u = None,
    as_json: AsJson = False,
) -> None:
    """Drift away from a track through the library; the score is the cosine to the track before."""
    from embed_assets.commands import similar as command
    from embed_assets.commands.reading import reading

    project = reading(Settings.load())
    chosen = conditions(
        genre, not_genre, artist, not_artist, year, min_duration, max_duration, where
    )
    found, drifting = command.radio(
        project, query, where=chosen, drift=drift, random=random, one_recording=one_recording
    )
    tell_all(f.note for f in found if f.note)
    played = islice(drifting, n or None)
    if as_json or m3u:
        played = list(played)
        playlist(project, m3u, played)
    if as_json:
        print_json([command.as_json(m) for m in played])
        return
    print_matches(f"Drifting from {' and '.join(f.name for f in found)}:", played, asked=n)


def duplicates(
    least: Annotated[
        float | None,
        typer.Option(
            "--min-score",
            min=-1,
            max=1,
            help="Cosine from which a pair is suggested; by the encoder if left out: .95 of"
            " `acoustic`, else .995.",
        ),
    ] = None,
    where: Where = None,
    as_json: AsJson = False,
) -> None:
    """List what the library has twice: the same audio, and pairs that may be one recording.

    Nothing is merged or deleted. A pair is only a suggestion: its lengths differ by at most 2 s and
    its vectors hardly at all.
    """
    from embed_assets.commands import similar as command
    from embed_assets.commands.reading import reading
    from embed_assets.index.filters import parse

    project = reading(Settings.load())
    found = command.duplicates(project, least, [parse(w) for w in where or ()])
    if as_json:
        print_json([command.double_as_json(d) for d in found])
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
        str, typer.Option(help="Colour by `genre` or `folder`; default: what most tracks have.")
    ] = "",
    method: Annotated[
        str, typer.Option(help="`tsne` or `pca`; default: tsne up to 5,000 tracks.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Draw the library: one HTML file, no network; near is alike, a click shows what is similar."""
    from embed_assets.commands.draw import write_map
    from embed_assets.commands.reading import reading

    if by not in ("", "genre", "folder") or method not in ("", "tsne", "pca"):
        raise typer.BadParameter("--by is genre or folder, --method is tsne or pca")
    told = write_map(reading(Settings.load()), file, by, method)
    if as_json:
        print_json(told)
        return
    typer.echo(plain(f"{told['file']}: {told['tracks']} tracks by {told['by']} ({told['method']})"))
