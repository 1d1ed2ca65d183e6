"""Commands about the stored vectors: `copy-vectors`, `adopt-vectors`.

They parse arguments and print.
"""

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


def adopt_vectors() -> None:
    """Have the vectors in EMBED_VECTORS belong to this library, whichever they belonged to before.

    The place that EMBED_VECTORS names has a mark, which names the library that owns its vectors.
    Needed only if the tables of that library, or its vectors, were lost for good. Vectors that are
    there are found again, and those that are missing are embedded again when they are needed. While
    another library uses the place, do not: `gc` would delete its vectors.
    """
    from embed_assets.operations.adopt_vectors import adopt_vectors as command

    found = command(Settings.load())
    typer.echo(f"{found.where} belongs to this library now{found.before}")


def add_to(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command(epilog="Example: embed-assets adopt-vectors")(adopt_vectors)
    app.command(epilog="Example: embed-assets copy-vectors s3://music/vectors")(copy_vectors)
