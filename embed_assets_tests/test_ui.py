"""What a person does in the Dagster UI, through the GraphQL that it sends."""

import json
import os
import re
import shutil

LOCATION = {
    "repositoryLocationName": "embed_assets.definitions",
    "repositoryName": "__repository__",
}
ASSETS = [{"path": [n]} for n in ("track_manifest", "audio_embeddings", "milvus_index")]
CHECKS = [
    {"assetKey": {"path": ["audio_embeddings"]}, "name": "every_track_readable"},
    {"assetKey": {"path": ["milvus_index"]}, "name": "index_in_step"},
]

LAUNCH = """
mutation LaunchPipelineExecution($executionParams: ExecutionParams!) {
  launchPipelineExecution(executionParams: $executionParams) {
    __typename
    ... on LaunchRunSuccess { run { id } }
    ... on PythonError { message stack }
  }
}"""

BACKFILL = """
mutation LaunchPartitionBackfill($backfillParams: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $backfillParams) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on PythonError { message stack }
  }
}"""

BACKFILL_STATUS = """
query Backfill($id: String!) {
  partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status } }
}"""

RUN_STATUS = "query Run($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"

HEALTH = """
query Health($key: AssetKeyInput!) {
  assetNodeOrError(assetKey: $key) {
    ... on AssetNode {
      assetPartitionStatuses {
        ... on DefaultPartitionStatuses {
          materializedPartitions failedPartitions unmaterializedPartitions
        }
      }
      assetMaterializations(limit: 100) {
        partition
        metadataEntries { label __typename ... on IntMetadataEntry { intValue } }
      }
      assetChecksOrError {
        ... on AssetChecks {
          checks {
            name
            executionForLatestMaterialization { status evaluation { severity success } }
          }
        }
      }
    }
  }
}"""


def materialize(world, folder, selection=ASSETS, config="{}"):
    """The "Materialize" button on one partition."""
    answer = world.graphql(
        LAUNCH,
        executionParams={
            "selector": {
                **LOCATION,
                "pipelineName": "__ASSET_JOB",
                "assetSelection": selection,
                "assetCheckSelection": CHECKS,
            },
            "mode": "default",
            "runConfigData": config,
            "executionMetadata": {"tags": [{"key": "dagster/partition", "value": folder}]},
        },
    )["launchPipelineExecution"]
    assert answer["__typename"] == "LaunchRunSuccess", answer
    return answer["run"]["id"]


def backfill(world, folders, selection=ASSETS):
    """The dialog for several partitions; "failed and missing only" sends those names."""
    answer = world.graphql(
        BACKFILL,
        backfillParams={"assetSelection": selection, "partitionNames": folders, "tags": []},
    )["launchPartitionBackfill"]
    assert answer["__typename"] == "LaunchBackfillSuccess", answer
    return answer["backfillId"]


def ended(world, backfill_id):
    status = world.graphql(BACKFILL_STATUS, id=backfill_id)["partitionBackfillOrError"]["status"]
    return status if status.startswith("COMPLETED") or status == "FAILED" else ""


def run_ended(world, run_id):
    status = world.graphql(RUN_STATUS, id=run_id)["runOrError"]["status"]
    return status if status in ("SUCCESS", "FAILURE", "CANCELED") else ""


def node(world, asset):
    return world.graphql(HEALTH, key={"path": [asset]})["assetNodeOrError"]


def test_folders_are_materialized_one_by_one_selected_and_failed_only(world):
    world.settings["EMBED_SCAN_SECONDS"] = "3600"
    for i in range(6):
        world.album(f"Album {i}", i)
    (world.library / "Album 5" / "bad.mp3").write_bytes(b"\0" * 100)
    world.sync()
    world.up()
    run = materialize(world, "Album 3")
    world.until(lambda: run_ended(world, run) == "SUCCESS", "the run is green")
    world.assert_index_is_library()

    for i in (0, 2, 4):
        world.put(f"Album {i}/02.ogg", 10 + i)
    shutil.rmtree(world.library / "Album 2")
    picked = backfill(world, ["Album 0", "Album 2", "Album 4"])
    world.until(lambda: ended(world, picked), "the backfill ended")
    health = node(world, "track_manifest")["assetPartitionStatuses"]
    assert health["failedPartitions"] == ["Album 2"]
    rows = world.rows()
    assert {"Album 0/02.ogg", "Album 4/02.ogg", "Album 2/01.ogg"} <= rows.keys()

    os.makedirs(world.library / "Album 2")
    world.put("Album 2/01.ogg", 2)
    world.put("Album 2/02.ogg", 12)
    again = backfill(world, health["failedPartitions"])
    world.until(lambda: ended(world, again) == "COMPLETED_SUCCESS", "the failed one is green")
    assert node(world, "milvus_index")["assetPartitionStatuses"]["failedPartitions"] == []
    world.until(world.in_step, "everything is in step")
    world.assert_index_is_library()

    shown = node(world, "audio_embeddings")
    checks = {
        c["name"]: c["executionForLatestMaterialization"]
        for c in shown["assetChecksOrError"]["checks"]
    }
    assert checks["every_track_readable"]["evaluation"] == {"severity": "WARN", "success": False}
    labels = {e["label"] for e in shown["assetMaterializations"][0]["metadataEntries"]}
    assert {
        "path",
        "tracks",
        "embedded",
        "reused",
        "rejected",
        "audio_seconds",
        "seconds",
        "seconds_decoding",
        "seconds_in_encoder",
        "encoder",
        "device",
    } <= labels
    with world.instance() as instance:
        said = [
            e.user_message for run in instance.get_runs() for e in instance.all_logs(run.run_id)
        ]
    assert any(
        re.fullmatch(r"seconds, summed over the workers: .* decoding, .* in encoder, .*", line)
        for line in said
    )
    five = next(m for m in shown["assetMaterializations"] if m["partition"] == "Album 5")
    kinds = {e["label"]: e["__typename"] for e in five["metadataEntries"]}
    assert kinds["rejects"] == "TableMetadataEntry"


def test_a_backfill_of_an_unmounted_library_removes_nothing(world):
    world.settings["EMBED_SCAN_SECONDS"] = "3600"
    world.album("Here", 1)
    world.album("There", 2)
    world.sync()
    rows = world.rows().keys()
    away = world.root / "away"
    os.rename(world.library, away)
    world.library.mkdir()
    (world.library / "lost+found").mkdir()
    # `up` refuses to start without its library, so the folder that stands for the mount point
    # is not quite empty.
    world.up()
    picked = backfill(world, ["Here", "There"])
    world.until(lambda: ended(world, picked), "the backfill ended")
    assert sorted(node(world, "track_manifest")["assetPartitionStatuses"]["failedPartitions"]) == [
        "Here",
        "There",
    ]
    assert world.rows().keys() == rows
    told = json.loads(world.run("errors", "--json").stdout)
    assert {r["folder"] for r in told} == {"Here", "There"}
    assert all("mount" in r["message"] and r["run_id"] for r in told)
