"""The command `embed-assets`: arguments in, lines or JSON out; the work stands in `commands`."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from embed_assets import cli_index, cli_questions
from embed_assets.commands import terminal
from embed_assets.commands.terminal import AsJson, counted
from embed_assets.errors import EmbedAssetsError, ExitCode
from embed_assets.settings import Settings

app = typer.Typer(
    help="Keeps a Milvus vector index in step with a music library. Settings are EMBED_* variables"
    " or lines in .env; see docs/settings.md.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.command(epilog="Example: EMBED_LIBRARY=~/Music embed-assets up --port 3000")
def up(
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="Port of the Dagster UI, on 127.0.0.1.")
    ] = 3000,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Print all that Dagster prints as well.")
    ] = False,
) -> None:
    """Serve the Dagster UI and keep the index in step until Ctrl-C.

    Prints a line for each thing that happens to the library. What Dagster prints is in dagster.log
    in EMBED_HOME, which is kept short.
    """
    from embed_assets.commands import up as command

    settings = _ready(Settings.load())
    raise typer.Exit(command.up(settings, port, terminal.tell, verbose))


@app.command(epilog="Example: EMBED_LIBRARY=~/Music embed-assets sync --json")
def sync(
    confirm_removals: Annotated[
        bool,
        typer.Option("--confirm-removals", help="Remove what is gone, however much it is."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Look at the library once, run what that calls for, and wait.

    Exit code 0: in step (rejected tracks are no failure); 1: a folder failed; 2: wrong
    configuration, or the library is not there.
    """
    from embed_assets.commands.sync import sync as command

    settings = _ready(Settings.load(), may_be_empty=confirm_removals)
    result = command(settings, confirm_removals=confirm_removals, tell=_quiet(as_json))
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
            typer.echo(f"{links} not followed: `embed-assets doctor` says what to do.")
    raise typer.Exit(ExitCode.FAILED if result.failed_folders else ExitCode.DONE)


@app.command(epilog="Example: embed-assets status --watch")
def status(
    as_json: AsJson = False,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch",
            help="Redraw every 2 s until Ctrl-C (not in a pipe: there it prints once); with --json,"
            " print a document on a line of its own every 2 s.",
        ),
    ] = False,
) -> None:
    """Say how many tracks and folders are in step, the rate, the time to go.

    Exit code 2: something keeps the library from being looked at; PROBLEM says what.
    """
    from embed_assets.commands import screen
    from embed_assets.commands.status import status as command

    settings = Settings.load()
    if watch and as_json:
        screen.stream(lambda: command(settings))
        return
    if watch and screen.can_redraw():
        screen.watch(lambda: command(settings))
        return
    found = command(settings)
    if as_json:
        terminal.print_json(found.as_json())
    else:
        screen.show(found)
    raise typer.Exit(ExitCode.WRONG if found.problem else ExitCode.DONE)


@app.command(epilog="Example: embed-assets errors --json")
def errors(
    as_json: AsJson = False,
    clear: Annotated[
        str | None,
        typer.Option(
            "--clear",
            metavar="PATH",
            help="As `embed-assets retry PATH`.",
        ),
    ] = None,
) -> None:
    """List every rejected track and every folder that is not done, with the reason."""
    from embed_assets.commands import errors as command
    from embed_assets.commands.retry import retry as again

    settings = Settings.load()
    if clear is not None:
        terminal.require_text("--clear", clear)
        found = again(settings, clear)
        if as_json:
            terminal.print_json({"cleared": found.folders})
        else:
            _say_asked(found.folders, found.tracks)
        return
    rows = command.errors(settings)
    if as_json:
        terminal.print_json(rows)
        return
    for row in rows:
        typer.echo(terminal.plain(row["path"]))
        typer.echo(terminal.plain(f"    {row['reason']}: {row['message']}"))
        if row["run_id"]:
            typer.echo(f"    run {row['run_id']}")
    typer.echo(
        terminal.plain(
            counted(len(rows), "problem") if rows else "no track rejected, no folder failed"
        )
    )
    if rows:
        typer.echo(
            terminal.plain(
                "A file is tried again when it changes, or with `embed-assets retry PATH`."
            )
        )


@app.command(epilog='Example: embed-assets retry "Nina Simone/Pastel Blues"')
def retry(
    path: Annotated[
        str,
        typer.Argument(
            metavar="PATH",
            help="A track, or a folder and all below it: in the library, or as `errors` prints it.",
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Have a track or a folder read and embedded anew, whatever is known of it.

    For files that changed and look as before, and for what was rejected or failed. `up` does it at
    its next look, or else the next `sync`; until then searches find what they found. Exit code 1:
    nothing of that name is known.
    """
    from dataclasses import asdict

    from embed_assets.commands.retry import retry as command

    found = command(Settings.load(), path)
    if as_json:
        terminal.print_json(asdict(found))
    else:
        _say_asked(found.folders, found.tracks)


def _say_asked(folders: list[str], tracks: int) -> None:
    typer.echo(
        f"{counted(tracks, 'track')}: read and embedded anew by `up`, or by the next `sync`:"
    )
    for folder in folders:
        typer.echo(terminal.plain(f"    {folder}"))


@app.command(epilog="Example: embed-assets doctor --deep")
def doctor(
    as_json: AsJson = False,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read every stored vector, not a sample of them.")
    ] = False,
) -> None:
    """Check everything that a run needs, and say what to do where something is wrong.

    Exit code 1 if anything is.
    """
    from dataclasses import asdict

    from embed_assets.commands.doctor import doctor as command

    found = command(Settings.load(), deep)
    if as_json:
        terminal.print_json([asdict(f) for f in found])
    else:
        for f in found:
            word = {True: "ok", False: "WRONG", None: "unknown"}[f.ok]
            typer.echo(terminal.plain(f"{f.check:8} {word:8} {f.message}"))
    wrong = any(f.ok is False for f in found)
    raise typer.Exit(ExitCode.FAILED if wrong else ExitCode.DONE)


@app.command("try-int8", epilog="Example: embed-assets try-int8 --tracks 200")
def try_int8(
    tracks: Annotated[
        int, typer.Option("--tracks", "-n", min=40, max=2000, help="How many tracks to try.")
    ] = 100,
    as_json: AsJson = False,
) -> None:
    """Measure on your music whether MuQ in int8 is worth it, and say so.

    Makes the model in int8 unless it is there, with ranges from 8 tracks of the library: once,
    five minutes, 6 GB of memory and `pip install 'embed_assets[int8]'`. Then embeds others in int8
    and in float32, and compares who is near whom, and how long it took: some 15 minutes on two
    cores. Nothing is indexed. Exit code 0: it was measured, for or against; 2: it cannot be used
    here.
    """
    from embed_assets.commands.try_int8 import try_int8 as command

    found = command(Settings.load(), tracks, _quiet(as_json))
    if as_json:
        terminal.print_json(found.as_json())
        return
    typer.echo(
        f"{found.tracks} of {found.library_tracks} tracks, windows {found.windows}, pooling"
        f" {found.pooling}; {found.skipped} could not be embedded\n"
        f"of the 10 nearest in float32 among the 10 in int8: {found.overlap:.3f}, give or take"
        f" {found.overlap_error:.3f} (goal {found.goal_overlap:g}); among half of the tracks:"
        f" {found.overlap_half:.3f}\n"
        f"the nearest stays the nearest: {found.same_nearest:.3f}\n"
        f"cosine to float32: smallest {found.smallest_cosine:.4f}, median"
        f" {found.median_cosine:.4f}\n"
        "audio-seconds a second of one core: "
        + "; ".join(f"{name} {speed:g}" for name, speed in found.speeds.items())
        + f"\n\n{found.verdict}"
    )


cli_questions.add_to(app)


@app.command(epilog="Example: embed-assets demo")
def demo() -> None:
    """Do the whole job on 28 sample tracks, without downloads or settings."""
    from embed_assets.commands import demo as command
    from embed_assets.commands.served import encoder_note

    settings = Settings.load()
    result, lists = command.demo(settings, terminal.tell)
    for answer in lists:
        typer.echo()
        terminal.print_matches(f"Sounds like {answer.name}:", answer.matches)
    mine = command.demo_settings(settings)
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


cli_index.add_to(app)


def main() -> None:
    """Entry point: errors on purpose become one line on stderr and an exit code."""
    for sentence in Settings.mistyped():
        terminal.tell(sentence)
    try:
        app()
    except EmbedAssetsError as e:
        terminal.tell(f"embed-assets: {e}")
        sys.exit(e.exit_code)
    except KeyboardInterrupt:
        sys.exit(ExitCode.INTERRUPTED)


def _ready(settings: Settings, may_be_empty: bool = False) -> Settings:
    """Fail before any work where it cannot succeed, and fetch weights while somebody looks on.

    Gives the settings as they fit this machine.
    """
    import os

    from embed_assets import encoders
    from embed_assets.library.walk import require_library
    from embed_assets.project import fitted

    require_library(settings.library, may_be_empty)
    encoders.require_device(settings.encoder, settings.device)
    settings = fitted(settings)
    # Runs are processes of their own: they see the settings as this process understood them.
    os.environ.update(settings.environment())
    encoders.fetch(settings.encoder, settings.model, settings.model_cache, terminal.tell)
    encoders.require(settings.encoder, settings.model, settings.device, settings.model_cache)
    return settings


def _quiet(quiet: bool) -> Callable[[str], None]:
    return (lambda line: None) if quiet else terminal.tell


if __name__ == "__main__":
    main()
