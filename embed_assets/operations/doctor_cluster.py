"""The check `cluster` of `doctor`: what several machines share, as this host sees it.

That is a person's own Dagster instance, and the vectors where EMBED_VECTORS names a place.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from embed_assets.defs.dagster_compat.batches import stores_batches
from embed_assets.defs.dagster_compat.locks import is_postgres
from embed_assets.defs.dagster_compat.pools import default_limit, pool_limit
from embed_assets.defs.dagster_compat.runs import (
    clock_ahead,
    frees_slots_of_ended_runs,
    watches_workers,
)
from embed_assets.defs.execution import GPU_POOL, MILVUS_POOL
from embed_assets.defs.host_check import differs_from_last
from embed_assets.defs.instance import open_instance
from embed_assets.errors import ConfigurationError, TransientError
from embed_assets.project import Project
from embed_assets.settings import Settings

if TYPE_CHECKING:
    import dagster as dg

MOST_SECONDS_APART = 5.0
"""Runs that were requested are remembered for 20 s by the clock of whoever requested them."""


def describe(settings: Settings, project: Project) -> str:
    """What the instance of EMBED_DAGSTER_HOME is, if it can be used from this host.

    A small object is written to the place of EMBED_VECTORS, read, and deleted.

    Raises:
        ConfigurationError: its dagster.yaml, the place of the vectors, or this host lacks
            something; says what to do.
        TransientError: its database or the vectors are away, or the clock of this host is wrong.
    """
    vectors = f"; vectors in {project.store.check()}" if settings.vectors else ""
    if settings.dagster_home is None:
        return f"EMBED_DAGSTER_HOME is not set: all runs are on this machine{vectors}"
    with open_instance(settings) as instance:
        elsewhere = watches_workers(instance)
        _require_yaml(instance, settings)
        if elsewhere:
            _require_pools(instance, settings)
            _require_host(settings, project)
        ahead = clock_ahead(instance)
        if abs(ahead) > MOST_SECONDS_APART:
            raise TransientError(
                f"the clock of this host is {abs(ahead):.0f} s"
                f" {'ahead of' if ahead > 0 else 'behind'} that of the database: run NTP on both"
            )
        # Not `project`, which has empty tables where none were made yet.
        index = Project.of(settings).index()
        if said := differs_from_last(instance, index):
            raise ConfigurationError(
                f"{said}. If you have just changed them everywhere, start `up`: until then this"
                " compares with its last settings"
            )
        where = "a database of PostgreSQL" if is_postgres(instance) else "files of this machine"
    if elsewhere and not vectors:
        vectors = f"; vectors in {project.store.where}: all machines must have this one folder"
    runs = (
        "on any machine, and their launcher watches them" if elsewhere else "on the machine of `up`"
    )
    return f"{settings.dagster_home}: {where}; runs are {runs}{vectors}"


def _require_yaml(instance: dg.DagsterInstance, settings: Settings) -> None:
    file = f"{settings.dagster_home}/dagster.yaml"
    if is_postgres(instance) and default_limit(instance) is not None:
        raise ConfigurationError(
            f"{file}: `default_limit` of pools fails on PostgreSQL when a second run asks for a"
            " slot: remove it, and set a limit for each pool"
        )
    if not stores_batches(instance):
        raise ConfigurationError(
            f"{file} stores the events of folders one by one, which takes hours of an import: add"
            " the lines of `instance_class` that `embed-assets cluster-config` prints"
        )
    if watches_workers(instance) and not frees_slots_of_ended_runs(instance):
        raise ConfigurationError(
            f"{file}: without run_monitoring with free_slots_after_run_end_seconds, a machine that"
            " is gone keeps its slots of pools for ever: `embed-assets cluster-config` prints both"
        )


def _require_pools(instance: dg.DagsterInstance, settings: Settings) -> None:
    missing = [name for name in (GPU_POOL, MILVUS_POOL) if pool_limit(instance, name) is None]
    if missing:
        commands = " and ".join(
            f"`DAGSTER_HOME={settings.dagster_home} dagster instance concurrency set {name} N`"
            for name in missing
        )
        raise ConfigurationError(
            f"the pool{'s' if len(missing) > 1 else ''} {' and '.join(missing)} without a limit"
            f" let all runs in at once: {commands}; gpu: how many may embed at once, on all"
            " machines; milvus: how many may write"
        )


def _require_host(settings: Settings, project: Project) -> None:
    if shutil.which("dagster") is None:
        raise ConfigurationError(
            "the command `dagster` is not on the PATH, by which a run is started on this host: add"
            " the `bin` of its environment to the PATH of whatever starts runs (`ray start`)"
        )
    if project.backend.exclusive:
        raise ConfigurationError(
            f"Milvus Lite ({project.uri}) belongs to one machine, and runs are on several: name a"
            " Milvus server in EMBED_MILVUS_URI"
        )
    if settings.tables_address is None:
        raise ConfigurationError(
            "the tables are in EMBED_HOME, on one machine, and runs are on several: name a"
            " PostgreSQL database in EMBED_TABLES, as docs/cluster.md says"
        )
