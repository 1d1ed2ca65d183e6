"""`doctor`: checks everything a run needs, and says how to fix what is wrong."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from embed_assets import encoders
from embed_assets.defs.dead_runs import only_the_daemon_runs
from embed_assets.defs.evaluation import evaluate
from embed_assets.encoders.config import EncoderConfig
from embed_assets.errors import ConfigurationError, EmbedAssetsError, IndexBusy, TransientError
from embed_assets.formats import counted
from embed_assets.library import ctimes
from embed_assets.library.left_out import LeftOut
from embed_assets.library.partition_keys import about_many
from embed_assets.library.walk import Folder, require_library, walk
from embed_assets.operations import doctor_cluster, doctor_index, music_servers
from embed_assets.operations.canary import last_result
from embed_assets.operations.errors import failed_folders
from embed_assets.operations.http_process import is_answering
from embed_assets.operations.read_only import address_of_up, open_existing
from embed_assets.operations.ready import WITHOUT_WORDS
from embed_assets.planning.values import Policy, SensorCursor
from embed_assets.project import Project, for_reading
from embed_assets.settings import Settings
from embed_assets.storage import queries
from embed_assets.storage.vectors_address import is_folder

FREE_BYTES = 1 << 30
"""Less on the disk of EMBED_HOME is wrong."""


@dataclass(frozen=True)
class Finding:
    """One check; `doctor --json` prints a list of them."""

    check: str
    """Name of the check."""
    ok: bool | None
    """Whether it passed; null if it could not be made now."""
    message: str
    """What was found, and what to do if it is wrong."""
    counts: dict[str, object] = field(default_factory=dict)
    """For the check `left out`, the left-out counts (below); empty for the others."""


def doctor(settings: Settings, *, deep: bool = False) -> list[Finding]:
    """Check everything a run needs; changes nothing. `deep` reads every stored vector."""
    try:
        project = for_reading(settings)
    except EmbedAssetsError:
        project = Project.of(settings)  # The check of the tables says why.
    left_out = LeftOut()
    checks: list[tuple[str, Callable[[Settings, Project], str]]] = [
        ("settings", _settings),
        ("tables", _tables),
        ("library", lambda _, project: _library(project, left_out)),
        ("left out", lambda *_: _left_out(left_out)),
        ("encoder", _encoder),
        ("words", _words),
        ("removals", _removals),
        ("home", _home),
        ("device", _device),
        ("index", lambda _, project: doctor_index.describe(project)),
        ("vectors", lambda _, project: doctor_index.describe_vectors(project, deep=deep)),
        ("canary", _canary),
        ("tracks", _tracks),
        ("ctimes", _ctimes),
        ("dagster", _dagster),
        ("cluster", doctor_cluster.describe),
        ("http", _http),
        ("servers", lambda settings, _: music_servers.describe(settings)),
    ]
    found: list[Finding] = []
    for name, check in checks:
        made = _finding(name, check, settings, project)
        if name == "left out":
            made = replace(made, counts=dict(left_out.as_json()))
        # The same problem is reported once, by the first check that finds it.
        same = next((f for f in found if not made.ok and f.message == made.message), None)
        found.append(replace(made, ok=None, message=f"see {same.check}") if same else made)
    return found


def _finding(
    name: str, check: Callable[[Settings, Project], str], settings: Settings, project: Project
) -> Finding:
    try:
        return Finding(name, ok=True, message=check(settings, project))
    except (_Unknown, IndexBusy) as e:
        return Finding(name, ok=None, message=str(e))
    except EmbedAssetsError as e:
        return Finding(name, ok=False, message=str(e))


class _Unknown(EmbedAssetsError):
    pass


def _settings(settings: Settings, project: Project) -> str:
    if mistyped := settings.mistyped():
        raise ConfigurationError("; ".join(mistyped))
    unused = f"; {settings.unused_model}" if settings.unused_model else ""
    return f"no variable looks like a mistyped setting{unused}"


def _tables(settings: Settings, project: Project) -> str:
    database = Project.of(settings).tables.database
    if not database.exists():
        return f"{database.place}: not made yet"
    with database.connect():
        return database.place


def _library(project: Project, left_out: LeftOut) -> str:
    root = require_library(project.library.root)
    folders = files = 0
    unreadable: Folder | None = None
    for folder in walk(root, left_out=left_out):
        if folder.digest is None:
            unreadable = unreadable or folder
        else:
            folders += 1
            files += folder.files
    if unreadable:
        raise TransientError(
            f"{os.fsdecode(unreadable.path)!r}: {unreadable.error}; fix its permissions or the"
            " disk. What is indexed below it stays until then"
        )
    if not files:
        links = f" Its {left_out.about_links()}" if left_out.links else ""
        raise ConfigurationError(
            f"EMBED_LIBRARY={root} contains no audio files: is it the right folder?{links}"
        )
    found = f"{root}: {counted(files, 'audio file')} in {counted(folders, 'folder')}"
    return ". ".join(text for text in (found, about_many(folders)) if text)


def _left_out(left_out: LeftOut) -> str:
    if not left_out.folders:
        raise _Unknown("the library could not be scanned")
    return (
        "; ".join(left_out.sentences())
        or "nothing: no links out of the library, and no audio files of other kinds"
    )


def _removals(settings: Settings, project: Project) -> str:
    require_library(project.library.root)
    policy = Policy(settle_seconds=0)
    with open_existing(settings) as instance:
        found = evaluate(instance, project.index(), SensorCursor(), policy, budget_seconds=600)
    gone = sum(len(r.keys) for r in found.plan.requests if r.remove)
    return f"{gone or 'no'} folders are gone and will be removed from the index"


def _home(settings: Settings, project: Project) -> str:
    folder = settings.home
    while not folder.exists() and not folder.is_symlink():
        folder = folder.parent
    if not folder.is_dir():
        raise ConfigurationError(
            f"EMBED_HOME={settings.home}: {folder} is not a folder: move it away, or choose another"
            " EMBED_HOME"
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigurationError(
            f"EMBED_HOME={settings.home} is not writable: change its owner or permissions"
        )
    parts = [settings.instance_home, settings.home / "vectors", Path(project.uri)]
    if is_folder(settings.vectors):
        parts.append(Path(settings.vectors or folder))
    for part in (folder, *(p for p in parts if p.exists())):
        free = shutil.disk_usage(part).free
        if free < FREE_BYTES:
            raise TransientError(f"the disk of {part} has {free >> 20} MiB free: free some space")
    return f"{settings.home}, {shutil.disk_usage(folder).free >> 30} GiB free"


def _encoder(settings: Settings, project: Project) -> str:
    return _described(project.vectors.tracks)


def _words(settings: Settings, project: Project) -> str:
    words = project.vectors.words
    if words is None:
        return "no other encoder is wanted for `find`: EMBED_WORDS is false"
    if missing := project.vectors.words_missing():
        raise ConfigurationError(f"{WITHOUT_WORDS}: {missing}")
    return _described(words)


def _described(encoder: EncoderConfig) -> str:
    info = encoders.describe(encoder.name, encoder.model, encoder.cache)
    return f"{info.name}, weights {info.weights[:12]}: {info.note}"


def _device(settings: Settings, project: Project) -> str:
    for one in project.vectors.encoders():
        encoders.require_device(one.name, one.device)
    where = f"cpu ({settings.encoder} runs on CPUs only)"
    if project.vectors.tracks.card.runs_on_gpu:
        from embed_assets.encoders.devices import resolve_device

        where = resolve_device(settings.device)
    workers = project.vectors.tracks.workers()
    used = ""
    with suppress(ConfigurationError):  # `encoder` reports missing weights
        used = queries.last_engine(project.tables, project.spec().recipe.digest)
    return (
        f"{where}, {workers} worker process{'es' if workers > 1 else ''}"
        f"{f'; the last track was embedded by {used}' if used else ''}"
    )


def _canary(settings: Settings, project: Project) -> str:
    found = last_result(project)
    if found is None:
        raise _Unknown("vectors were not checked yet: the first run that embeds checks them")
    return found


def _tracks(settings: Settings, project: Project) -> str:
    spec = project.spec()
    found = queries.counts(project.tables, spec.recipe.digest, spec.collection_key(project.uri))
    with open_existing(settings) as instance:
        failed = len(failed_folders(instance, project, spec))
    if failed:
        raise TransientError(
            f"{counted(failed, 'folder')} failed: `embed-assets errors` gives the reasons; all are"
            " retried automatically"
        )
    rejects = sum(1 for _ in queries.rejects(project.tables, spec))
    rejected = f"{rejects} rejected (see `embed-assets errors`)" if rejects else ""
    damaged = queries.damaged_tracks(project.tables, spec.recipe.digest)
    partly = f", {damaged} partly damaged (docs/reliability.md)" if damaged else ""
    return (
        f"{found.embedded} embedded{partly}, {rejected or 'none rejected'}; see `embed-assets"
        " status` for what is pending"
    )


def _ctimes(settings: Settings, project: Project) -> str:
    folders = ctimes.resting(project.tables, time.time())
    if not folders:
        return "a retag that keeps the size and time of a file is noticed by its ctime"
    return (
        f"in {counted(folders, 'folder')} they change although the files do not (hard links,"
        " permissions, or a network share that makes them up), so they are checked less often"
        " there. If a tagger keeps the size and time of a file, `embed-assets retry PATH` reads it"
        " at once"
    )


def _dagster(settings: Settings, project: Project) -> str:
    address = address_of_up(settings)
    if address is None:
        with open_existing(settings) as instance:
            if only_the_daemon_runs(instance):
                return "no `up`, but a daemon of this instance runs, e.g. that of Dagster's chart"
        raise _Unknown("not running: `embed-assets up` keeps the index up to date")
    return f"up: {address}"


def _http(settings: Settings, project: Project) -> str:
    if settings.http_address is None:
        settings.http_tokens()
        return "EMBED_HTTP is not set: `up` answers no queries; `embed-assets serve` does"
    settings.require_http()
    if settings.http_address.port and is_answering(settings.http_address):
        return f"queries are answered at http://{settings.http_address}"
    if address_of_up(settings) is None:
        raise _Unknown(f"not running: `embed-assets up` will answer queries at {settings.http}")
    if not settings.http_address.port:
        raise _Unknown(f"EMBED_HTTP={settings.http} is any free port: `up` has printed which")
    raise TransientError(
        f"EMBED_HTTP={settings.http}: `up` runs, but nothing answers there: read what it has"
        f" printed, and {settings.home / 'serve.log'}. It may have been started with other settings"
    )
