"""The served collection and its spec."""

from __future__ import annotations

from contextlib import suppress

from embed_assets import encoders
from embed_assets.errors import ConfigurationError, NotFound, NothingIndexed, WeightsMissing
from embed_assets.identity import TRACKS, IndexSpec
from embed_assets.index.collection import ALIAS, served
from embed_assets.project import Project
from embed_assets.settings import Settings
from embed_assets.storage import collection_registry

WAIT_SECONDS = 10.0
"""How long to wait for a server, or for a Lite index if only Milvus can answer."""


def served_name(project: Project) -> str:
    """Name of the served collection.

    Raises:
        ConfigurationError: nothing is served yet.
    """
    if project.backend.exclusive:
        name = project.backend.behind_alias(ALIAS)
    else:
        with project.open_index(wait_seconds=WAIT_SECONDS) as client:
            name = served(client)
    if name is None:
        raise NothingIndexed("nothing is indexed yet: run `embed-assets sync`")
    return name


def spec_of(project: Project, name: str) -> IndexSpec | None:
    """The spec of a collection, if it is known."""
    wanted = wanted_spec(project)
    if wanted and name == wanted.collection:
        return wanted
    return collection_registry.spec_of(project.tables, project.uri, name, parts=project.parts)


def require_spec(project: Project, name: str) -> IndexSpec:
    """The spec of the served collection: of earlier settings, while another one is being filled.

    Raises:
        ConfigurationError: the tables do not know it.
    """
    if spec := spec_of(project, name):
        return spec
    raise ConfigurationError(
        f"{name} is served, but the tables do not know it (it was made with other tables, or by"
        " another version). `embed-assets sync` fills and serves the collection of the current"
        " settings; until then only `embed-assets similar` works"
    )


def known_spec(project: Project, name: str) -> IndexSpec:
    """The spec of any collection. Raises NotFound: the tables do not know it."""
    spec = collection_registry.spec_of(project.tables, project.uri, name)
    if spec is None or spec.collection != name or spec.rows != TRACKS:
        raise NotFound(
            f"the tables know no collection of tracks {name!r}: `embed-assets collections` lists"
            " the names"
        )
    return spec


def wanted_spec(project: Project) -> IndexSpec | None:
    """The spec of the settings; None if the weights of their encoder are missing.

    The served collection can be searched without the weights.
    """
    with suppress(WeightsMissing):
        return project.spec()
    return None


def encoder_note(settings: Settings, spec: IndexSpec | None = None) -> str:
    """For people: which encoder made the vectors of a result, and a note about it."""
    project = Project.of(settings)
    try:
        info = encoders.describe(settings.encoder, settings.model, settings.model_cache)
    except WeightsMissing:
        made = f"{spec.recipe.encoder}, which is served" if spec else "what is served"
        return f"{made}; the weights of {settings.encoder} are missing: see `embed-assets doctor`"
    if (
        spec is not None
        and spec.collection_specs[0] != (wanted := project.spec()).collection_specs[0]
    ):
        if collection_registry.is_by_hand(project.tables, project.uri, wanted.collection):
            return (
                f"{spec.recipe.encoder}, chosen by hand: `embed-assets promote` serves"
                f" {wanted.collection}"
            )
        other = f"{spec.recipe.encoder}, served until {wanted.collection} is complete"
        return f"{other}: `embed-assets collections`"
    return f"{info.name}; {info.note}"
