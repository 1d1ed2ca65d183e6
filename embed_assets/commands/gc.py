"""`gc`: remove stored vectors that nothing needs, and say how many bytes that is."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from embed_assets import catalogue
from embed_assets.defs.instance import open_instance
from embed_assets.defs.look import look
from embed_assets.errors import TransientError
from embed_assets.index.connection import connect
from embed_assets.index.serving import PREFIXES
from embed_assets.library.plan import Memory, Policy
from embed_assets.project import Project
from embed_assets.settings import Settings
from embed_assets.vectors.sweep import Swept, sweep

LITE_SECONDS = 120.0
LOOK_SECONDS = 600.0


@dataclass(frozen=True)
class Collected:
    """What `gc --json` prints; `in_step`: whether the library was, so that `gc` may remove."""

    dry_run: bool
    in_step: bool
    recipes_in_use: list[str]
    swept: Swept

    def as_json(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        told = asdict(self)
        return told | told.pop("swept")


def gc(settings: Settings, *, dry_run: bool, older_than: float) -> Collected:
    """Remove vectors of music that is gone, and of recipes that no collection has.

    Only while tables and library agree: music that is just being moved is in no table for a
    moment, and an unmounted library is none at all.

    Raises:
        LibraryUnavailable: the library is not there, or looks unmounted.
        TransientError: folders are still to be done, or the index cannot be asked what it holds.
    """
    project = Project.of(settings)
    with open_instance(settings) as instance:
        plan = look(
            instance,
            project.library,
            project.tables,
            project.spec(),
            project.uri,
            Memory(),
            Policy(settle_seconds=settings.settle_seconds),
            LOOK_SECONDS,
        )
    busy = plan.plan.due + plan.plan.held
    in_step = plan.complete and not busy and plan.plan.settles_in is None
    if not in_step and not dry_run:
        raise TransientError(
            f"{busy or 'some'} folders are new, changed or in runs: what they need is not known"
            " yet. Run `embed-assets sync`, or wait for `up`, and run `embed-assets gc` again;"
            " `--dry-run` says what it would remove now"
        )
    recipes = _in_use(project)
    swept = sweep(project.tables, project.store, recipes, older_than=older_than, dry_run=dry_run)
    return Collected(dry_run, in_step, sorted(recipes), swept)


def _in_use(project: Project) -> set[str]:
    """Recipes of the settings and of every collection that is there: a rollback needs them."""
    known = catalogue.known(project.tables, project.uri)
    spec = project.spec()
    wanted = {one.collection: one for one in spec.layers}
    recipes = {spec.recipe.digest}
    with connect(project.uri, project.token, wait_seconds=LITE_SECONDS) as client:
        there = [n for n in client.list_collections() if n.startswith(PREFIXES)]
    for name in there:
        held = wanted.get(name) or (known[name].spec if name in known else None)
        if held is None:
            # Whose vectors it has cannot be known: nothing of another recipe may go.
            return recipes | set(project.store.recipes())
        recipes.add(held.recipe.digest)
    return recipes
