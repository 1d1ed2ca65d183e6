"""The commands `cluster-config` and `download`, about what machines need before their first run.

They parse arguments and print; `command_line` adds them.
"""

from __future__ import annotations

from typing import Annotated

import typer

from embed_assets.cli.terminal import print_note, require_text
from embed_assets.settings import Settings


def cluster_config(
    address: Annotated[
        str, typer.Option(help="Address of Ray's dashboard, as the machine of `up` reaches it.")
    ] = "http://127.0.0.1:8265",
    runs: Annotated[int, typer.Option(min=1, help="How many runs at once, on all machines.")] = 4,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs for each run; 0: --cpus instead.")] = 0,
    cpus: Annotated[int, typer.Option(min=1, help="Processors for each run without a GPU.")] = 4,
    tracks: Annotated[
        int, typer.Option(min=0, help="Add settings of Milvus for this many; see docs/milvus.md.")
    ] = 0,
) -> None:
    """Print a dagster.yaml for runs on several machines (PostgreSQL, Ray), and what to start where.

    The file goes to stdout, the steps to stderr. See docs/cluster.md.
    """
    from embed_assets.operations import cluster_config as command

    require_text("--address", address)
    typer.echo(command.cluster_config(address, runs, gpus, cpus), nl=False)
    typer.echo(command.steps(runs, tracks), err=True, nl=False)


def download() -> None:
    """Download the weights of the encoders that the settings name, if they are not here yet.

    `up`, `sync` and `embed` do this themselves. A machine that only does runs of `up` on another
    one, and a volume that containers share, get the weights by this command. It needs no library
    and no GPU. A download that was interrupted continues.
    """
    from embed_assets.operations.download import download as command

    for info in command(Settings.load(), print_note):
        typer.echo(f"{info.name}, weights {info.weights[:12]}: {info.note}")


def add_to(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command(epilog="Example: embed-assets download")(download)
    app.command("cluster-config", epilog="Example: embed-assets cluster-config > dagster.yaml")(
        cluster_config
    )
