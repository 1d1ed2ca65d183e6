"""Jobs: the one that brings folders in step, for the sensor, `sync` and people."""

from __future__ import annotations

import dagster as dg

from embed_assets.defs.checks import READABLE

LIBRARY_JOB = dg.define_asset_job(
    "bring_in_step",
    # Without `index_in_step`: reading the whole index belongs into no folder's run.
    selection=dg.AssetSelection.assets(
        "track_manifest", "audio_embeddings", "milvus_index"
    ).without_checks()
    | dg.AssetSelection.checks(READABLE.key),
    description="Scan, embed and index music folders.",
)
