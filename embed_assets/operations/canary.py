"""`canary`: checks now whether this machine still makes the vectors that are stored."""

from __future__ import annotations

from embed_assets.embedding.canary.check import check
from embed_assets.embedding.canary.environment import changes, environment
from embed_assets.embedding.canary.notes import Notes
from embed_assets.embedding.canary.report import Level, Report
from embed_assets.embedding.decode_ahead import open_embedders
from embed_assets.embedding.embed_folders import EmbedContext
from embed_assets.errors import TransientError
from embed_assets.library.walk import require_library
from embed_assets.project import Project
from embed_assets.settings import Settings


def canary(settings: Settings, *, accept: bool = False) -> Report:
    """Embed a few tracks again and compare; `accept`: what they give now is right from now on.

    Raises:
        ConfigurationError: the library is missing, or the encoder cannot be loaded.
        TransientError: workers were killed, or the disk failed.
    """
    project = Project.of(settings)
    require_library(project.library.root)
    recipe = project.spec().recipe
    project.choice.require()
    context = EmbedContext(project.library, recipe, project.choice, project.tables, project.store)
    with open_embedders(project.choice, recipe.window_seconds) as pool:
        return check(context, pool, accept=accept)


def last_result(project: Project) -> str | None:
    """The result of the last check, for `doctor`; None if there was none.

    Raises:
        TransientError: vectors differ, and no new ones are written; says what to do.
    """
    noted = Notes.beside(project.store).read(project.spec().recipe.digest)
    report = noted.report
    if report is None:
        return None
    if report.level is Level.ERROR:
        raise TransientError(report.message)
    found = f"{report.message} ({report.at})"
    if changed := changes(noted.environment, environment(project.choice.device)):
        found += f"; changed since: {', '.join(changed)}, so the next run that embeds checks again"
    return found
