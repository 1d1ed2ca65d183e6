"""The asset `milvus_index`: one row per track in the index, read back after writing."""

from collections.abc import Iterator
from dataclasses import replace

import dagster as dg

from embed_assets.context import IndexContext
from embed_assets.defs.audio_embeddings import audio_embeddings
from embed_assets.defs.checks import describe_status, evaluation_of
from embed_assets.defs.dagster_compat.batches import store_materializations
from embed_assets.defs.dagster_compat.runs import VERSION_TAG
from embed_assets.defs.dead_runs import refuse_ended_run
from embed_assets.defs.execution import MILVUS_POOL, RETRIES, no_retry_on_interrupt
from embed_assets.defs.host_check import refuse_other_host
from embed_assets.defs.partitions import MUSIC_FOLDERS, key_of
from embed_assets.defs.ranged_run import (
    folder_metadata,
    note_failure,
    note_not_ready,
    note_shared_failure,
    paths_of,
    raise_for,
)
from embed_assets.defs.resources import (
    EncoderResource,
    LibraryResource,
    MilvusResource,
    StateResource,
    index_context,
)
from embed_assets.errors import EmbedAssetsError
from embed_assets.index.folders import DIRTY, FolderIndexed, index_in_batches, mirror_to_served
from embed_assets.index.promotion import promote_if_ready
from embed_assets.storage.owner import own_store

COLUMNS = dg.TableSchema(
    [
        dg.TableColumn("track_id", "string", "primary key"),
        dg.TableColumn("audio_hash", "string"),
        dg.TableColumn("folder", "string", "relative to the library"),
        dg.TableColumn("path", "string", "relative to the library"),
        dg.TableColumn("title", "string", "the file name if there is no tag"),
        dg.TableColumn("artist", "string"),
        dg.TableColumn("album", "string"),
        dg.TableColumn("genre", "string"),
        dg.TableColumn("year", "int"),
        dg.TableColumn("duration", "float", "seconds"),
        dg.TableColumn("added_at", "int", "seconds since 1970; unchanged by a move or a retag"),
        dg.TableColumn("encoder", "string", "what made the vector; more fields: see TrackRow"),
        dg.TableColumn("vector", "float vector", "pooled over the windows, of norm 1"),
    ]
)


@dg.asset(
    deps=[audio_embeddings],
    partitions_def=MUSIC_FOLDERS,
    group_name="music",
    kinds={"python", "milvus"},
    pool=MILVUS_POOL,
    retry_policy=RETRIES,
    output_required=False,
    metadata={"dagster/column_schema": COLUMNS},
    description=(
        "The folder's rows in the Milvus collection behind the alias `tracks`: one row per readable"
        " track. The data version identifies the files and the index spec. New settings fill"
        " another collection, which is served once it is complete and passes its gates. With"
        " EMBED_PARTS the windows have their own collection. With EMBED_WORDS there is another one,"
        " behind the alias `words`, with the vectors for `find`."
    ),
)
def milvus_index(
    context: dg.AssetExecutionContext,
    library: LibraryResource,
    state: StateResource,
    encoder: EncoderResource,
    milvus: MilvusResource,
) -> Iterator[dg.DagsterEvent]:
    """Index each folder of the run; a folder is reported after it was read back."""
    refuse_ended_run(context)
    refuse_other_host(context, library, state, encoder, milvus)
    music, tables = library.library(), state.tables()
    stage = context.asset_key.path[-1]
    todo = dict.fromkeys(context.partition_keys)
    failed: list[tuple[str, Exception]] = []
    try:
        index = index_context(library, state, encoder, milvus)
        index = replace(index, store=own_store(tables, index.store))
        with no_retry_on_interrupt(stage), milvus.get_client() as client:
            paths = paths_of(todo)
            for batch in index_in_batches(client, index, paths):
                made = []
                for report in batch:
                    if isinstance(report, tuple):
                        key = key_of(report[0])
                        note_failure(context, music, tables, key, stage, report[1])
                        failed.append((key, report[1]))
                        todo.pop(key)
                        continue
                    if report.version == DIRTY:
                        recipes = index.spec.recipes
                        note_not_ready(music, tables, report.path, recipes, context.run_id)
                    made.append(_materialization(context, index, report))
                # Stored before the next batch is asked for, which records the folders of this one.
                yield from store_materializations(context, made)
                for one in made:
                    todo.pop(one.partition)
                refuse_ended_run(context)
            mirror_to_served(client, index, paths)
            status = promote_if_ready(client, index)
            if any(one.moved or one.why for one in status.each):
                context.log.info(describe_status(status))
                context.log_event(evaluation_of(status))
    except EmbedAssetsError as e:
        # Reported folders are recorded in groups; which of these were recorded is not known.
        left = list(todo) or list(context.partition_keys)
        note_shared_failure(context, music, tables, left, stage, e)
        failed += [(key, e) for key in left]
    if failed:
        raise_for(failed, stage, len(context.partition_keys))


def _materialization(
    context: dg.AssetExecutionContext, index: IndexContext, report: FolderIndexed
) -> dg.AssetMaterialization:
    return dg.AssetMaterialization(
        context.asset_key,
        partition=key_of(report.path),
        tags={VERSION_TAG: report.version},
        metadata=folder_metadata(index.library, report.path)
        | {
            "dagster/row_count": report.rows,
            "rows": report.rows,
            "written": report.written,
            "deleted": report.deleted,
            "unchanged": report.unchanged,
            **({"parts": report.parts} if index.spec.parts else {}),
            **({"words": report.words} if index.spec.words else {}),
            "collection": index.spec.collection,
            "version": report.version,
        },
    )
