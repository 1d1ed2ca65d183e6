"""Commands that manage the index: `collections`, `promote`, `rollback`, `gc`.

They parse arguments and print; `command_line` adds them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.filesize import decimal

from embed_assets.cli.terminal import AsJson, print_json, require_text
from embed_assets.errors import ExitCode
from embed_assets.formats import counted, plain
from embed_assets.identity import PARTS, CollectionName, parts_of
from embed_assets.neighbours.ranking import COSINE
from embed_assets.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embed_assets.operations.collections import CollectionRow


ForWords = Annotated[
    bool, typer.Option("--words", help="The collection that `find` uses, with EMBED_WORDS.")
]


def collections(
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Measure the gates of the collection of the current settings now, serve it if they"
            " pass, and print the result. Exit code 1: a gate failed.",
        ),
    ] = False,
    drop: Annotated[
        str | None, typer.Option("--drop", metavar="NAME", help="Delete a collection permanently.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the collections of the index: recipe, rows, completeness, gates, which is served.

    Only `--drop NAME` deletes a collection, and never the one that is served. A deleted collection
    can be rebuilt from the stored vectors.
    """
    from embed_assets.operations import collections as command
    from embed_assets.project import Project

    project = Project.of(Settings.load())
    if drop is not None:
        require_text("--drop", drop)
        command.drop(project, drop)
    if check:
        status = command.check(project)
        _print_check(status, as_json)
        reports = [one.report for one in status.each]
        failed = any(report is not None and not report.passed for report in reports)
        raise typer.Exit(ExitCode.FAILED if failed else ExitCode.DONE)
    rows = command.collections(project)
    if as_json:
        print_json(rows)
        return
    for row in rows:
        words = {"served": row["served"], "used by `find`": row["words"], "wanted": row["wanted"]}
        marks = [word for word, is_so in words.items() if is_so]
        typer.echo(f"{row['name']}  {counted(row['rows'], 'row')}  {', '.join(marks)}".rstrip())
        made = "unknown: it was made by another version or with other tables"
        if row["encoder"]:
            windows = counted(row["windows"], "window") if row["windows"] else "windows"
            made = f"{row['encoder']}, {windows} of {row['window_seconds']:g} s, {row['pooling']}"
            made += f", width {row['width']}"
            made += "" if row["vector_type"] == "float32" else f", {row['vector_type']}"
            made += "" if row["shards"] == 1 else f", {row['shards']} shards"
        typer.echo(f"    made with: {made}")
        if row["complete"] is not None:
            folders = counted(row["folders_missing"] or 0, "folder")
            missing = f"no, missing or out of date: {folders}"
            typer.echo(f"    complete:  {'yes' if row['complete'] else missing}")
        if row["ranking"] not in (None, COSINE):
            typer.echo(f"    ranked by: {row['ranking']}, chosen with `evaluate --choose`")
        typer.echo(f"    gates:     {_gates(row, rows)}")
    if not rows:
        typer.echo("nothing is indexed yet: `embed-assets sync`")


def promote(
    name: Annotated[
        str | None, typer.Argument(help="A collection; default: the one of the current settings.")
    ] = None,
    anyway: Annotated[
        bool,
        typer.Option("--anyway", help="Serve it even if a gate fails or none can be measured."),
    ] = False,
    words: ForWords = False,
    as_json: AsJson = False,
) -> None:
    """Serve a collection if it passes its gates; normally this happens automatically."""
    from embed_assets.operations import collections as command
    from embed_assets.project import Project

    project = Project.of(Settings.load())
    _print_status(command.promote(project, name, anyway=anyway, words=words), as_json)


def rollback(words: ForWords = False, as_json: AsJson = False) -> None:
    """Serve the collection that was served before, at once.

    It stays served until EMBED_ENCODER, EMBED_WINDOWS, EMBED_POOLING or a similar setting changes,
    or until `embed-assets promote`. New music is added to the collection of the current settings.
    """
    from embed_assets.operations import collections as command
    from embed_assets.project import Project

    _print_status(command.rollback(Project.of(Settings.load()), words=words), as_json)


def gc(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Remove nothing; print what would be removed.")
    ] = False,
    hours: Annotated[
        float,
        typer.Option(
            "--older-than",
            min=0.0,
            help="Keep entries that are younger than this, in hours, or whose music was deleted"
            " since.",
        ),
    ] = 24.0,
    as_json: AsJson = False,
) -> None:
    """Remove stored vectors of deleted music, and of recipes that no collection uses.

    Also removes converted models and search files of such recipes, unfinished downloads of weights,
    and old entries of Dagster's history (EMBED_HISTORY_DAYS).
    """
    from embed_assets.operations.gc import gc as command

    found = command(Settings.load(), dry_run=dry_run, older_than=hours * 3600)
    if as_json:
        print_json(found.as_json())
        return
    if not found.in_step:
        typer.echo(
            "without --dry-run this would remove nothing, as the index is not up to date: run"
            " `embed-assets sync` first. As things are now:"
        )
    s = found.swept
    word = "would be removed" if dry_run else "removed"
    typer.echo(
        f"{s.removed} of {s.entries} entries {word}, {decimal(s.removed_bytes)} of"
        f" {decimal(s.bytes)}; {s.too_young} unused entries are younger than {hours:g} h"
    )
    if found.copies:
        what = "unused converted models, search files and unfinished downloads"
        typer.echo(f"{what} {word}: {len(found.copies)}, {decimal(found.copies_bytes)}")
    h = found.history
    typer.echo(
        f"{h.pruned.removed} Dagster runs and the logs of {h.pruned.emptied} others {word},"
        f" {decimal(h.pruned.bytes)} of {decimal(h.databases + h.logs + h.output)}"
    )


def add_to(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command(epilog="Example: embed-assets collections --json")(collections)
    app.command(epilog="Example: embed-assets promote")(promote)
    app.command(epilog="Example: embed-assets rollback")(rollback)
    app.command(epilog="Example: embed-assets gc --dry-run")(gc)


def _gates(row: CollectionRow, rows: Sequence[CollectionRow]) -> str:
    """The gates of a collection; those of parts are among the gates of the tracks, as `parts_*`."""
    gates: Any = row["gates"]
    at = row["gates_at"]
    if row["of"] == PARTS:
        beside = [
            r
            for r in rows
            if r["of"] != PARTS and parts_of(CollectionName(r["name"])) == row["name"]
        ]
        every: Any = [g for r in beside for g in r["gates"]]
        gates = [g for g in every if g["name"].startswith(f"{PARTS}_")]
        at = beside[0]["gates_at"] if beside else None
    if not gates:
        return "not measured yet; `collections --check` measures those of the current settings"
    failed = [
        f"{g['name']} is {g['value']:g}, wanted {g['wanted']}"
        for g in gates
        if g["passed"] is False
    ]
    if failed:
        return f"FAILED {at}: {'; '.join(failed)}"
    return f"passed {at}: " + ", ".join(f"{g['name']} {g['value']:g}" for g in gates)


def _print_status(status: Any, as_json: bool) -> None:
    from embed_assets.operations.collections import status_json

    if as_json:
        print_json(status_json(status))
        return
    if status.moved:
        typer.echo(f"{status.served} is served now; the switch took {status.switch_ms:.1f} ms")
    else:
        typer.echo(f"{status.served} is served already")
    _print_gates(status)


def _print_check(status: Any, as_json: bool) -> None:
    from embed_assets.operations.collections import status_json

    if as_json:
        print_json(status_json(status))
        return
    for one in status.each:
        _print_measured(one)


def _print_measured(status: Any) -> None:
    report = status.report
    word = "not measured" if report is None else "passed" if report.passed else "FAILED"
    typer.echo(plain(f"{status.wanted}: {word}{f'; {status.why}' if status.why else ''}"))
    _print_gates(status)
    typer.echo(f"{status.served} is served{', now' if status.moved else ''}")


def _print_gates(status: Any) -> None:
    for gate in status.report.gates if status.report else ():
        word = {True: "ok", False: f"WRONG, wanted {gate.wanted}", None: gate.wanted}[gate.passed]
        typer.echo(f"    {gate.name:20} {gate.value:<10g} {word}".rstrip())
