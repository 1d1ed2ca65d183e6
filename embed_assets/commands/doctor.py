"""`doctor`: each thing that must be so, checked, with what to do where it is not."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from embed_assets import encoders, reports
from embed_assets.commands.up import running_address
from embed_assets.errors import ConfigurationError, EmbedAssetsError, TransientError
from embed_assets.index import collection
from embed_assets.index.connection import connect
from embed_assets.index.reconcile import compare
from embed_assets.library.walk import require_library, walk
from embed_assets.project import Project
from embed_assets.settings import Settings

FREE_BYTES = 1 << 30
BUSY_SECONDS = 5.0


@dataclass(frozen=True)
class Finding:
    """One check: `ok` None means that it could not be made now."""

    check: str
    ok: bool | None
    message: str


def doctor(settings: Settings) -> list[Finding]:
    """Check everything that a run needs; changes nothing."""
    project = Project.of(settings)
    checks: list[tuple[str, Callable[[Settings, Project], str]]] = [
        ("library", _library),
        ("home", _home),
        ("encoder", _encoder),
        ("device", _device),
        ("index", _index),
        ("tracks", _tracks),
        ("dagster", _dagster),
    ]
    return [_finding(name, check, settings, project) for name, check in checks]


def _finding(
    name: str, check: Callable[[Settings, Project], str], settings: Settings, project: Project
) -> Finding:
    try:
        return Finding(name, True, check(settings, project))
    except _Unknown as e:
        return Finding(name, None, str(e))
    except EmbedAssetsError as e:
        return Finding(name, False, str(e))


class _Unknown(EmbedAssetsError):
    pass


def _library(settings: Settings, project: Project) -> str:
    root = require_library(project.library.root)
    folders = files = 0
    for folder in walk(root):
        if folder.digest is None:
            raise TransientError(
                f"{os.fsdecode(folder.path)!r}: {folder.error}; mend its permissions, or the disk:"
                " what is below it is left as it is"
            )
        folders += 1
        files += folder.files
    if not files:
        raise ConfigurationError(f"EMBED_LIBRARY={root} holds no audio files: is it the right one?")
    return f"{root}: {files} audio files in {folders} folders"


def _home(settings: Settings, project: Project) -> str:
    place = settings.home
    while not place.exists():
        place = place.parent
    if not os.access(place, os.W_OK):
        raise ConfigurationError(f"EMBED_HOME={settings.home} cannot be written: change its owner")
    free = shutil.disk_usage(place).free
    if free < FREE_BYTES:
        raise TransientError(f"EMBED_HOME={settings.home} has {free >> 20} MiB free: make room")
    return f"{settings.home}, {free >> 30} GiB free"


def _encoder(settings: Settings, project: Project) -> str:
    info = encoders.describe(settings.encoder, settings.model, settings.model_cache)
    return f"{info.name}, weights {info.weights[:12]}: {info.note}"


def _device(settings: Settings, project: Project) -> str:
    if settings.encoder == "acoustic":
        return "cpu (acoustic runs on nothing else)"
    from embed_assets.encoders.devices import resolve_device

    where, workers = resolve_device(settings.device), project.choice.workers()
    used = ""
    with suppress(ConfigurationError):  # that the weights are not here is said by `encoder`
        used = reports.last_engine(project.tables, project.spec().recipe.digest)
    return (
        f"{where}, {workers} worker process{'es' if workers > 1 else ''}"
        f"{f'; the last track was embedded by {used}' if used else ''}"
    )


def _index(settings: Settings, project: Project) -> str:
    spec = project.spec()
    lite = not project.uri.startswith("http")
    if not any(project.tables.indexed(spec.place(project.uri)).values()):
        return f"nothing is indexed in {project.uri} yet: `embed-assets sync` or `up` does it"
    try:
        with connect(project.uri, project.token, wait_seconds=BUSY_SECONDS) as client:
            if not client.has_collection(spec.collection):
                raise TransientError(
                    f"{spec.collection} is gone from {project.uri}: the job `reconcile`, which runs"
                    " every hour, notices, and the next look fills it from the stored embeddings"
                )
            drift = compare(client, spec, project.tables)
            served = collection.served(client)
    except TransientError as e:
        if lite and "in use" in str(e):
            raise _Unknown(f"a run has the index now: {e}") from e
        raise
    if drift.differing or drift.orphans:
        raise TransientError(
            f"{len(drift.differing)} folders differ from the tables and {len(drift.orphans)} are"
            " orphaned: the hourly reconciliation mends this, or start the job `reconcile` now"
        )
    serving = "served" if served == spec.collection else f"not served yet ({served} is)"
    return f"{drift.rows} rows in {drift.folders} folders, in step with the tables, {serving}"


def _tracks(settings: Settings, project: Project) -> str:
    spec = project.spec()
    found = reports.counts(project.tables, spec.recipe.digest, spec.place(project.uri))
    if found.folders_failed:
        raise TransientError(
            f"{found.folders_failed} folders failed: `embed-assets errors` lists them with their"
            " reasons; they are tried again by themselves"
        )
    rejected = f"{found.rejected} rejected (see `embed-assets errors`)" if found.rejected else ""
    return f"{found.embedded} embedded, {rejected or 'none rejected'}; `status` says what is to do"


def _dagster(settings: Settings, project: Project) -> str:
    address = running_address(settings)
    if address is None:
        raise _Unknown("not up: `embed-assets up` keeps the index in step by itself")
    return f"up: {address}"
