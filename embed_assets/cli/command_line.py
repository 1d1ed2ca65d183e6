"""The command line `embed-assets`: parses arguments and prints; `commands` does the work."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from embed_assets.access import DEFAULT_ADDRESS, Address
from embed_assets.api import Library, open_library
from embed_assets.cli import index, queries, terminal
from embed_assets.cli.terminal import AsJson
from embed_assets.errors import EmbedAssetsError, ExitCode
from embed_assets.formats import counted, plain
from embed_assets.settings import Settings, forget_secrets

app = typer.Typer(
    help="Keep a Milvus vector index in step with a music library. Settings are EMBED_* environment"
    " variables or lines in .env; see docs/settings.md.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


DEMO_LISTS = 3
"""Tracks for which `demo` prints similar ones."""


@app.command(epilog="Example: EMBED_LIBRARY=~/Music embed-assets up --port 3000")
def up(
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="Port of the Dagster UI, on 127.0.0.1.")
    ] = 3000,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Print all that Dagster prints as well.")
    ] = False,
) -> None:
    """Serve the Dagster UI and keep the index up to date until Ctrl-C.

    Prints one line for each thing that happens to the library. Dagster's own output is in
    dagster.log in EMBED_HOME, whose size is limited. With EMBED_HTTP queries are answered over
    HTTP, too, as by `serve`.
    """
    from embed_assets.operations import up as command
    from embed_assets.operations.ready import ready

    settings = Settings.load()
    settings.require_http()
    forget_secrets()
    settings = ready(settings, terminal.print_note)
    raise typer.Exit(command.up(settings, port, terminal.print_note, verbose=verbose))


@app.command(epilog="Example: EMBED_LIBRARY=~/Music embed-assets sync --json")
def sync(
    confirm_removals: Annotated[
        bool,
        typer.Option(
            "--confirm-removals", help="Remove missing music from the index, however much it is."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Scan the library once, run what has changed, and wait for it.

    Exit codes: 0 if everything is up to date (rejected tracks do not count as failures), 1 if a
    folder failed, 2 if a setting is wrong or the library is missing.
    """
    progress = _quiet(as_json)
    library = open_library()
    forget_secrets()
    result = library.sync(confirm_removals=confirm_removals, progress=progress)
    if as_json:
        terminal.print_json(result.as_json())
    else:
        typer.echo(
            f"{counted(result.tracks, 'track')} in {counted(result.folders, 'folder')}:"
            f" {result.embedded} embedded, {result.reused} reused, {result.rejected} rejected,"
            f" {result.removed} removed, {counted(result.failed_folders, 'folder')} failed,"
            f" {counted(len(result.runs), 'run')}, {result.seconds:.1f} s"
        )
        if result.listed:
            typer.echo("`embed-assets errors` says why.")
        if result.links_skipped:
            links = counted(result.links_skipped, "symbolic link")
            typer.echo(f"{links} not followed: see `embed-assets doctor`.")
    raise typer.Exit(ExitCode.FAILED if result.failed_folders else ExitCode.DONE)


@app.command(epilog="Example: embed-assets status --watch")
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

    Exit codes: 1 if the Milvus server cannot be reached, 2 if the library cannot be scanned; the
    first line gives the reason.
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
        terminal.print_json(found.as_json())
    else:
        screen.show(found)
    if found.problem:
        raise typer.Exit(ExitCode.WRONG)
    raise typer.Exit(ExitCode.FAILED if found.milvus else ExitCode.DONE)


@app.command(epilog="Example: embed-assets errors --json")
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
    from embed_assets.operations.retry import retry as again

    if clear is not None:
        terminal.require_text("--clear", clear)
        found = again(Settings.load(), clear)
        if as_json:
            terminal.print_json({"cleared": found.folders})
        else:
            _say_asked(found.folders, found.tracks)
        return
    rows = open_library().errors()
    if as_json:
        terminal.print_json(rows)
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


@app.command(epilog='Example: embed-assets retry "Nina Simone/Pastel Blues"')
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
    from dataclasses import asdict

    from embed_assets.operations.retry import retry as command

    found = command(Settings.load(), path)
    if as_json:
        terminal.print_json(asdict(found))
    else:
        _say_asked(found.folders, found.tracks)


def _say_asked(folders: list[str], tracks: int) -> None:
    typer.echo(
        f"{counted(tracks, 'track')} will be read and embedded again by `up` or the next `sync`:"
    )
    for folder in folders:
        typer.echo(plain(f"    {folder}"))


@app.command(epilog="Example: embed-assets doctor --deep")
def doctor(
    as_json: AsJson = False,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read every stored vector instead of a sample.")
    ] = False,
) -> None:
    """Check everything that a run needs, and say how to fix what is wrong.

    Exit code 1: at least one check failed.
    """
    from dataclasses import asdict

    from embed_assets.operations.doctor import doctor as command

    found = command(Settings.load(), deep=deep)
    if as_json:
        terminal.print_json([asdict(f) for f in found])
    else:
        for f in found:
            word = {True: "ok", False: "WRONG", None: "unknown"}[f.ok]
            typer.echo(plain(f"{f.check:8} {word:8} {f.message}"))
    wrong = any(f.ok is False for f in found)
    raise typer.Exit(ExitCode.FAILED if wrong else ExitCode.DONE)


@app.command("try-int8", epilog="Example: embed-assets try-int8 --tracks 200")
def try_int8(
    tracks: Annotated[
        int, typer.Option("--tracks", "-n", min=40, max=2000, help="Number of tracks to measure.")
    ] = 100,
    as_json: AsJson = False,
) -> None:
    """Measure on your own music whether `muq-int8` is worth using.

    Creates the int8 model if there is none yet, calibrated on 8 tracks of the library. This is done
    once, takes five minutes and 6 GB of memory, and needs `pip install 'embed_assets[int8]'`. Then
    embeds other tracks in int8 and in float32 and compares neighbours and speed, in about 15
    minutes on two cores. Nothing is indexed. Exit codes: 0 if it was measured, whatever the result;
    2 if int8 cannot be used on this machine.
    """
    from embed_assets.operations.try_int8 import try_int8 as command

    found = command(Settings.load(), tracks, _quiet(as_json))
    if as_json:
        terminal.print_json(found.as_json())
        return
    typer.echo(
        f"{found.tracks} of {found.library_tracks} tracks, windows {found.windows}, pooling"
        f" {found.pooling}; {found.skipped} could not be embedded\n"
        f"share of the 10 nearest in float32 that are among the 10 nearest in int8:"
        f" {found.overlap:.3f} +/- {found.overlap_error:.3f} (goal {found.goal_overlap:g}); with"
        f" half of the tracks: {found.overlap_half:.3f}\n"
        f"share of tracks whose nearest neighbour stays the same: {found.same_nearest:.3f}\n"
        f"cosine to float32: smallest {found.smallest_cosine:.4f}, median"
        f" {found.median_cosine:.4f}\n"
        "seconds of audio per second of one core: "
        + "; ".join(f"{name} {speed:g}" for name, speed in found.speeds.items())
        + f"\n\n{found.verdict}"
    )


queries.add_to(app)


@app.command(epilog="Example: embed-assets demo")
def demo() -> None:
    """Index 28 sample tracks and query them; needs no download and no settings."""
    from embed_assets.operations import demo as command
    from embed_assets.search.served import encoder_note

    mine = command.demo_settings(Settings.load())
    result = command.demo(mine, terminal.print_note)
    library = Library(mine)
    paths = library.tracks()["path"]
    for path in paths[:: max(1, len(paths) // DEMO_LISTS)][:DEMO_LISTS]:
        answer = library.similar(path, 5)
        typer.echo()
        terminal.print_matches(f"Sounds like {answer.query.name}:", answer)
    me = "embed-assets" if shutil.which("embed-assets") else sys.argv[0]
    where = f"EMBED_LIBRARY={mine.library} EMBED_HOME={mine.home} EMBED_ENCODER=acoustic"
    typer.echo(
        f"\n{result.tracks} tracks in {result.seconds:.0f} s."
        f" Vectors: {encoder_note(mine)}\n\n"
        f"See it in the Dagster UI:\n    {where} {me} up\n"
        f"then drop an album into {mine.library} and watch it arrive.\n"
        f"Your own music:\n    EMBED_LIBRARY=~/Music EMBED_ENCODER=acoustic {me} up\n"
        f"With MuQ (1.3 GB of weights, CC-BY-NC 4.0):\n    EMBED_LIBRARY=~/Music {me} up"
    )


index.add_to(app)


@app.command(epilog="Example: embed-assets serve --port 8000")
def serve(
    host: Annotated[
        str | None,
        typer.Option(help="Address to serve at. Default: that of EMBED_HTTP, or 127.0.0.1."),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, help="Port; 0: any free one. Default: that of EMBED_HTTP, or 8000."
        ),
    ] = None,
    root_path: Annotated[
        str, typer.Option(help="Path of a reverse proxy that leads here, e.g. /music.")
    ] = "",
    # How `up` runs it.
    until_stdin_ends: Annotated[bool, typer.Option("--until-stdin-ends", hidden=True)] = False,
) -> None:
    """Answer queries over HTTP until Ctrl-C; see docs/http.md.

    Runs beside `up` and `sync`, and never waits for them. Only this machine may ask, unless
    EMBED_HTTP_TOKEN or EMBED_HTTP_READ_TOKEN is set. With EMBED_HTTP `up` does the same.
    """
    from embed_assets.http import server
    from embed_assets.operations.read_only import require_setting

    settings = Settings.load()
    require_setting(settings)
    default = settings.http_address or DEFAULT_ADDRESS
    address = Address(
        default.host if host is None else host, default.port if port is None else port
    )
    server.serve(
        settings,
        address,
        root_path,
        terminal.print_note,
        named=f"EMBED_HTTP={settings.http}" if host is None else f"--host {host}",
        until_stdin_ends=until_stdin_ends,
    )


def main() -> None:
    """Entry point: our own errors become one line on stderr and an exit code."""
    for sentence in Settings.mistyped():
        terminal.print_note(sentence)
    try:
        app()
    except EmbedAssetsError as e:
        terminal.print_note(f"embed-assets: {e}")
        sys.exit(e.exit_code)
    except KeyboardInterrupt:
        sys.exit(ExitCode.INTERRUPTED)


def _quiet(quiet: bool) -> Callable[[str], None]:
    return (lambda _: None) if quiet else terminal.print_note
