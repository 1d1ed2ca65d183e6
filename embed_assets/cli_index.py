"""The commands that look after the index: `collections`, `promote`, `rollback`, `gc`.

Arguments in, lines or JSON out, as in `cli`, which adds them to its own.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.filesize import decimal

from embed_assets.commands.terminal import AsJson, plain, print_json, require_text
from embed_assets.errors import ExitCode
from embed_assets.identity import PARTS
from embed_assets.settings import Settings


def collections(
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Measure the collection of the settings at its gates now, serve it if it passes,"
            " and print the verdict; exit code 1 if a gate fails.",
        ),
    ] = False,
    drop: Annotated[
        str | None, typer.Option("--drop", metavar="NAME", help="Drop a collection for good.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the collections: what each was made with, rows, complete or not, gates, served or not.

    A collection is dropped only here and only by its name; the served one never. One that is gone
    can be filled again from the stored vectors.
    """
    from embed_assets.commands import collections as command
    from embed_assets.project import Project

    project = Project.of(Settings.load())
    if drop is not None:
        require_text("--drop", drop)
        command.drop(project, drop)
    if check:
        standing = command.check(project)
        _print_check(standing, as_json)
        failed = standing.verdict is not None and not standing.verdict.passed
        raise typer.Exit(ExitCode.FAILED if failed else ExitCode.DONE)
    rows = command.collections(project)
    if as_json:
        print_json(rows)
        return
    for row in rows:
        marks = [w for w in ("served", "wanted") if row[w]]
        typer.echo(f"{row['name']}  {row['rows']} rows  {', '.join(marks)}".rstrip())
        made = "not known: another version, or other tables, made it"
        if row["encoder"]:
            windows = f"{row['windows']} windows" if row["windows"] else "windows"
            made = f"{row['encoder']}, {windows} of {row['window_seconds']:g} s, {row['pooling']}"
            made += f", width {row['width']}"
        typer.echo(f"    made with: {made}")
        if row["complete"] is not None:
            missing = f"no, {row['folders_missing']} folders are missing as they are now"
            typer.echo(f"    complete:  {'yes' if row['complete'] else missing}")
        typer.echo(f"    gates:     {_gates(row)}")
    if not rows:
        typer.echo("nothing is indexed yet: `embed-assets sync`")


def promote(
    name: Annotated[
        str | None, typer.Argument(help="A collection; that of the settings if left out.")
    ] = None,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Serve it though a gate fails or none can be tried.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Let searches see a collection if it passes its gates; ordinarily this happens by itself."""
    from embed_assets.commands import collections as command
    from embed_assets.project import Project

    _print_standing(command.promote(Project.of(Settings.load()), name, anyway), as_json)


def rollback(as_json: AsJson = False) -> None:
    """Let searches see again what they saw before, at once.

    It stays so until EMBED_ENCODER, EMBED_WINDOWS, EMBED_POOLING or the like are changed back, or
    `embed-assets promote` says otherwise. New music goes to the collection of the settings.
    """
    from embed_assets.commands import collections as command
    from embed_assets.project import Project

    _print_standing(command.rollback(Project.of(Settings.load())), as_json)


def gc(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Remove nothing, say what would be removed.")
    ] = False,
    hours: Annotated[
        float, typer.Option("--older-than", min=0.0, help="Leave what is younger, in hours.")
    ] = 24.0,
    as_json: AsJson = False,
) -> None:
    """Remove stored vectors of music that is gone, and of recipes that no collection has.

    With them go converted models and search files that only such recipes needed, downloads of
    weights that were stopped, and what Dagster's history need not keep (EMBED_HISTORY_DAYS).
    """
    from embed_assets.commands.gc import gc as command

    found = command(Settings.load(), dry_run=dry_run, older_than=hours * 3600)
    if as_json:
        print_json(found.as_json())
        return
    if not found.in_step:
        typer.echo(
            "without --dry-run this would remove nothing, for the library is not in step: run"
            " `embed-assets sync` first; as things are now:"
        )
    s = found.swept
    word = "would be removed" if dry_run else "removed"
    typer.echo(
        f"{s.removed} of {s.entries} entries {word}, {decimal(s.removed_bytes)} of"
        f" {decimal(s.bytes)}; {s.too_young} unused ones are younger than {hours:g} h"
    )
    if found.copies:
        what = "converted models, search files and stopped downloads of no use"
        typer.echo(f"{what} {word}: {len(found.copies)}, {decimal(found.copies_bytes)}")
    h = found.history
    typer.echo(
        f"{h.pruned.removed} runs of Dagster and the logs of {h.pruned.emptied} more {word},"
        f" {decimal(h.pruned.bytes)} of {decimal(h.databases + h.logs + h.output)}"
    )


def add_to(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command(epilog="Example: embed-assets collections --json")(collections)
    app.command(epilog="Example: embed-assets promote")(promote)
    app.command(epilog="Example: embed-assets rollback")(rollback)
    app.command(epilog="Example: embed-assets gc --dry-run")(gc)


def _gates(row: dict[str, Any]) -> str:
    if row["of"] == PARTS:
        return "measured with those of the tracks"
    if row["gates_passed"] is None:
        return "not measured yet; `--check` does"
    told = [f"{g['name']} {g['value']:g}" for g in row["gates"]]
    word = "passed" if row["gates_passed"] else "FAILED"
    failed = [
        f"{g['name']} is {g['value']:g}, wanted {g['wanted']}"
        for g in row["gates"]
        if g["passed"] is False
    ]
    return f"{word} {row['gates_at']}: {'; '.join(failed) if failed else ', '.join(told)}"


def _print_standing(standing: Any, as_json: bool) -> None:
    from embed_assets.commands.collections import standing_json

    if as_json:
        print_json(standing_json(standing))
        return
    if standing.moved:
        typer.echo(f"{standing.served} is served now; the switch took {standing.switch_ms:.1f} ms")
    else:
        typer.echo(f"{standing.served} is served already")
    _print_gates(standing)


def _print_check(standing: Any, as_json: bool) -> None:
    from embed_assets.commands.collections import standing_json

    if as_json:
        print_json(standing_json(standing))
        return
    verdict = standing.verdict
    word = "not measured" if verdict is None else "passed" if verdict.passed else "FAILED"
    typer.echo(plain(f"{standing.wanted}: {word}{f'; {standing.why}' if standing.why else ''}"))
    _print_gates(standing)
    typer.echo(f"{standing.served} is served{', now' if standing.moved else ''}")


def _print_gates(standing: Any) -> None:
    for gate in standing.verdict.gates if standing.verdict else ():
        word = {True: "ok", False: f"WRONG, wanted {gate.wanted}", None: ""}[gate.passed]
        typer.echo(f"    {gate.name:20} {gate.value:<10g} {word}".rstrip())
