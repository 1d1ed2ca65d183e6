"""`adopt-vectors`: has the place that EMBED_VECTORS names belong to this library."""

from __future__ import annotations

from dataclasses import dataclass

from embed_assets.project import Project
from embed_assets.settings import Settings
from embed_assets.storage.owner import adopt


@dataclass(frozen=True)
class Adopted:
    """What was adopted; `before`: whose it was, as the end of a sentence."""

    where: str
    before: str


def adopt_vectors(settings: Settings) -> Adopted:
    """Replace the mark of the place of the vectors.

    Raises:
        ConfigurationError: EMBED_VECTORS is not set, or wrong.
        TransientError: the place, or the tables, cannot be written just now.
    """
    project = Project.of(settings)
    before = adopt(project.tables, project.store)
    whose = f"; its mark was of the tables {before.tables} on {before.host}" if before else ""
    return Adopted(project.store.where, whose)
