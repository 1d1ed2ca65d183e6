"""What a person may ask of a run in the launchpad."""

import dagster as dg
import pytest

from embed_assets.definitions import build_defs
from embed_assets.defs.partitions import MUSIC_FOLDERS
from embed_assets_tests.synth import write_track


@pytest.fixture
def launch(world):
    """Run the job on a folder, in this process, with a launchpad's config."""
    defs = build_defs(world.made_settings())
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(MUSIC_FOLDERS.name, ["Album"])

        def run(config):
            job = defs.resolve_job_def("bring_in_step")
            ops = {name: {"config": values} for name, values in config.items()}
            done = job.execute_in_process(
                partition_key="Album", run_config={"ops": ops}, instance=instance
            )
            return {
                m.asset_key.path[-1]: {k: v.value for k, v in m.metadata.items()}
                for m in (e.materialization for e in done.get_asset_materialization_events())
            }

        yield run


def test_vectors_are_made_again_only_if_a_person_asks_for_it(world, launch):
    world.album("Album", 1, 2)
    assert launch({})["audio_embeddings"]["embedded"] == 2
    assert launch({})["audio_embeddings"]["embedded"] == 0
    again = launch({"audio_embeddings": {"embed_again": True}})["audio_embeddings"]
    assert (again["embedded"], again["reused"]) == (2, 0)


def test_rejected_files_are_tried_again_only_if_a_person_asks_for_it(world, launch):
    world.album("Album", 1)
    (world.library / "Album/empty.mp3").touch()
    write_track(world.library / "Album/blip.wav", seconds=0.3)
    first = launch({})
    assert first["track_manifest"]["read"] == 3
    assert first["audio_embeddings"]["rejected"] == 2
    assert launch({})["track_manifest"]["read"] == 0
    seen = world.embedded_runs()
    again = launch(
        {"track_manifest": {"retry_rejected": True}, "audio_embeddings": {"retry_rejected": True}}
    )
    assert again["track_manifest"]["read"] == 1
    assert again["audio_embeddings"]["rejected"] == 2
    changed = {h for h, run in world.embedded_runs().items() if run != seen[h]}
    assert len(changed) == 1
