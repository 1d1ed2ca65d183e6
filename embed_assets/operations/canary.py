"""`canary`: checks now whether this machine still makes the vectors that are stored."""

from __future__ import annotations

from dataclasses import replace

from embed_assets.embedding.canary.check import check
from embed_assets.embedding.canary.environment import changes, environment
from embed_assets.embedding.canary.notes import Notes
from embed_assets.embedding.canary.report import Level, Report, together
from embed_assets.embedding.decode_ahead import open_embedders
from embed_assets.embedding.embed_folders import EmbedContext
from embed_assets.errors import TransientError
from embed_assets.identity import Recipe
from embed_assets.library.walk import require_library
from embed_assets.project import Project
from embed_assets.settings import Settings
from embed_assets.storage.owner import own_store


def canary(settings: Settings, *, accept: bool = False) -> Report:
    """Embed a few tracks again and compare; `accept`: what they give now is right from now on.

    Raises:
        ConfigurationError: the library is missing, the encoder cannot be loaded, or the stored
            vectors are those of another library.
        TransientError: workers were killed, or the disk failed or looks unmounted.
    """
    project = Project.of(settings)
    require_library(project.library.root)
    passes = project.vectors.passes(project.spec())
    for _, encoder_config in passes:
        encoder_config.require()
    # Without its disk no vectors would differ, and what changed here would count as checked.
    store = own_store(project.tables, project.store)
    reports = {}
    for recipe, encoder_config in passes:
        context = EmbedContext(project.library, recipe, encoder_config, project.tables, store)
        with open_embedders(encoder_config, recipe.window_seconds) as pool:
            reports[encoder_config.name] = check(context, pool, accept=accept)
    report = together(reports)
    if missing := project.vectors.words_missing():
        return replace(report, message=f"{report.message}; not checked for `find`: {missing}")
    return report


def last_result(project: Project) -> str | None:
    """The results of the last checks, for `doctor`; None if there was none.

    Raises:
        TransientError: vectors differ, and no new ones are written; says what to do.
    """
    passes = project.vectors.passes(project.spec())
    found = {
        encoder_config.name: _last_result(project, recipe) for recipe, encoder_config in passes
    }
    if len(found) == 1:
        return next(iter(found.values()))
    return "; ".join(f"{name}: {said or 'not checked yet'}" for name, said in found.items())


def _last_result(project: Project, recipe: Recipe) -> str | None:
    noted = Notes.beside(project.store).read(recipe.digest)
    report = noted.report
    if report is None:
        return None
    if report.level is Level.ERROR:
        raise TransientError(f"{recipe.encoder}: {report.message}")
    found = f"{report.message} ({report.at})"
    if changed := changes(noted.environment, environment(project.vectors.tracks.device)):
        found += f"; changed since: {', '.join(changed)}, so the next run that embeds checks again"
    return found
