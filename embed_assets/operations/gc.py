"""`gc`: deletes stored vectors and files that nothing uses, and reports their sizes.

Deleted vectors could be made again only by embedding; converted models, search files and unfinished
downloads are copies.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embed_assets import encoders
from embed_assets.defs.dagster_compat import files
from embed_assets.defs.evaluation import evaluate
from embed_assets.defs.history import VACUUM_SECONDS, Pruned, prune
from embed_assets.defs.instance import open_instance
from embed_assets.embedding.canary.notes import Notes
from embed_assets.errors import TransientError
from embed_assets.identity import IndexSpec
from embed_assets.index.promotion import PREFIXES
from embed_assets.operations.collections import LITE_SECONDS
from embed_assets.operations.up import running_address
from embed_assets.planning.values import Policy, SensorCursor
from embed_assets.project import Project
from embed_assets.settings import Settings
from embed_assets.storage import collection_registry
from embed_assets.storage.garbage import GcReport, collect_garbage
from embed_assets.storage.owner import check_owner, own_store
from embed_assets.storage.track_vector_file import unused_files

if TYPE_CHECKING:
    import dagster as dg

WALK_SECONDS = 600.0
HISTORY_SECONDS = 600.0
ALONE_SECONDS = 120.0
"""How long rewriting a database of Dagster may take if no `up` is running."""

REMEMBERED_SECONDS = 366 * 86_400.0
"""How long `added_at` is kept for deleted music."""


@dataclass(frozen=True)
class History:
    """The `history` of `gc --json`: the size of Dagster's history, and what was pruned."""

    databases: int
    """Bytes of the databases with all runs, before."""
    logs: int
    """Bytes of the event logs of the runs, before."""
    output: int
    """Bytes of the output of the steps, before."""
    pruned: Pruned
    """What was pruned, or would be."""


@dataclass(frozen=True)
class Collected:
    """What `gc` did; `--json` prints the fields of `swept` among the others."""

    dry_run: bool
    """Whether nothing was removed."""
    in_step: bool
    """Whether the index was up to date with the library; otherwise only `--dry-run` works."""
    recipes_in_use: list[str]
    """Digests of the recipes whose vectors stay."""
    swept: GcReport
    """The stored vectors."""
    copies: list[str]
    """Paths of unused converted models and search files, and of unfinished downloads."""
    copies_bytes: int
    """Their bytes."""
    history: History
    """Dagster's history."""

    def as_json(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        printed = asdict(self)
        return printed | printed.pop("swept")


def _history(instance: dg.DagsterInstance, settings: Settings, *, dry_run: bool) -> History:
    sizes = files.sizes(instance)
    alone = running_address(settings) is None
    pruned = prune(
        instance,
        settings.history_days,
        seconds=HISTORY_SECONDS,
        vacuum_seconds=ALONE_SECONDS if alone else VACUUM_SECONDS,
        dry_run=dry_run,
    )
    return History(**sizes, pruned=pruned)


def gc(settings: Settings, *, dry_run: bool, older_than: float) -> Collected:
    """Delete vectors of deleted music, and of recipes that no collection uses.

    Also deletes converted models and search files of such recipes, unfinished downloads of weights,
    and old runs of Dagster.

    Works only if the index is up to date: while music is being moved, the tables lack it for a
    moment, and an unmounted library looks empty.

    Raises:
        LibraryUnavailable: the library is not there, or looks unmounted.
        ConfigurationError: the vectors are those of another library.
        TransientError: the index is not up to date, or cannot be opened, or the place of the
            vectors looks unmounted.
    """
    project = Project.of(settings)
    if dry_run:
        check_owner(project.tables, project.store)
    else:
        project = replace(project, store=own_store(project.tables, project.store))
    policy = Policy(settle_seconds=settings.settle_seconds)
    with open_instance(settings) as instance:
        found = evaluate(instance, project.index(), SensorCursor(), policy, WALK_SECONDS)
    busy = found.plan.due + found.plan.running
    in_step = found.complete and not busy and found.plan.debounced_in is None
    if not in_step and not dry_run:
        raise TransientError(
            f"{busy or 'some'} folders are new, changed or in runs, so it is not known yet which"
            " vectors they need. Run `embed-assets sync`, or wait for `up`, and run `embed-assets"
            " gc` again. `--dry-run` shows what would be removed now"
        )
    specs = _in_use(project)
    if specs is None:
        # A collection may use any recipe, so the vectors of every recipe stay.
        recipes = {r.digest for r in project.spec().recipes} | set(project.store.recipes())
        unused = []
    else:
        recipes = {spec.recipe.digest for spec in specs}
        weights = {spec.recipe.weights for spec in specs}
        unused = [
            *encoders.unused_files(weights, settings.model, settings.model_cache),
            *unused_files(project.store, specs),
            *Notes.beside(project.store).unused(recipes),
        ]
    swept = collect_garbage(
        project.tables, project.store, recipes, older_than=older_than, dry_run=dry_run
    )
    copies = list(_old(unused, time.time() - older_than))
    size = sum(map(_bytes, copies))
    if not dry_run:
        for copy in copies:
            _remove(copy)
        project.tables.forget_gone_audio(time.time() - REMEMBERED_SECONDS)
    # Last, as it may take minutes: until then, what was evaluated becomes older.
    with open_instance(settings) as instance:
        history = _history(instance, settings, dry_run=dry_run)
    paths = [str(copy) for copy in copies]
    return Collected(dry_run, in_step, sorted(recipes), swept, paths, size, history)


def _in_use(project: Project) -> list[IndexSpec] | None:
    """The specs of the settings and of all existing collections, which a rollback needs.

    None if the spec of one of them is unknown, or what words need, as their weights are missing.
    """
    if project.vectors.words_missing():
        return None
    known = collection_registry.known(project.tables, project.uri)
    wanted = {one.collection: one for one in project.spec().every_collection}
    specs = list(wanted.values())
    with project.open_index(wait_seconds=LITE_SECONDS) as client:
        there = [n for n in client.list_collections() if n.startswith(PREFIXES)]
    for name in there:
        found = wanted.get(name) or (known[name].spec if name in known else None)
        if found is None:
            return None
        specs.append(found)
    return specs


def _old(paths: Iterable[Path], before: float) -> Iterator[Path]:
    for path in paths:
        with suppress(FileNotFoundError):
            if path.stat().st_mtime < before:
                yield path


def _bytes(path: Path) -> int:
    inside = [path] if path.is_file() else path.rglob("*")
    return sum(f.stat().st_size for f in inside if f.is_file())


def _remove(path: Path) -> None:
    with suppress(FileNotFoundError):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
