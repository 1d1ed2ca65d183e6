"""`collections`, `promote`, `rollback`: the collections of the index, and which one is served."""

from __future__ import annotations

from typing import TypedDict

from embed_assets.context import IndexContext
from embed_assets.encoders.cards import has_words
from embed_assets.errors import ConfigurationError, NotFound
from embed_assets.formats import iso
from embed_assets.identity import PARTS, TRACKS, WORDS
from embed_assets.index import promotion, promotion_by_hand
from embed_assets.index.collection import ALIAS
from embed_assets.index.gates import Gate
from embed_assets.index.promotion import ServingStatus
from embed_assets.index.promotion_by_hand import Listed
from embed_assets.project import Project
from embed_assets.search.order import chosen_method
from embed_assets.search.served import wanted_spec
from embed_assets.storage import collection_registry

LITE_SECONDS = 120.0
"""How long to wait for a Lite index that a run uses; runs release it between batches."""


class CollectionRow(TypedDict):
    """One row of `collections --json`; null: not known to the tables."""

    name: str
    """Name in Milvus."""
    of: str
    """`tracks` or `parts`: what its rows are."""
    served: bool
    """Whether searches by sound use it."""
    words: bool
    """Whether `find` uses it, beside the served one."""
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
    words: ServingJson | None
    """The same for the collection that `find` uses with `EMBED_WORDS`, if it is another one."""


def collections(project: Project) -> list[CollectionRow]:
    """Every collection of the index, the served one first, as `--json` prints them."""
    with project.open_index(wait_seconds=LITE_SECONDS) as client:
        found = promotion_by_hand.listed(client, wanted_spec(project), project.tables, project.uri)
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
        with_words = project.vectors.words is not None
        promotion_by_hand.drop(client, name, project.tables, project.uri, with_words=with_words)


def promote(
    project: Project, name: str | None, *, anyway: bool = False, words: bool = False
) -> ServingStatus:
    """Serve a collection by hand; default: that of the settings. `words`: for `find`."""
    index, alias = _behind(project, words=words)
    name = name or index.spec.collection
    if words and name != index.spec.collection:
        spec = collection_registry.spec_of(project.tables, project.uri, name)
        if spec is None:
            raise NotFound(f"no collection {name} is known: `embed-assets collections` lists them")
        if not has_words(spec.recipe.encoder):
            raise ConfigurationError(f"{name} cannot answer `find`: its encoder knows no words")
    with project.open_index(wait_seconds=LITE_SECONDS) as client:
        return promotion_by_hand.promote(client, index, name, anyway=anyway, alias=alias)


def rollback(project: Project, *, words: bool = False) -> ServingStatus:
    """Serve the previous collection. `words`: for `find`."""
    index, alias = _behind(project, words=words)
    with project.open_index(wait_seconds=LITE_SECONDS) as client:
        return promotion_by_hand.rollback(client, index, alias)


def _behind(project: Project, *, words: bool) -> tuple[IndexContext, str]:
    index = project.index()
    if not words:
        return index, ALIAS
    if missing := project.vectors.words_missing():
        raise ConfigurationError(missing)
    if index.spec.words_spec is None:
        raise ConfigurationError(
            "no other collection than the served one answers `find`: `--words` needs"
            " EMBED_WORDS=true, beside an encoder without words"
        )
    return index.of(index.spec.words_spec), WORDS


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
        "words": status_json(status.words) if status.words else None,
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
        "words": one.words,
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
