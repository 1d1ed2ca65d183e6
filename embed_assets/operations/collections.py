"""`collections`, `promote`, `rollback`: what the index holds, and which collection searches see."""

from __future__ import annotations

from typing import Any

from embed_assets.errors import ConfigurationError
from embed_assets.formats import iso
from embed_assets.identity import PARTS, TRACKS, IndexSpec
from embed_assets.index import promotion
from embed_assets.index.connection import connect
from embed_assets.index.promotion import Listed, ServingStatus
from embed_assets.project import Project
from embed_assets.search.served import wanted_spec

LITE_SECONDS = 120.0
"""How long to wait for a Lite index that a run has: it lets others in between its batches."""


def collections(project: Project) -> list[dict[str, Any]]:
    """Every collection of the index, the served one first, as `--json` prints them."""
    with connect(project.uri, project.token, wait_seconds=LITE_SECONDS) as client:
        found = promotion.listed(client, wanted_spec(project), project.tables, project.uri)
    return [_as_json(c) for c in found]


def check(project: Project) -> ServingStatus:
    """Measure the collection of the settings at its gates, and serve it if it is its turn.

    Raises:
        ConfigurationError: nothing is indexed yet.
    """
    if not project.tables.holds(project.spec().place(project.uri)):
        raise ConfigurationError("nothing is indexed yet: run `embed-assets sync`")
    with connect(project.uri, project.token, wait_seconds=LITE_SECONDS) as client:
        return promotion.promote_if_ready_and_validate(client, project.index())


def drop(project: Project, name: str) -> None:
    """Drop a collection by its name; the served one is refused."""
    with connect(project.uri, project.token, wait_seconds=LITE_SECONDS) as client:
        promotion.drop(client, name, project.tables, project.uri)


def promote(project: Project, name: str | None, *, anyway: bool = False) -> ServingStatus:
    """Serve a collection, that of the settings unless named."""
    index = project.index()
    with connect(project.uri, project.token, wait_seconds=LITE_SECONDS) as client:
        return promotion.promote(client, index, name or index.spec.collection, anyway=anyway)


def rollback(project: Project) -> ServingStatus:
    """Serve what was served before."""
    wanted = project.spec().collection
    with connect(project.uri, project.token, wait_seconds=LITE_SECONDS) as client:
        return promotion.rollback(client, project.tables, project.uri, wanted)


def standing_json(standing: ServingStatus) -> dict[str, Any]:
    """What `promote`, `rollback` and `collections --check` print."""
    verdict = standing.verdict.as_json() if standing.verdict else {"passed": None, "gates": []}
    return {
        "served": standing.served,
        "wanted": standing.wanted,
        "moved": standing.moved,
        "switch_ms": standing.switch_ms,
        "why": standing.why,
        **verdict,
    }


def _as_json(one: Listed) -> dict[str, Any]:
    gates = one.gates or {"passed": None, "gates": []}
    return {
        "name": one.name,
        "of": PARTS if one.name.startswith(f"{PARTS}_") else TRACKS,
        "served": one.served,
        "wanted": one.wanted,
        "rows": one.rows,
        "complete": None if one.missing is None else one.missing == 0,
        "folders_missing": one.missing,
        **_spec_json(one.spec),
        "gates_passed": gates["passed"],
        "gates": gates["gates"],
        "gates_at": None if one.gates_at is None else iso(one.gates_at),
    }


def _spec_json(spec: IndexSpec | None) -> dict[str, Any]:
    recipe = spec.recipe if spec else None
    return {
        "encoder": recipe.encoder if recipe else None,
        "weights": recipe.weights[:16] if recipe else None,
        "window_seconds": recipe.window_seconds if recipe else None,
        "windows": recipe.windows if recipe else None,
        "pooling": spec.pooling if spec else None,
        "width": spec.dim if spec else None,
        "row_schema": spec.row_schema if spec else None,
    }
