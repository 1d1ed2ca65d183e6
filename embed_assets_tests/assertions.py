"""What a world is judged by: the sound that each file has, what was rejected, what still runs."""

from __future__ import annotations

import json
import os
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import dagster as dg
import numpy as np
import psutil

from embed_assets.defs.dagster_compat.runs import VERSION_TAG
from embed_assets.defs.state import INDEX_KEY
from embed_assets.identity import display_path
from embed_assets_tests.synth import write_track

if TYPE_CHECKING:
    from embed_assets_tests.live_project import LiveProject

SECONDS = 3.0
"""Length of a synthesised track: long enough to be told apart, quick to embed."""

SOUNDS = 60
SUFFIXES = (".ogg", ".flac", ".mp3")
"""The audio that the stress draws from: every seed below `SOUNDS` in each container."""


def reference(seed: int, suffix: str | bytes) -> np.ndarray:
    """The vector that a synthesised track should have: made here, apart from all runs."""
    return sound(seed, os.fsdecode(suffix))[1]


@lru_cache(maxsize=4096)
def sound(seed: int, suffix: str) -> tuple[str, np.ndarray]:
    """Audio hash and vector of a synthesised track."""
    import tempfile

    from embed_assets.audio.decode import read_windows
    from embed_assets.audio.windows import WindowPolicy
    from embed_assets.encoders.acoustic import encoder as acoustic
    from embed_assets.library.probe import probe
    from embed_assets.storage.pooling import pool

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, f"x{suffix}")
        write_track(path, seconds=SECONDS, seed=seed)
        raw = os.fsencode(path)
        found = probe(raw)
        encoder = acoustic.load()
        read = read_windows(raw, found.duration, WindowPolicy(10.0, 3), encoder.info.sample_rate)
        return found.audio_hash, pool(encoder.encode(np.stack(read.windows)), "mean")


def by_role(world: LiveProject) -> dict[str, list[psutil.Process]]:
    """The processes of this home by what they do; `orphan`: its parent is gone."""
    names: dict[int, str] = {}
    found: dict[str, list[psutil.Process]] = {}
    processes = {p.pid: p for p in world.processes()}
    for pid in sorted(processes, key=lambda i: _started(processes[i])):
        try:
            line = " ".join(processes[pid].cmdline())
            names[pid] = _role(line, names.get(processes[pid].ppid(), ""))
        except psutil.Error:
            continue
        found.setdefault(names[pid], []).append(processes[pid])
    return found


def assert_rejected_are_bad(world: LiveProject) -> None:
    """What `errors` lists: exactly the bad files, and no failed folder."""
    listed = world.run("errors", "--json")
    assert listed.returncode == 0, listed.stderr
    rows = json.loads(listed.stdout)
    assert sorted(r["path"] for r in rows) == sorted(map(display_path, world.bad)), rows


def assert_store_is_true(world: LiveProject) -> None:
    """Each entry of the store holds the vectors of the audio whose hash it bears."""
    from embed_assets.storage.pooling import pool

    store = world.project().store
    known = dict(sound(seed, suffix) for seed, suffix in world.sounds)
    for recipe in store.recipes():
        for audio_hash in [entry.audio_hash for entry in store.entries(recipe)]:
            assert audio_hash in known, f"vectors of audio that never was: {audio_hash}"
            cosine = float(pool(store.read(recipe, audio_hash), "mean") @ known[audio_hash])
            assert cosine > 0.9999, f"{audio_hash}: the vector of another audio ({cosine:.4f})"


def slots_held(world: LiveProject) -> dict[str, Any]:
    """What holds a place in a pool or in the run queue, by pool."""
    from embed_assets.defs import state
    from embed_assets.defs.execution import GPU_POOL, MILVUS_POOL

    with world.instance() as instance:
        held = {"runs": [r.run_id for r in state.live_runs(instance)]}
        for name in (GPU_POOL, MILVUS_POOL):
            info = instance.event_log_storage.get_concurrency_info(name)
            held[name] = [*info.claimed_slots, *info.pending_steps]
    return {k: v for k, v in held.items() if v}


def _started(process: psutil.Process) -> float:
    try:
        return process.create_time()
    except psutil.Error:
        return 0.0


def _role(line: str, parent: str) -> str:
    for words, role in (
        ("embed_assets.cli up", "up"),
        ("embed_assets.cli sync", "sync"),
        ("dagster dev", "dev"),
        ("dagster_webserver", "webserver"),
        ("dagster._daemon", "daemon"),
        ("dagster code-server", "code server"),
        ("dagster api grpc", "code server"),
    ):
        if words in line:
            return role
    if "resource_tracker" in line:
        return "tracker"
    if "multiprocessing.spawn" in line:
        return "run worker"
    if "multiprocessing.forkserver" in line:
        # Forks bear their server's command line; their place in the tree tells them apart.
        if "dagster._core" in line:
            places = {
                "sync": "run forkserver",
                "run forkserver": "run worker",
                "run worker": "forkserver",
                "forkserver": "step",
            }
        else:
            places = {
                "run worker": "pool forkserver",
                "step": "pool forkserver",
                "pool forkserver": "pool worker",
            }
        return places.get(parent, "orphan")
    return "other"


def versions_in_dagster(instance: dg.DagsterInstance) -> dict[str, str]:
    """Data version of the last `milvus_index` materialization of each folder."""
    tags = instance.event_log_storage.get_latest_tags_by_partition(
        INDEX_KEY, dg.DagsterEventType.ASSET_MATERIALIZATION, [VERSION_TAG]
    )
    return {key: values[VERSION_TAG] for key, values in tags.items() if VERSION_TAG in values}
