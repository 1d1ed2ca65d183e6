"""Hosts that differ are refused: a step does only what the requester of its run wanted.

A run carries the digest of the settings that decide vectors and rows. On a host with other settings
or weights it would fill another collection, unnoticed and for ever.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import dagster as dg

from embed_assets.defs.dagster_compat.runs import cancel_run, read_note, watches_workers, write_note
from embed_assets.errors import ConfigurationError
from embed_assets.identity import IndexSpec, digest

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
    "uri": "EMBED_MILVUS_URI (with EMBED_MILVUS_DATABASE)",
}
"""What a person can change to make two hosts alike; the rest is the version of embed_assets."""


def wanted(spec: IndexSpec, uri: str) -> dict[str, Any]:
    """All settings that decide vectors and rows, with the version of what makes them."""
    plain = asdict(spec)
    return {**plain.pop("recipe"), **plain, "uri": uri}


def spec_tags(instance: dg.DagsterInstance, spec: IndexSpec, uri: str) -> dict[str, str]:
    """Tags of a run that is requested now, by this process."""
    values = wanted(spec, uri)
    name = _digest(values)
    known = _explained(instance)
    if next(reversed(known), None) != name:
        known.pop(name, None)
        known[name] = {"values": values, "host": socket.gethostname()}
        newest = dict(list(known.items())[-KEPT:])
        write_note(instance, SPECS, json.dumps(newest))
    return {SPEC_TAG: name}


def require_wanted(
    instance: dg.DagsterInstance, run: dg.DagsterRun, spec: IndexSpec, uri: str
) -> None:
    """Refuse a run that was requested for other settings than those of this host.

    Somebody who executes an old run again, where all runs are on one machine, wants it with the
    settings of today.

    Raises:
        ConfigurationError: names each setting that differs, with both values.
    """
    name, values = run.tags.get(SPEC_TAG), wanted(spec, uri)
    again = run.parent_run_id is not None and not watches_workers(instance)
    if name is None or again or name == _digest(values):
        return
    asked = _explained(instance).get(name)
    raise ConfigurationError(_differs(values, asked["values"] if asked else None, asked or {}))


def differs_from_last(instance: dg.DagsterInstance, spec: IndexSpec, uri: str) -> str:
    """How the settings of this host differ from those of the last run request; empty: not."""
    asked = next(reversed(_explained(instance).values()), None)
    values = wanted(spec, uri)
    if asked is None or _digest(asked["values"]) == _digest(values):
        return ""
    return _differs(values, asked["values"], asked)


def cancel_outdated(instance: dg.DagsterInstance, spec: IndexSpec, uri: str) -> None:
    """Cancel queued runs of earlier settings: their folders are evaluated with those of today."""
    queued = dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED])
    name = _digest(wanted(spec, uri))
    for record in instance.get_run_records(queued):
        run = record.dagster_run
        if run.tags.get(SPEC_TAG, name) != name:
            cancel_run(instance, run, "it was requested for other settings than those of now")


def _explained(instance: dg.DagsterInstance) -> dict[str, Any]:
    return json.loads(read_note(instance, SPECS) or "{}")


def _digest(values: Mapping[str, Any]) -> str:
    return digest("wanted", json.dumps(values, sort_keys=True))


def _differs(own: Mapping[str, Any], other: Mapping[str, Any] | None, asked: Any) -> str:
    here, there = socket.gethostname(), asked.get("host", "")
    if other is None:
        what = "other settings or weights"
    else:
        # As JSON has them: a tuple is a list there.
        mine = json.loads(json.dumps(dict(own)))
        names = [n for n in mine.keys() | other.keys() if mine.get(n) != other.get(n)]
        # Another encoder has its own weights, width and rate.
        named = [n for n in NAMES if n in names][: 1 if "encoder" in names else None]
        what = "; ".join(f"{NAMES[n]} is {mine[n]!r} here and {other[n]!r} there" for n in named)
        what = what or "another version of embed_assets"
    return (
        f"this host ({here}) differs from the one that requests runs"
        f"{f' ({there})' if there else ''}: {what}. Nothing was written. Give all hosts the same"
        " EMBED_* settings and weights; `embed-assets doctor` compares them"
    )
