"""The command that copies the stored vectors: `copy-vectors`. It parses arguments and prints."""

from __future__ import annotations

from typing import Annotated

import typer

from embed_assets.cli.terminal import print_note
from embed_assets.errors import ExitCode
from embed_assets.settings import Settings


def copy_vectors(
    target: Annotated[
        str,
        typer.Argument(metavar="TARGET", help="What EMBED_VECTORS will name, or a folder."),
    ],
) -> None:
    """Copy the stored vectors into an object store, or back into a folder.

    Copies those in EMBED_HOME, or those that EMBED_VECTORS names, and leaves them as they are. What
    the target has already is not copied again, so that the command can be interrupted and repeated.
    `up` may be running: stop it, repeat the command, and have EMBED_VECTORS name the copy. Nothing
    is embedded again. Exit code 1: some vectors are damaged and were left out.
    """
    from embed_assets.operations.copy_vectors import copy_vectors as command

    found = command(Settings.load(), target, print_note)
    typer.echo(f"{found.copied} copied, {found.there} were there already")
    if found.lost:
        print_note(
            f"{found.lost} are damaged and were left out: `embed-assets doctor --deep` names them"
        )
        raise typer.Exit(ExitCode.FAILED)


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(epilog="Example: embed-assets copy-vectors s3://music/vectors")(copy_vectors)
