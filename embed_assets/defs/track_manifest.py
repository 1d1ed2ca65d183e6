"""The asset `track_manifest`: the tracks of a folder, their tags, and which cannot be read."""

import time
from typing import Any

import dagster as dg

from embed_assets.defs.dead_runs import refuse_ended_run
from embed_assets.defs.execution import RETRIES, no_retry_on_interrupt
from embed_assets.defs.host_check import refuse_other_host
from embed_assets.defs.partitions import MUSIC_FOLDERS
from embed_assets.defs.ranged_run import (
    REMOVE_TAG,
    Progress,
    each_folder,
    folder_metadata,
    note_changed,
    one_by_one,
    rejects_of,
)
from embed_assets.defs.resources import (
    EncoderResource,
    LibraryResource,
    MilvusResource,
    StateResource,
)
from embed_assets.errors import FolderChanged
from embed_assets.identity import folder_id
from embed_assets.library.manifest import scan_folder
from embed_assets.storage import queries
from embed_assets.workers import cpu_count, open_pool

COLUMNS = dg.TableSchema(
    [
        dg.TableColumn("track_id", "string", "stable id, from library name and path"),
        dg.TableColumn("path", "bytes", "relative to the library"),
        dg.TableColumn("audio_hash", "string", "hash of the encoded audio, without tags"),
        dg.TableColumn("reason", "string", "why the file was rejected, if it was"),
        dg.TableColumn("duration", "float", "seconds"),
        dg.TableColumn("title", "string"),
        dg.TableColumn("artist", "string"),
        dg.TableColumn("album", "string"),
        dg.TableColumn("genre", "string"),
        dg.TableColumn("year", "int"),
    ]
)


class ScanConfig(dg.Config):
    """Options of a run that a person launches."""

    retry_rejected: bool = False
    """Read rejected files again even if they did not change."""


@dg.asset(
    partitions_def=MUSIC_FOLDERS,
    group_name="music",
    kinds={"python", "sqlite"},
    retry_policy=RETRIES,
    metadata={"dagster/column_schema": COLUMNS},
    description=(
        "The tracks of a music folder: tags, duration, format, and a hash of the audio that does"
        " not change when a file is moved or retagged; or the reason why a file cannot be read."
        " Only changed files are read again."
    ),
)
@no_retry_on_interrupt("track_manifest")
def track_manifest(
    context: dg.AssetExecutionContext,
    config: ScanConfig,
    library: LibraryResource,
    state: StateResource,
    encoder: EncoderResource,
    milvus: MilvusResource,
) -> None:
    """Scan each folder of the run."""
    refuse_ended_run(context)
    refuse_other_host(context, library, state, encoder, milvus)
    music = library.library()
    tables = state.tables()
    may_remove = context.run.tags.get(REMOVE_TAG) == "true"
    progress = Progress(context.log.info, 0)

    def scan(path: bytes) -> dict[str, Any]:
        started = time.monotonic()
        folder = folder_id(music.name, path)
        if config.retry_rejected:
            tables.forget_unreadable(folder)
        try:
            found = scan_folder(
                music,
                path,
                tables,
                pool,
                may_remove=may_remove,
                run_id=context.run_id,
                on_track=lambda row: progress.add("rejected" if row.reason else "read"),
            )
        except FolderChanged as e:
            return note_changed(context, music, tables, path, str(e))
        return folder_metadata(music, path) | {
            "dagster/row_count": found.tracks,
            "tracks": found.tracks,
            "read": found.probed,
            "unchanged": found.unchanged,
            "removed": found.removed,
            "rejected": found.rejected,
            **rejects_of(queries.folder_rejects(tables, folder)),
            "audio_seconds": round(found.audio_seconds, 1),
            "seconds": round(time.monotonic() - started, 3),
        }

    with open_pool(min(cpu_count(), 8)) as pool:
        each_folder(context, music, tables, one_by_one(scan))
