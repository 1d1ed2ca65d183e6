"""The served collection and its spec."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from embed_assets import encoders
from embed_assets.encoders.cards import has_words
from embed_assets.errors import ConfigurationError, NotFound, NothingIndexed, WeightsMissing
from embed_assets.identity import TRACKS, WORDS, CollectionName, IndexSpec
from embed_assets.index.collection import ALIAS, served
from embed_assets.project import Project
from embed_assets.settings import Settings
from embed_assets.storage import collection_registry

WAIT_SECONDS = 10.0
"""How long to wait for a server, or for a Lite index if only Milvus can answer."""


@dataclass(frozen=True)
class ServedNames:
    """The collections that searches use; `words`: the one for `find`, if the settings want one."""

    tracks: CollectionName
    words: CollectionName | None = None


def served_names(project: Project) -> ServedNames:
    """Names of the served collections.

    Raises:
        ConfigurationError: nothing is served yet.
    """
    # What is left of a time when words were switched on is out of date.
    wants_words = project.vectors.words is not None or has_words(project.vectors.tracks.name)
    aliases = (ALIAS, WORDS) if wants_words else (ALIAS,)
    if project.backend.exclusive:
        names = [project.backend.behind_alias(alias) for alias in aliases]
    else:
        with project.open_index(wait_seconds=WAIT_SECONDS) as client:
            names = [served(client, alias) for alias in aliases]
    if names[0] is None:
        raise NothingIndexed("nothing is indexed yet: run `embed-assets sync`")
    return ServedNames(names[0], *names[1:])


def served_name(project: Project) -> str:
    """Name of the collection for searches by sound; raises the same errors."""
    return served_names(project).tracks


def spec_of(project: Project, name: str) -> IndexSpec | None:
    """The spec of a collection, if it is known."""
    wanted = wanted_spec(project)
    if wanted and name == wanted.collection:
        return wanted
    if wanted and wanted.words_spec and name == wanted.words_spec.collection:
        return wanted.words_spec
    parts = project.vectors.parts
    return collection_registry.spec_of(project.tables, project.uri, name, parts=parts)


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


def spec_to_show(project: Project) -> tuple[IndexSpec, str]:
    """The spec of the settings, and nothing; without weights that of what is served, and why.

    Raises:
        WeightsMissing: the weights are missing, and nothing is served.
        ConfigurationError: as `Project.spec`.
    """
    try:
        return project.spec(), ""
    except WeightsMissing:
        name = collection_registry.last_served(project.tables, project.uri)
        spec = spec_of(project, name) if name else None
        if spec is None:
            raise
    return project.vectors.with_words(spec), (
        f"the weights of EMBED_ENCODER={project.vectors.tracks.name} are missing: `embed-assets"
        " doctor` says how to get them. This is about what is served, made with"
        f" EMBED_ENCODER={spec.recipe.encoder}"
    )


def encoder_note(settings: Settings, spec: IndexSpec | None = None) -> str:
    """For people: which encoder made the vectors of a result, and a note about it."""
    project = Project.of(settings)
    encoder_config = project.vectors.tracks
    if spec and project.vectors.words and spec.recipe.encoder == project.vectors.words.name:
        encoder_config = project.vectors.words
    try:
        info = encoders.describe(encoder_config.name, encoder_config.model, encoder_config.cache)
        every = {one.recipe.encoder: one for one in reversed(project.spec().every_collection)}
    except WeightsMissing:
        made = f"{spec.recipe.encoder}, which is served" if spec else "what is served"
        return (
            f"{made}; the weights of {encoder_config.name} are missing: see `embed-assets doctor`"
        )
    wanted = every.get(encoder_config.name, project.spec())
    if spec is not None and spec.collection_specs[0] != wanted.collection_specs[0]:
        alias = ALIAS if encoder_config == project.vectors.tracks else WORDS
        if collection_registry.is_by_hand(project.tables, project.uri, wanted.collection, alias):
            option = " --words" if alias == WORDS else ""
            return (
                f"{spec.recipe.encoder}, chosen by hand: `embed-assets promote{option}` serves"
                f" {wanted.collection}"
            )
        other = f"{spec.recipe.encoder}, served until {wanted.collection} is complete"
        return f"{other}: `embed-assets collections`"
    return f"{info.name}; {info.note}"
