"""The command line `embed-assets`: parses arguments, calls operations, prints the results."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from embed_assets.access import DEFAULT_ADDRESS, Address
from embed_assets.api import Library, open_library
from embed_assets.cli import (
    cluster,
    evaluate,
    index,
    queries,
    reports,
    shards,
    tables,
    terminal,
    vectors,
    words,
)
from embed_assets.cli.terminal import AsJson
from embed_assets.errors import EmbedAssetsError, ExitCode, is_forbidden, is_passing
from embed_assets.formats import counted
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
    folder failed or the weights for `find` are missing, 2 if a setting is wrong or the library is
    missing.
    """
    progress = _progress(quiet=as_json)
    library = open_library()
    forget_secrets()
    result = library.sync(confirm_removals=confirm_removals, progress=progress)
    if as_json:
        terminal.print_json(result.as_json())
    else:
        words = f" and {result.words_embedded} for `find`" if result.words_embedded else ""
        others = f" and {len(result.other_runs)} of `up`" if result.other_runs else ""
        typer.echo(
            f"{counted(result.tracks, 'track')} ({result.rejected} rejected) in"
            f" {counted(result.folders, 'folder')}: {result.embedded} embedded{words},"
            f" {result.reused} reused, {result.removed} removed,"
            f" {counted(result.failed_folders, 'folder')} failed,"
            f" {counted(len(result.runs), 'run')}{others}, {result.seconds:.1f} s"
        )
        if result.listed:
            typer.echo("`embed-assets errors` says why.")
        if result.links_skipped:
            links = counted(result.links_skipped, "symbolic link")
            typer.echo(f"{links} not followed: see `embed-assets doctor`.")
        if result.words_missing:
            typer.echo("Nothing was embedded for `find`: `embed-assets doctor` says why.")
    failed = result.failed_folders or result.words_missing
    raise typer.Exit(ExitCode.FAILED if failed else ExitCode.DONE)


reports.add_to(app)


@app.command("try-int8", epilog="Example: embed-assets try-int8 --tracks 200")
def try_int8(
    tracks: Annotated[
        int, typer.Option("--tracks", "-n", min=40, max=2000, help="Number of tracks to measure.")
    ] = 100,
    as_json: AsJson = False,
) -> None:
    """Measure on your own music whether `muq-int8` is worth using.

    Creates the int8 model if there is none yet, calibrated on 8 tracks of the library. This is done
    once, takes five minutes and 6 GB of memory, and needs `pip install --editable '.[int8]'` in the
    clone of embed_assets. Then embeds other tracks in int8 and in float32 and compares neighbours
    and speed, in about 15 minutes on two cores. Nothing is indexed. Exit codes: 0 if it was
    measured, whatever the result; 2 if int8 cannot be used on this machine.
    """
    from embed_assets.operations.try_int8 import try_int8 as command

    found = command(Settings.load(), tracks, _progress(quiet=as_json))
    if as_json:
        terminal.print_json(found)
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
evaluate.add_to(app)
words.add_to(app)


@app.command(epilog="Example: embed-assets demo")
def demo() -> None:
    """Index 28 sample tracks and query them; needs no download and no settings."""
    from embed_assets.operations import demo as command
    from embed_assets.search.served import encoder_note

    settings = command.demo_settings(Settings.load())
    result = command.demo(settings, terminal.print_note)
    library = Library(settings)
    paths = library.tracks()["path"]
    for path in paths[:: max(1, len(paths) // DEMO_LISTS)][:DEMO_LISTS]:
        answer = library.similar(path, 5)
        typer.echo()
        terminal.print_matches(f"Sounds like {answer.query.name}:", answer)
    program = "embed-assets" if shutil.which("embed-assets") else sys.argv[0]
    variables = (
        f"EMBED_LIBRARY={settings.library} EMBED_HOME={settings.home} EMBED_ENCODER=acoustic"
    )
    typer.echo(
        f"\n{result.tracks} tracks in {result.seconds:.0f} s."
        f" Vectors: {encoder_note(settings)}\n\n"
        f"See it in the Dagster UI:\n    {variables} {program} up\n"
        f"then drop an album into {settings.library} and watch it arrive.\n"
        f"Your own music:\n    EMBED_LIBRARY=~/Music EMBED_ENCODER=acoustic {program} up\n"
        f"With MuQ (1.3 GB of weights, CC-BY-NC 4.0):\n    EMBED_LIBRARY=~/Music {program} up"
    )


index.add_to(app)
tables.add_to(app)
shards.add_to(app)
vectors.add_to(app)
cluster.add_to(app)


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


def run() -> None:
    """Run a command; our own errors become one line on stderr and an exit code."""
    for sentence in Settings.mistyped():
        terminal.print_note(sentence)
    try:
        app()
    except EmbedAssetsError as e:
        terminal.print_note(f"embed-assets: {e}")
        sys.exit(e.exit_code)
    except OSError as e:
        if is_forbidden(e) and e.filename:
            terminal.print_note(
                f"embed-assets: {e.filename}: {e.strerror}; change its permissions, or name another"
                " folder"
            )
            sys.exit(ExitCode.WRONG)
        if not is_passing(e):
            raise
        where = e.filename or "what it prints or reads"
        terminal.print_note(f"embed-assets: {where}: {e.strerror}; make room, or check the disk")
        # Python would try again to write the rest while it ends, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(ExitCode.FAILED)


def _progress(*, quiet: bool) -> Callable[[str], None]:
    return (lambda _: None) if quiet else terminal.print_note
