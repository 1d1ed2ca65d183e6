"""Jobs: the one that brings folders in step, for the sensor, `sync` and people."""

from __future__ import annotations

import dagster as dg

LIBRARY_JOB = dg.define_asset_job(
    "bring_in_step",
    selection=dg.AssetSelection.assets("track_manifest", "audio_embeddings", "milvus_index"),
    description="Scan, embed and index music folders.",
)
