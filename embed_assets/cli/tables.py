"""The command that copies the tables: `copy-tables`. It parses arguments and prints."""

from __future__ import annotations

from typing import Annotated

import typer

from embed_assets.cli.terminal import print_note
from embed_assets.settings import Settings


def copy_tables(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="`postgresql://user@host/database`, or the path of a SQLite file.",
        ),
    ],
    replace: Annotated[
        bool, typer.Option("--replace", help="Delete the rows that the target has already.")
    ] = False,
) -> None:
    """Copy the tables to another database: from SQLite to PostgreSQL, or back.

    Copies those that EMBED_TABLES names, or tables.sqlite in EMBED_HOME, and leaves them as they
    are. Stop `up` first: what it writes meanwhile is not copied. Then have EMBED_TABLES name the
    copy; nothing is scanned or embedded again. The password is that of EMBED_TABLES_PASSWORD.
    """
    from embed_assets.operations.copy_tables import copy_tables as command

    found = command(Settings.load(), target, print_note, replace=replace)
    typer.echo(f"{sum(found.values())} rows copied")


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(epilog="Example: embed-assets copy-tables postgresql://music@db/music")(copy_tables)
