"""The project as Dagster loads it."""

import json
import subprocess
import sys

import dagster as dg
import pytest

from embed_assets.definitions import build_defs
from embed_assets.errors import ConfigurationError
from embed_assets.settings import Settings

HEAVY = ("torch", "muq", "transformers", "librosa", "pymilvus", "milvus_lite", "av", "pandas")


def test_loading_the_definitions_imports_nothing_heavy():
    script = "import sys, embed_assets.definitions; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert loaded.isdisjoint(HEAVY), loaded.intersection(HEAVY)


def test_the_assets_have_what_people_and_runs_rely_on():
    defs = build_defs(Settings(_env_file=None, folders_per_run=7))
    graph = defs.resolve_asset_graph()
    names = ["track_manifest", "audio_embeddings", "milvus_index"]
    assert [graph.get(dg.AssetKey(n)).partitions_def.name for n in names] == ["music_folders"] * 3
    for name in names:
        node = graph.get(dg.AssetKey(name))
        assert len(node.description) > 80
        assert node.group_name == "music"
        assert "python" in node.kinds
        assert node.metadata["dagster/column_schema"].columns
        assert node.backfill_policy.max_partitions_per_run == 7
        policy = node.assets_def.op.retry_policy
        assert (policy.max_retries, policy.delay) == (3, 2)
        assert policy.backoff is dg.Backoff.EXPONENTIAL
        assert policy.jitter is dg.Jitter.PLUS_MINUS
    assert graph.get(dg.AssetKey("milvus_index")).parent_keys == {dg.AssetKey("audio_embeddings")}
    assert graph.get(dg.AssetKey("audio_embeddings")).parent_keys == {dg.AssetKey("track_manifest")}
    pools = [graph.get(dg.AssetKey(n)).assets_def.op.pool for n in names]
    assert pools == [None, "gpu", "milvus"]
    assert defs.resolve_sensor_def("library_sensor").minimum_interval_seconds == 5


def test_runs_that_embed_have_the_tags_of_the_settings(monkeypatch):
    asked = {"container_config": {"resources": {"limits": {"nvidia.com/gpu": "1"}}}}
    tags = {"dagster-k8s/config": asked, "team": "music"}
    monkeypatch.setenv("EMBED_RUN_TAGS", json.dumps(tags))
    defs = build_defs(Settings.load())
    for name in ("bring_in_step", "canary"):
        found = defs.resolve_job_def(name).tags
        assert json.loads(found["dagster-k8s/config"]) == asked
        assert found["team"] == "music"
    assert "team" not in defs.resolve_job_def("reconcile").tags
    assert defs.resolve_sensor_def("library_sensor").job_name == "bring_in_step"
    for wrong in ('{"team": ', '["team"]', "[" * 100_000, '{"dagster/partition": "x"}', '{"": 1}'):
        monkeypatch.setenv("EMBED_RUN_TAGS", wrong)
        with pytest.raises(ConfigurationError, match=r"EMBED_RUN_TAGS.*(JSON|leave it out)"):
            Settings.load()


def test_a_token_is_in_nothing_that_the_webserver_is_sent(monkeypatch):
    monkeypatch.setenv("EMBED_MILVUS_TOKEN", "root:secret-of-mine")
    monkeypatch.setenv("EMBED_TABLES", "postgresql://me@host/music")
    monkeypatch.setenv("EMBED_TABLES_PASSWORD", "secret-of-mine-too")
    settings = Settings.load()
    defs = build_defs(settings)
    snapshot = dg.serialize_value(
        __import__(
            "dagster._core.remote_representation.external_data", fromlist=["x"]
        ).RepositorySnap.from_def(defs.get_repository_def())
    )
    assert "EMBED_MILVUS_TOKEN" in snapshot
    assert "EMBED_TABLES_PASSWORD" in snapshot
    assert "secret-of-mine" not in snapshot
    assert "secret-of-mine" not in repr(settings)


def test_a_wrong_setting_is_named_with_what_is_wrong(monkeypatch):
    monkeypatch.setenv("EMBED_WINDOWS", "many")
    monkeypatch.setenv("EMBED_POOLING", "max")
    with pytest.raises(ConfigurationError, match=r"EMBED_WINDOWS='many'.*EMBED_POOLING='max'"):
        Settings.load()


def test_settings_come_from_a_dotenv_file_and_the_environment_goes_first(monkeypatch, tmp_path):
    (tmp_path / ".env").write_text("EMBED_LIBRARY=/music\nEMBED_ENCODER=acoustic\n")
    monkeypatch.setenv("EMBED_ENCODER", "muq")
    settings = Settings.load()
    assert str(settings.library) == "/music"
    assert settings.encoder == "muq"
    assert settings.index_uri == str(settings.home / "milvus.db")
