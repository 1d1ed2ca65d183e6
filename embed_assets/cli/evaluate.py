"""The command `evaluate`: how good the neighbours are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated

import typer

from embed_assets.api import open_library
from embed_assets.cli.terminal import AsJson, print_json
from embed_assets.formats import counted, plain
from embed_assets.neighbours.figures import Difference, Hubs, Relation
from embed_assets.neighbours.ranking import METHODS
from embed_assets.search.evaluate import BEST
from embed_assets.search.evaluation import Evaluation

WIDTH = 28


def add_to(app: typer.Typer) -> None:
    """Add this command to the command line."""
    app.command(epilog="Example: embed-assets evaluate --sample 10000")(evaluate)


def evaluate(
    collection: Annotated[
        str, typer.Option("--collection", metavar="NAME", help="Default: the one that is served.")
    ] = "",
    sample: Annotated[
        int,
        typer.Option(
            "--sample",
            min=0,
            help="Number of tracks whose neighbours are looked at, always the same ones; 0: all.",
        ),
    ] = 0,
    method: Annotated[
        str,
        typer.Option(
            "--choose",
            metavar="METHOD",
            help="Rank neighbours by this from now on: `best` measures all and takes another order"
            " than by cosine only if it is clearly better; or cosine, centred, mutual-proximity,"
            " csls.",
        ),
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Measure how good the neighbours are, by the library's own tags.

    Prints how often the ten nearest of a track are by the same artist, on the same album, of the
    same genre; how often a track finds itself; and how many tracks are in every list or in none.
    10,000 tracks take about ten seconds. See docs/evaluate.md.
    """
    if method and method not in (BEST, *METHODS):
        raise typer.BadParameter(f"--choose is one of {', '.join((BEST, *METHODS))}")
    snapshot = open_library().snapshot(collection)
    found = snapshot.choose_ranking(method, sample) if method else snapshot.evaluate(sample)
    if as_json:
        print_json(found)
        return
    _print(found)
    typer.echo("\ndocs/evaluate.md says what each line means, and which values are good")
    if found.chosen is not None:
        typer.echo()
        typer.echo(plain(f"neighbours are ranked by {found.chosen} from now on: {found.why}"))


def _print(found: Evaluation) -> None:
    asked = f"{found.asked} of" if found.asked < found.tracks else "each of"
    typer.echo(
        plain(
            f"{found.collection}: the ten nearest of {asked}"
            f" {counted(found.tracks, 'track')}, ranked by {found.ranking}"
        )
    )
    typer.echo(f"\n{'share of the ten nearest':{WIDTH}}   found  (95 %)         chance  possible")
    _print_relations(found.relations)
    typer.echo()
    if same := found.same_track:
        found_share = f"{_share(same.found)}   {_range(same.low, same.high)}"
        typer.echo(
            f"{'one half finds the other':{WIDTH}}   {found_share}"
            f"   {same.chance:.4f}  among {counted(same.tracks, 'track')}"
        )
    _print_hubs(found.hubs)
    for other in found.beside:
        typer.echo()
        typer.echo(plain(f"beside {other.name} ({counted(other.tracks, 'track')} of both):"))
        _print_relations(other.relations, {d.relation: d for d in other.differences})
        _print_hubs(other.hubs)


def _print_relations(
    relations: Iterable[Relation], differences: Mapping[str, Difference] | None = None
) -> None:
    """A line each; with `differences`, by how much what is evaluated is better than these."""
    for one in relations:
        if one.precision is None:
            typer.echo(f"{one.relation:{WIDTH}}   no tracks with such tags")
            continue
        found = f"{one.relation:{WIDTH}}   {_share(one.precision)}   {_range(one.low, one.high)}"
        if differences is None:
            tracks = f"{counted(one.tracks, 'track')}, {counted(one.artists, 'artist')}"
            typer.echo(f"{found}   {_share(one.chance)}   {_share(one.possible)}   {tracks}")
        elif change := differences.get(one.relation):
            word = "better" if change.low > 0 else "worse" if change.high < 0 else "not clear"
            typer.echo(
                f"{found}   the above is {change.difference:+.3f}"
                f" ({change.low:+.3f} to {change.high:+.3f}), {word}"
            )


def _print_hubs(hubs: Hubs) -> None:
    shares = ""
    if hubs.orphans is not None and hubs.top_percent is not None:
        shares = (
            f"; {hubs.orphans:.1%} of the tracks are in no list, the top 1 % hold"
            f" {hubs.top_percent:.1%} of all places, one track is in {hubs.most} lists"
        )
    skewness = "unknown" if hubs.skewness is None else f"{hubs.skewness:.2f}"
    typer.echo(f"{'skewness of occurrences':{WIDTH}}   {skewness}{shares}")


def _share(value: float | None) -> str:
    return "    -" if value is None else f"{value:5.3f}"


def _range(low: float | None, high: float | None) -> str:
    return f"{_share(low)} to {_share(high)}"
