"""Hosts that differ are refused: a step does only what the requester of its run wanted.

A run carries the digest of the settings that decide vectors and rows. On a host with other settings
or weights it would fill another collection, unnoticed and for ever.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from typing import Any

import dagster as dg

from embed_assets.context import IndexContext
from embed_assets.defs.dagster_compat.runs import cancel_run, read_note, watches_workers, write_note
from embed_assets.defs.execution import wrong_settings_fail_at_once
from embed_assets.defs.resources import (
    EncoderResource,
    LibraryResource,
    MilvusResource,
    StateResource,
    index_context,
)
from embed_assets.errors import ConfigurationError
from embed_assets.identity import digest

SPEC_TAG = "embed_assets/spec"
"""Tag of a run: the digest of the settings for which it was requested."""

SPECS = "embed_assets/specs"
"""Key in Dagster's cursor storage: what the last digests stand for, and who requested them."""

KEPT = 5
"""How many digests are explained: one more for each change of the settings."""

NAMES = {
    "encoder": "EMBED_ENCODER",
    "weights": "the digest of the weights (EMBED_MODEL)",
    "window_seconds": "EMBED_WINDOW_SECONDS",
    "windows": "EMBED_WINDOWS",
    "pooling": "EMBED_POOLING",
    "parts": "EMBED_PARTS",
    "vector_type": "EMBED_MILVUS_VECTOR_TYPE",
    "shards": "EMBED_MILVUS_SHARDS",
    "index": "EMBED_MILVUS_INDEX",
    "replicas": "EMBED_MILVUS_REPLICAS",
    "mmap": "EMBED_MILVUS_MMAP",
    "words": "EMBED_WORDS",
    "words_weights": "the digest of the weights (EMBED_WORDS_MODEL)",
    "uri": "EMBED_MILVUS_URI (with EMBED_MILVUS_DATABASE)",
    "tables": "EMBED_TABLES (empty: in EMBED_HOME)",
    "vectors": "EMBED_VECTORS (empty: in EMBED_HOME)",
}
"""What a person can change to make two hosts alike; the rest is the version of embed_assets."""

UNSET = {
    "words": False,
    "vector_type": "float32",
    "shards": 1,
    "index": "auto",
}
"""What a setting is that is in none of the values."""


def run_settings(index: IndexContext) -> dict[str, Any]:
    """All settings that decide vectors, rows and where they go, with the version of the code."""
    plain = index.spec.as_json()
    places = {
        "uri": index.uri,
        "tables": index.tables.database.place,
        "vectors": index.store.address,
    }
    # Two hosts that want different ones would change a collection back and forth.
    options = index.options.as_json() if index.options else {}
    values = {**plain.pop("recipe"), **plain, **options, **places}
    if words := plain.get("words"):
        values |= {"words": True, "words_weights": words["weights"], "words_recipe": words}
    elif index.words_missing:
        values |= {"words": True, "words_weights": "missing"}
    return values


def spec_tags(instance: dg.DagsterInstance, index: IndexContext) -> dict[str, str]:
    """Tags of a run that is requested now, by this process."""
    values = run_settings(index)
    name = _digest(values)
    known = _explained(instance)
    if next(reversed(known), None) != name:
        known.pop(name, None)
        known[name] = {"values": values, "host": socket.gethostname()}
        newest = dict(list(known.items())[-KEPT:])
        write_note(instance, SPECS, json.dumps(newest))
    return {SPEC_TAG: name}


def refuse_other_host(
    context: dg.AssetExecutionContext,
    library: LibraryResource,
    state: StateResource,
    encoder: EncoderResource,
    milvus: MilvusResource,
) -> None:
    """Fail a step, before it reads or writes anything, if its run wants other settings than ours.

    Raises:
        dagster.Failure: without retries; names each setting that differs, with both values.
    """
    instance = context.instance
    name = _wanted_by(instance, context.run)
    if name is None:
        return
    with wrong_settings_fail_at_once(context.asset_key.path[-1]):
        values = run_settings(index_context(library, state, encoder, milvus))
        if name != _digest(values):
            raise ConfigurationError(_differs(values, _explained(instance).get(name)))


def differs_from_last(instance: dg.DagsterInstance, index: IndexContext) -> str:
    """How the settings of this host differ from those of the last run request; empty: not."""
    asked = next(reversed(_explained(instance).values()), None)
    values = run_settings(index)
    if asked is None or _digest(asked["values"]) == _digest(values):
        return ""
    return _differs(values, asked)


def cancel_outdated(instance: dg.DagsterInstance, index: IndexContext) -> None:
    """Cancel queued runs of earlier settings: their folders are evaluated with those of today."""
    queued = dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED])
    name = _digest(run_settings(index))
    for record in instance.get_run_records(queued):
        run = record.dagster_run
        if _wanted_by(instance, run) not in (None, name):
            cancel_run(instance, run, "it was requested for other settings than those of now")


def _wanted_by(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str | None:
    """The digest that a host must have for a run; None: any.

    Somebody who executes an old run again, where all runs are on one machine, wants it with the
    settings of today.
    """
    if run.parent_run_id is not None and not watches_workers(instance):
        return None
    return run.tags.get(SPEC_TAG)


def _explained(instance: dg.DagsterInstance) -> dict[str, Any]:
    return json.loads(read_note(instance, SPECS) or "{}")


def _digest(values: Mapping[str, Any]) -> str:
    return digest("wanted", json.dumps(values, sort_keys=True))


def _differs(own: Mapping[str, Any], asked: Mapping[str, Any] | None) -> str:
    here, there, what = socket.gethostname(), "", "other settings or weights"
    if asked is not None:
        there = f" ({asked['host']})"
        what = _named(json.loads(json.dumps(dict(own))), asked["values"])
    return (
        f"this host ({here}) differs from the one that requests runs{there}: {what}. Nothing was"
        " written. Give all hosts the same EMBED_* settings and weights; `embed-assets doctor`"
        " compares them"
    )


def _named(own: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """The settings that differ. Another encoder has its own weights, width and rate."""
    names = [n for n in NAMES if own.get(n) != other.get(n)]
    for chosen, weights in (("encoder", "weights"), ("words", "words_weights")):
        if chosen in names and weights in names:
            names.remove(weights)
    # What is not set is not in the values.
    pairs = [(NAMES[n], own.get(n, UNSET.get(n)), other.get(n, UNSET.get(n))) for n in names]
    return (
        "; ".join(f"{name} is {here!r} here and {there!r} there" for name, here, there in pairs)
        or "it has another version of embed_assets"
    )
