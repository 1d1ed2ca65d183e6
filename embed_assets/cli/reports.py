"""Commands about the state of the library: `status`, `errors`, `retry`, `doctor`, `canary`.

They parse arguments and print; `command_line` adds them.
"""

from __future__ import annotations

from typing import Annotated

import typer

from embed_assets.api import open_library
from embed_assets.cli.terminal import AsJson, print_json, print_note, require_text
from embed_assets.errors import ExitCode
from embed_assets.formats import counted, plain
from embed_assets.project import for_reading
from embed_assets.search.served import spec_to_show
from embed_assets.settings import Settings


def add_to(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command(epilog="Example: embed-assets status --watch")(status)
    app.command(epilog="Example: embed-assets errors --json")(errors)
    app.command(epilog='Example: embed-assets retry "Nina Simone/Pastel Blues"')(retry)
    app.command(epilog="Example: embed-assets doctor --deep")(doctor)
    app.command(epilog="Example: embed-assets canary")(canary)


def status(
    as_json: AsJson = False,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch",
            help="Redraw every 2 s until Ctrl-C; in a pipe, print once. With --json, print one"
            " JSON document per line every 2 s.",
        ),
    ] = False,
) -> None:
    """Show tracks and folders by state, the current rate, and the time left.

    Exit codes: 1 if the Milvus server cannot be reached or the place of the vectors cannot be used,
    2 if the library cannot be scanned or the encoder's weights are missing; the first line gives
    the reason. Tracks are done when they are embedded or rejected, a folder is up to date when it
    is indexed as it is now.
    """
    from embed_assets.cli import screen

    library = open_library()
    if watch and as_json:
        screen.stream(library.status)
        return
    if watch and screen.can_redraw():
        screen.watch(library.status)
        return
    found = library.status()
    if as_json:
        print_json(found.as_json())
    else:
        screen.show(found)
    if found.problem or found.weights:
        raise typer.Exit(ExitCode.WRONG)
    raise typer.Exit(ExitCode.FAILED if found.milvus or found.vectors else ExitCode.DONE)


def errors(
    as_json: AsJson = False,
    clear: Annotated[
        str | None,
        typer.Option(
            "--clear",
            metavar="PATH",
            help="The same as `embed-assets retry PATH`.",
        ),
    ] = None,
) -> None:
    """List rejected tracks and folders that are not done, each with the reason."""
    from embed_assets.operations.retry import retry as command

    if clear is not None:
        require_text("--clear", clear)
        found = command(Settings.load(), clear)
        if as_json:
            print_json({"cleared": found.folders})
        else:
            _print_requested(found.folders, found.tracks)
        return
    library = open_library()
    rows = library.errors()
    if missing := spec_to_show(for_reading(library.settings))[1]:
        print_note(missing)
    if as_json:
        print_json(rows)
        return
    for row in rows:
        typer.echo(plain(row["path"]))
        typer.echo(plain(f"    {row['reason']}: {row['message']}"))
        if row["run_id"]:
            typer.echo(f"    run {row['run_id']}")
    typer.echo(
        plain(counted(len(rows), "problem") if rows else "no track rejected, no folder failed")
    )
    if rows:
        typer.echo(
            plain("A file is read again when it changes, or with `embed-assets retry PATH`.")
        )


def retry(
    path: Annotated[
        str,
        typer.Argument(
            metavar="PATH",
            help="A track, or a folder and all below it, as a path or as `errors` prints it.",
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Read and embed a track or a folder again, even if nothing seems to have changed.

    Use it for rejected or failed music, and for files whose change cannot be detected. The work is
    done at the next scan of `up`, or by the next `sync`; until then searches return the old
    results. Exit code 1: no track or folder has that name.
    """
    from embed_assets.operations.retry import retry as command

    found = command(Settings.load(), path)
    if as_json:
        print_json(found)
    else:
        _print_requested(found.folders, found.tracks)


def doctor(
    as_json: AsJson = False,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read every stored vector instead of a sample.")
    ] = False,
) -> None:
    """Check everything that a run needs, and say how to fix what is wrong.

    Exit code 1: at least one check failed.
    """
    from embed_assets.operations.doctor import doctor as command

    found = command(Settings.load(), deep=deep)
    if as_json:
        print_json(found)
    else:
        for f in found:
            word = {True: "ok", False: "WRONG", None: "unknown"}[f.ok]
            typer.echo(plain(f"{f.check:8} {word:8} {f.message}"))
    wrong = any(f.ok is False for f in found)
    raise typer.Exit(ExitCode.FAILED if wrong else ExitCode.DONE)


def canary(
    accept: Annotated[
        bool,
        typer.Option(
            "--accept",
            help="Take what this machine gives now as right: new vectors are written again, beside"
            " stored ones that differ.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check that this machine still makes the vectors that are stored; see docs/canary.md.

    Embeds twelve tracks of the library and a made-up clip again, and names the first stage that
    differs: decoder, resampler, features or encoder. `up` does so daily, and each run that embeds
    does after an upgrade. Exit code 1: vectors differ, and no new ones are written.
    """
    from embed_assets.operations.canary import canary as command

    found = command(Settings.load(), accept=accept)
    if as_json:
        print_json(found)
    else:
        for each in found.comparisons:
            distance = "first" if each.distance is None else f"{each.distance:.1e}"
            words = "  ".join(word for word in (each.stage, each.name, each.note) if word)
            typer.echo(plain(f"{each.level:6} {distance:8} {words}"))
        typer.echo(plain(found.message))
    raise typer.Exit(ExitCode.FAILED if found.level == "error" else ExitCode.DONE)


def _print_requested(folders: list[str], tracks: int) -> None:
    typer.echo(
        f"{counted(tracks, 'track')} will be read and embedded again by `up` or the next `sync`:"
    )
    for folder in folders:
        typer.echo(plain(f"    {folder}"))
