"""`collections`, `promote`, `rollback`: the collections of the index, and which one is served."""

from __future__ import annotations

from typing import TypedDict

from embed_assets.errors import ConfigurationError
from embed_assets.formats import iso
from embed_assets.identity import PARTS, TRACKS
from embed_assets.index import promotion
from embed_assets.index.gates import Gate
from embed_assets.index.promotion import Listed, ServingStatus
from embed_assets.project import Project
from embed_assets.search.order import chosen_method
from embed_assets.search.served import wanted_spec

LITE_SECONDS = 120.0
"""How long to wait for a Lite index that a run uses; runs release it between batches."""


class CollectionRow(TypedDict):
    """One row of `collections --json`; null: not known to the tables."""

    name: str
    """Name in Milvus."""
    of: str
    """`tracks` or `parts`: what its rows are."""
    served: bool
    """Whether searches use it."""
    wanted: bool
    """Whether it is the one of the current settings."""
    rows: int
    """Number of rows."""
    complete: bool | None
    """Whether no folder is missing or out of date in it."""
    folders_missing: int | None
    """Number of folders that are missing or out of date in it."""
    encoder: str | None
    """The encoder that made its vectors."""
    weights: str | None
    """The first 16 digits of the digest of the weights."""
    window_seconds: float | None
    """Length of a window in seconds."""
    windows: int | None
    """Windows per track; 0: the whole track."""
    pooling: str | None
    """How the windows of a track become one vector."""
    width: int | None
    """Dimensions of a vector."""
    vector_type: str | None
    """How a server stores its vectors: `float32`, `float16` or `bfloat16`."""
    shards: int | None
    """Shards on a server."""
    row_schema: int | None
    """Version of the fields of a row."""
    ranking: str | None
    """What neighbours are ranked by; see `evaluate --choose`."""
    gates_passed: bool | None
    """Whether it passed its gates when they were last measured; null if they never were."""
    gates: list[Gate]
    """The last measured gates."""
    gates_at: str | None
    """When they were measured, in ISO 8601, UTC."""


class ServingJson(TypedDict):
    """What `promote`, `rollback` and `collections --check` print."""

    served: str
    """The collection that searches use now."""
    wanted: str
    """The collection of the current settings."""
    moved: bool
    """Whether this command changed which one is served."""
    switch_ms: float
    """How long the switch took, in milliseconds."""
    why: str
    """Why the wanted collection is not served; empty if it is, and after a switch by hand."""
    passed: bool | None
    """Whether the measured gates passed; null if none were measured."""
    gates: list[Gate]
    """The measured gates."""


def collections(project: Project) -> list[CollectionRow]:
    """Every collection of the index, the served one first, as `--json` prints them."""
    with project.open_index(wait_seconds=LITE_SECONDS) as client:
        found = promotion.listed(client, wanted_spec(project), project.tables, project.uri)
    return [_as_json(c, _ranking(project, c)) for c in found]


def check(project: Project) -> ServingStatus:
    """Measure the gates of the collection of the settings, and serve it if it is ready.

    Raises:
        ConfigurationError: nothing is indexed yet.
    """
    if not project.tables.holds(project.spec().collection_key(project.uri)):
        raise ConfigurationError("nothing is indexed yet: run `embed-assets sync`")
    with project.open_index(wait_seconds=LITE_SECONDS) as client:
        return promotion.promote_if_ready_and_validate(client, project.index())


def drop(project: Project, name: str) -> None:
    """Drop a collection by name, unless it is served."""
    with project.open_index(wait_seconds=LITE_SECONDS) as client:
        promotion.drop(client, name, project.tables, project.uri)


def promote(project: Project, name: str | None, *, anyway: bool = False) -> ServingStatus:
    """Serve a collection by hand; default: that of the settings."""
    index = project.index()
    with project.open_index(wait_seconds=LITE_SECONDS) as client:
        return promotion.promote(client, index, name or index.spec.collection, anyway=anyway)


def rollback(project: Project) -> ServingStatus:
    """Serve the previous collection."""
    wanted = project.spec().collection
    with project.open_index(wait_seconds=LITE_SECONDS) as client:
        return promotion.rollback(client, project.tables, project.uri, wanted)


def status_json(status: ServingStatus) -> ServingJson:
    """The object that `promote`, `rollback` and `collections --check` print."""
    measured = status.report.as_json() if status.report else {"passed": None, "gates": []}
    return {
        "served": status.served,
        "wanted": status.wanted,
        "moved": status.moved,
        "switch_ms": status.switch_ms,
        "why": status.why,
        "passed": measured["passed"],
        "gates": measured["gates"],
    }


def _ranking(project: Project, one: Listed) -> str | None:
    if one.spec is None or one.spec.rows != TRACKS:
        return None
    return chosen_method(project.tables, one.spec.collection_key(project.uri))


def _as_json(one: Listed, ranking: str | None) -> CollectionRow:
    gates = one.gates or {"passed": None, "gates": []}
    spec, recipe = one.spec, one.spec.recipe if one.spec else None
    return {
        "name": one.name,
        "of": PARTS if one.name.startswith(f"{PARTS}_") else TRACKS,
        "served": one.served,
        "wanted": one.wanted,
        "rows": one.rows,
        "complete": None if one.missing is None else one.missing == 0,
        "folders_missing": one.missing,
        "encoder": recipe.encoder if recipe else None,
        "weights": recipe.weights[:16] if recipe else None,
        "window_seconds": recipe.window_seconds if recipe else None,
        "windows": recipe.windows if recipe else None,
        "pooling": spec.pooling if spec else None,
        "width": spec.dim if spec else None,
        "vector_type": spec.vector_type if spec else None,
        "shards": spec.shards if spec else None,
        "row_schema": spec.row_schema if spec else None,
        "ranking": ranking,
        "gates_passed": gates["passed"],
        "gates": gates["gates"],
        "gates_at": None if one.gates_at is None else iso(one.gates_at),
    }
