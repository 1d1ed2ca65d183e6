"""`cluster-config`: the dagster.yaml for runs on several machines, and what to start where."""

from __future__ import annotations

import json
from importlib import resources

from embed_assets.index.backend import SERVER_WRITERS
from embed_assets.index.options import suggested

STEPS = """\
1. On each machine, the UI's included: the same Python, the same version of embed_assets with the
   extra `cluster`, the commands `dagster` and `ray` on the PATH, and in the environment of
   `ray start` and of `up`:
       EMBED_LIBRARY=...               the music, mounted anywhere
       EMBED_HOME=...                  weights and caches, a folder of its own on each machine
       EMBED_TABLES=postgresql://...   the tables: SQLite belongs to one machine
       EMBED_VECTORS=s3://...          the vectors, with AWS_ACCESS_KEY_ID and the like beside it;
                                       or the path of a folder that is mounted on all machines
       EMBED_MILVUS_URI=http://...     a server: so does Milvus Lite
{milvus}       EMBED_DAGSTER_HOME=...          a folder with the dagster.yaml above
       DAGSTER_POSTGRES_URL=postgresql+psycopg2://user:password@host:5432/dagster
   and the same other EMBED_* settings everywhere.
2. On one machine:           ray start --head --num-cpus=0 --dashboard-host=127.0.0.1
   Anybody who reaches Ray's ports may run programs: keep them in a network of your own.
3. On each machine for runs: ray start --address=HEAD:6379
4. Once:                     export DAGSTER_HOME=$EMBED_DAGSTER_HOME
                             dagster instance concurrency set gpu {runs}
                             dagster instance concurrency set milvus {writers}
5. On each machine:          embed-assets download
                             embed-assets doctor
6. On the UI's machine:      embed-assets up
docs/ray.md has each step in detail.
"""


def cluster_config(address: str, runs: int, gpus: int, cpus: int) -> str:
    """The text of dagster.yaml; `runs`: how many at once, each with these GPUs or processors."""
    text = (resources.files("embed_assets") / "cluster.yaml").read_text()
    resource, amount = ("num_gpus", gpus) if gpus else ("num_cpus", cpus)
    return (
        text.replace("RESOURCE: AMOUNT", f"{resource}: {amount}")
        .replace("RUNS", str(runs))
        .replace("ADDRESS", json.dumps(address))
    )


def steps(runs: int, tracks: int = 0) -> str:
    """What to start where, in order; `tracks`: adds the settings of Milvus for this number."""
    settings = suggested(tracks).settings() if tracks else {}
    milvus = "".join(f"       {name}={value}\n" for name, value in settings.items())
    return STEPS.format(runs=runs, writers=SERVER_WRITERS, milvus=milvus)
