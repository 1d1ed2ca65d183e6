"""The check `neighbours_beat_chance`: how good the neighbours of each collection are, daily."""

from dataclasses import replace
from typing import Any

import dagster as dg

from embed_assets.defs.resources import (
    EncoderResource,
    LibraryResource,
    MilvusResource,
    StateResource,
)
from embed_assets.errors import ConfigurationError
from embed_assets.formats import counted
from embed_assets.neighbours.figures import Relation
from embed_assets.project import Project
from embed_assets.search.evaluate import evaluate, problems_of
from embed_assets.search.evaluation import Evaluation
from embed_assets.search.local import local_answers
from embed_assets.storage import collection_registry

SAMPLE = 2_000
"""Tracks of each collection whose neighbours are looked at: seconds for 100,000 tracks."""

COLUMNS = (
    "collection",
    "served",
    "ranked by",
    "tracks",
    "same artist, another album",
    "same album",
    "same genre, another artist",
    "one half finds the other",
    "skewness",
)


@dg.asset_check(
    asset="milvus_index",
    description=(
        "Measures how good the neighbours of each collection are, by the library's own tags, and"
        " warns if those of the served one are no better than chance, or worse than those of the"
        " built-in encoder. Blocks nothing; see docs/evaluate.md."
    ),
)
def neighbours_beat_chance(
    library: LibraryResource,
    state: StateResource,
    encoder: EncoderResource,
    milvus: MilvusResource,
) -> dg.AssetCheckResult:
    """Evaluate each collection on a sample; reads tables and stored vectors, not Milvus."""
    project = _project(library, state, encoder, milvus)
    served = collection_registry.last_served(project.tables, project.uri)
    records, problems, notes = [], [], []
    for known in collection_registry.known(project.tables, project.uri).values():
        spec = known.spec
        if spec is None or spec.collection != known.name:
            continue
        if not project.tables.holds(spec.collection_key(project.uri)):
            continue
        try:
            found = evaluate(local_answers(project, spec), SAMPLE)
        except ConfigurationError as e:
            notes.append(f"{known.name}: {e}")
            continue
        records.append(_record(found, is_served=known.name == served))
        if known.name == served:
            problems = problems_of(found)
    metadata: dict[str, Any] = {
        "collections": dg.MetadataValue.table(
            records, schema=dg.TableSchema([dg.TableColumn(c, "string") for c in COLUMNS])
        )
    }
    return dg.AssetCheckResult(
        passed=not problems,
        severity=dg.AssetCheckSeverity.WARN,
        description="; ".join([*problems, *notes])
        or f"measured the neighbours of {counted(len(records), 'collection')}",
        metadata=metadata,
    )


def _record(found: Evaluation, *, is_served: bool) -> dg.TableRecord:
    same, skewness = found.same_track, found.hubs.skewness
    values = (
        found.collection,
        "yes" if is_served else "",
        found.ranking,
        f"{found.asked} of {found.tracks}" if found.asked < found.tracks else str(found.tracks),
        *map(_cell, found.relations),
        f"{same.found:.3f} of {same.tracks}" if same else "",
        "" if skewness is None else f"{skewness:.2f}",
    )
    return dg.TableRecord(dict(zip(COLUMNS, values, strict=True)))


def _cell(one: Relation) -> str:
    if one.precision is None or one.low is None or one.high is None or one.chance is None:
        return ""
    return f"{one.precision:.3f} ({one.low:.3f} to {one.high:.3f}), chance {one.chance:.3f}"


def _project(
    library: LibraryResource,
    state: StateResource,
    encoder: EncoderResource,
    milvus: MilvusResource,
) -> Project:
    """What `evaluate` works with; nothing here asks Milvus, so it gets no token."""
    return Project(
        library=library.library(),
        tables=state.tables(),
        store=state.store(),
        vectors=replace(encoder.vectors(), parts=False),
        uri=milvus.uri,
        token=None,
        vector_type=milvus.vector_type,
        shards=milvus.shards,
    )


EVALUATION_JOB = dg.define_asset_job(
    "evaluate_neighbours",
    selection=dg.AssetSelection.checks(neighbours_beat_chance),
    description="Measure how good the neighbours of each collection are",
)

EVALUATION_SCHEDULE = dg.ScheduleDefinition(
    name="daily_evaluation",
    job=EVALUATION_JOB,
    cron_schedule="53 4 * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
