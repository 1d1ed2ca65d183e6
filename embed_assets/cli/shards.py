"""Commands for embedding on a borrowed machine: `embed` there, `union` at home.

They parse arguments and print; `command_line` adds them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from embed_assets.cli.terminal import AsJson, print_json, print_note, require_text
from embed_assets.errors import ExitCode
from embed_assets.formats import counted, plain
from embed_assets.settings import Settings

SHOWN = 20
"""Rejected tracks that are printed; `--json` prints all."""


def embed(
    folders: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FOLDER]...",
            help="Folders of the library, with all below; default: the whole library.",
        ),
    ] = None,
    into: Annotated[
        str | None, typer.Option("--into", metavar="DIR", help="Folder for the shards.")
    ] = None,
    known: Annotated[
        str | None,
        typer.Option(
            "--known", metavar="FILE", help="Leave out what is embedded at home, by this list."
        ),
    ] = None,
    write_known: Annotated[
        str | None,
        typer.Option(
            "--write-known", metavar="FILE", help="Only write this list, at home; embeds nothing."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Embed music on another machine, e.g. with a GPU, into files that `union` takes in at home.

    Needs EMBED_LIBRARY, the settings of the encoder and its weights; neither Dagster nor Milvus nor
    the tables. Started again, it continues. Exit code 1: a folder is not done, or the weights for
    `find` are missing. See docs/shards.md.
    """
    from embed_assets.operations.embed import embed_into
    from embed_assets.operations.known_audio import write_known as write_known_audio

    for option, value in (("--into", into), ("--known", known), ("--write-known", write_known)):
        require_text(option, "-" if value is None else value)
    if (into is None) == (write_known is None):
        raise typer.BadParameter("say either --into DIR or --write-known FILE")
    settings = Settings.load()
    if into is None:
        if write_known is None or known or folders or as_json:
            raise typer.BadParameter("--write-known FILE goes with nothing else")
        count = write_known_audio(settings, _path(write_known))
        typer.echo(f"{counted(count, 'track')} in {plain(write_known)}")
        return
    note = (lambda _: None) if as_json else print_note
    result = embed_into(settings, _path(into), folders or (), _path(known) if known else None, note)
    if as_json:
        print_json(result)
    else:
        for track in result.rejected[:SHOWN]:
            print_note(f"{track.path}: {track.reason}: {track.message}")
        if len(result.rejected) > SHOWN:
            print_note(f"and {len(result.rejected) - SHOWN} more; --json lists all")
        for folder in result.failed:
            print_note(f"{folder.path}: not done: {folder.message}")
        typer.echo(
            f"{counted(result.tracks, 'track')} in {counted(result.folders, 'folder')}:"
            f" {result.embedded} embedded, {result.reused} reused, {len(result.rejected)} rejected,"
            f" {counted(len(result.failed), 'folder')} failed,"
            f" {counted(len(result.shards), 'new shard')}, {result.seconds:.1f} s"
        )
        if result.words_missing:
            print_note("nothing was embedded for `find`: `embed-assets doctor` says why")
    failed = result.failed or result.words_missing
    raise typer.Exit(ExitCode.FAILED if failed else ExitCode.DONE)


def union(
    places: Annotated[
        list[str], typer.Argument(metavar="DIR...", help="Folders of shards, or single shards.")
    ],
    check: Annotated[
        int,
        typer.Option(
            "--check",
            min=0,
            max=100,
            help="Tracks of each shard to embed again and compare, and rejected ones to decode;"
            " 0: none.",
        ),
    ] = 2,
    as_json: AsJson = False,
) -> None:
    """Take in what `embed --into` embedded on another machine; the next `sync` indexes it.

    Works beside `up`. What is there already stays as it is. A shard with other settings, or with
    other vectors than this machine makes, is refused with the reason, and so are damaged entries,
    and rejections of tracks that can be decoded here; the rest is taken. Exit code 1: something was
    refused. See docs/shards.md.
    """
    from embed_assets.operations.union import union as command

    for place in places:
        require_text("DIR", place)
    note = (lambda _: None) if as_json else print_note
    result = command(Settings.load(), [Path(p) for p in places], check=check, progress=note)
    if as_json:
        print_json(result.as_json())
    else:
        for warning in result.warnings:
            print_note(warning)
        for refused in result.refused:
            what = "all" if refused.tracks is None else counted(refused.tracks, "track")
            print_note(f"{refused.shard}: {what} refused: {refused.reason}")
        typer.echo(
            f"{counted(result.shards, 'shard')}: {result.new} new, {result.known} known,"
            f" {result.rejected} rejected, {len(result.refused)} refused; {result.checked} embedded"
            f" again and compared, {result.seconds:.1f} s"
        )
        if result.not_in_library:
            typer.echo(
                f"{result.not_in_library} of the new tracks are of no file that was scanned here so"
                " far: they are used when it is"
            )
        if result.unchecked:
            typer.echo(
                f"{counted(result.unchecked, 'shard')} could not be compared, as their music was"
                " not scanned here so far: run `embed-assets sync`, then `embed-assets canary`"
            )
        if result.clip_only:
            typer.echo(
                f"of {counted(result.clip_only, 'shard')} only the canary's clip could be compared,"
                " as none of the music was scanned here so far"
            )
        if result.rejected_unchecked:
            typer.echo(
                f"{counted(result.rejected_unchecked, 'rejected track')} could not be decoded"
                " here to compare, as none was scanned so far. If `embed-assets errors` lists one"
                " that plays, `embed-assets retry PATH` embeds it here"
            )
    raise typer.Exit(ExitCode.FAILED if result.refused else ExitCode.DONE)


def _path(text: str) -> Path:
    return Path(os.path.expanduser(text)).absolute()


def add_to(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command(epilog="Example: embed-assets embed --into /mnt/shards")(embed)
    app.command(epilog="Example: embed-assets union /mnt/shards")(union)
