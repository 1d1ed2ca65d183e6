"""How a Milvus server holds the collections: what a person sets, and what it costs to change it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import dagster as dg
import numpy as np
import pytest

from embed_assets.defs.dagster_compat.pools import pool_limit, set_pool_limit
from embed_assets.defs.host_check import run_settings
from embed_assets.defs.state import fit_pools
from embed_assets.errors import ConfigurationError
from embed_assets.identity import folder_id
from embed_assets.index import reconcile as reconciling
from embed_assets.index.backend import backend_of
from embed_assets.index.collection import count, ensure, served
from embed_assets.index.connection import connect
from embed_assets.index.gates import validate
from embed_assets.index.nearest import similar, vectors_of
from embed_assets.index.options import (
    AUTO,
    INDEX_TYPES,
    VECTOR_TYPES,
    IndexOptions,
    search_params,
    suggested,
)
from embed_assets.index.reconcile import compare, reconcile
from embed_assets.index.tuning import apply_options, held
from embed_assets.search.stored_scores import are_exact, scored_again
from embed_assets.settings import Settings
from embed_assets.storage import collection_registry
from embed_assets_tests.made_library import MEAN, OTHER, shelf_of
from embed_assets_tests.patience import PATIENCE
from embed_assets_tests.postgres import tables_at

SERVER = "http://127.0.0.1:19530"
ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("milvus_index", "IVF_SQ8"),
        ("milvus_vector_type", "float16"),
        ("milvus_shards", 2),
        ("milvus_replicas", 2),
        ("milvus_mmap", True),
    ],
)
def test_lite_refuses_what_only_a_server_can_do(name, value):
    with pytest.raises(ConfigurationError, match=rf"EMBED_{name.upper()}.*EMBED_MILVUS_URI"):
        Settings.load(**{name: value})
    assert getattr(Settings.load(milvus_uri=SERVER, **{name: value}), name) == value


def test_the_settings_take_what_is_in_the_tables_of_types():
    values = {n: get_args(Settings.model_fields[n].annotation) for n in Settings.model_fields}
    assert set(values["milvus_index"]) == {AUTO, *INDEX_TYPES}
    assert set(values["milvus_vector_type"]) == set(VECTOR_TYPES)


def test_only_what_a_server_cannot_change_later_needs_another_collection():
    names = {
        one.collection
        for one in (
            MEAN,
            replace(MEAN, vector_type="float16"),
            replace(MEAN, vector_type="bfloat16"),
            replace(MEAN, shards=4),
        )
    }
    assert len(names) == 4
    assert MEAN.collection == "tracks_acoustic_" + MEAN.digest[:12]
    assert replace(MEAN, vector_type="float32", shards=1).digest == MEAN.digest
    # As earlier versions wrote it.
    assert not {"vector_type", "shards"} & json.loads(MEAN.dump()).keys()
    for spec in (MEAN, replace(MEAN, vector_type="float16", shards=2)):
        assert type(MEAN).load(spec.dump()) == spec


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16"])
def test_vectors_come_back_as_their_type_rounds_them(name):
    kind = VECTOR_TYPES[name]
    vectors = np.random.default_rng(1).standard_normal((50, 512)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    there = np.stack([kind.rounded(v) for v in vectors])
    assert there.dtype == np.float32
    assert np.abs(there @ vectors.T - vectors @ vectors.T).max() < kind.tolerance
    assert np.array_equal(np.stack([kind.rounded(v) for v in there]), there), "rounded once"
    stored = kind.encode(vectors[0])
    raw = stored if isinstance(stored, bytes) else stored.tobytes()
    if name != "float32":
        assert len(raw) == 2 * 512
        # As pymilvus returns them, by query and by get.
        assert np.array_equal(kind.decode(raw), there[0])
        assert np.array_equal(kind.decode([raw]), there[0])
    halfway = np.array([1 + 2**-8, 1 + 3 * 2**-8, -2.5], np.float32)
    if name == "bfloat16":
        assert kind.rounded(halfway).tolist() == [1.0, 1 + 2 * 2**-7, -2.5], "ties to even"


def test_search_parameters_are_within_what_each_index_takes():
    for limit in (1, 17, 100, 16_384):
        params = search_params(limit)["params"]
        assert params["ef"] >= limit
        assert limit <= params["search_list"] <= max(200, 10 * limit)
        assert 1 <= params["nprobe"] <= 1024


def test_the_documented_memory_is_what_is_computed():
    text = (ROOT / "docs/milvus.md").read_text()
    for rows, words in ((10**5, "100,000"), (10**6, "1 million"), (10**7, "10 million")):
        plan = suggested(rows)
        row = next(line for line in text.splitlines() if line.startswith(f"| {words} "))
        for dim in (512, 1024):
            assert f"{plan.memory(dim) / 1e9:.1f} GB" in row
        assert plan.vector_type in row
    assert f"{suggested(10**8).memory(512) / 1e9:.0f} GB" in text


def test_hosts_that_would_hold_a_collection_otherwise_differ(tmp_path):
    index = shelf_of(tmp_path, SERVER, 0).context(MEAN)
    same = replace(index, options=IndexOptions())
    other = replace(index, options=IndexOptions("IVF_SQ8"))
    assert run_settings(same) != run_settings(other)
    assert run_settings(same) != run_settings(replace(same, spec=replace(MEAN, shards=2)))


def test_on_a_server_several_index_steps_run_at_once_unless_a_person_says_otherwise(tmp_path):
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        fit_pools(instance, 1, backend_of(str(tmp_path / "milvus.db")))
        assert pool_limit(instance, "milvus") in (None, 1)
        fit_pools(instance, 1, backend_of(SERVER))
        assert pool_limit(instance, "milvus") == 4
        fit_pools(instance, 1, backend_of(str(tmp_path / "milvus.db")))
        assert pool_limit(instance, "milvus") == 1, "back on Lite"
        set_pool_limit(instance, "milvus", 2)
        fit_pools(instance, 1, backend_of(SERVER))
        assert pool_limit(instance, "milvus") == 2


def test_a_folder_that_is_indexed_while_the_index_is_compared_does_not_differ(lite, tmp_path):
    shelf = shelf_of(tmp_path, lite, 3, MEAN)
    really = reconciling.rows_by_folder
    with connect(lite) as client:
        shelf.index(client, MEAN)

        def read_whole(client, name, *args):
            yield from really(client, name, *args)
            if not args:
                # Another process, after all rows were read and before the tables are.
                shelf.retag(b"Artist/Album 01", "live")
                shelf.put(b"Artist/New", MEAN)
                shelf.index(client, MEAN, [b"Artist/Album 01", b"Artist/New"])

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(reconciling, "rows_by_folder", read_whole)
            diff = compare(client, MEAN, shelf.tables, lite)
        assert diff.none
        gone = folder_id(shelf.library.name, b"Artist/Album 02")
        client.delete(MEAN.collection, filter=f'folder_id == "{gone}"')
        assert compare(client, MEAN, shelf.tables, lite).differing == (b"Artist/Album 02",)


LOCKED = """
import sys
from pathlib import Path
from embed_assets.project import tables_in
from embed_assets.storage.postgres_address import PostgresAddress
home, address = sys.argv[1:]
tables = tables_in(Path(home), PostgresAddress(address, "", None) if address else None)
with tables.database.lock("alias"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_of_the_tables_is_free_once_its_holder_is_killed(each_database, tmp_path):
    tables = tables_at(tmp_path / "tables.sqlite")
    address = "" if each_database == "sqlite" else tables.database.address.url
    with (
        subprocess.Popen(
            [sys.executable, "-c", LOCKED, str(tmp_path), address],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as other,
    ):
        assert other.stdout.readline() == b"held\n"
        waiting = subprocess.Popen(
            [sys.executable, "-c", LOCKED, str(tmp_path), address],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(1.0)
        other.kill()
        assert waiting.communicate(timeout=PATIENCE)[0] == b"held\n"
    with tables.database.lock("alias"):
        pass


@pytest.fixture
def on_server(milvus_server, tmp_path):
    """A shelf of 20 albums at an empty database of a server; not indexed."""
    from embed_assets_tests.milvus_server import database

    with database(milvus_server) as address:
        yield shelf_of(tmp_path, address, 20, MEAN, OTHER)


WRITER = """
import sys
from pathlib import Path
from embed_assets.index.connection import connect
from embed_assets_tests.made_library import MEAN, OTHER, Shelf
root, address, spec, *albums = sys.argv[1:]
shelf, spec = Shelf(Path(root), address), {"MEAN": MEAN, "OTHER": OTHER}[spec]
with connect(address) as client:
    print("go", flush=True)
    sys.stdin.readline()
    status = shelf.index(client, spec, [a.encode() for a in albums])
print(status.served, status.moved, status.why)
"""


def write_at_once(shelf, spec, processes):
    """Index all albums in several processes that begin at the same moment; their last lines."""
    albums = [path.decode() for path in shelf.albums]
    where = str(shelf.root), shelf.address, spec
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, *where, *albums[i::processes]],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(processes)
    ]
    for writer in writers:
        assert writer.stdout.readline() == "go\n"
    for writer in writers:
        writer.stdin.write("\n")
        writer.stdin.flush()
    lines = [writer.communicate(timeout=PATIENCE)[0].strip() for writer in writers]
    assert [writer.returncode for writer in writers] == [0] * processes
    return lines


def test_writers_at_once_create_a_servers_collection_and_move_the_alias_once(on_server):
    lines = write_at_once(on_server, "MEAN", 4)
    assert all(line.startswith(MEAN.collection) for line in lines)
    assert sum("True" in line for line in lines) == 1, "one of them was the first"
    tables, uri = on_server.tables, on_server.address
    lines = write_at_once(on_server, "OTHER", 4)
    moves = [(m.name, m.reason) for m in collection_registry.moves(tables, uri)]
    assert moves == [(MEAN.collection, "first"), (OTHER.collection, "gates")], lines
    with connect(uri) as client:
        assert served(client) == OTHER.collection
        for spec in (MEAN, OTHER):
            assert count(client, spec.collection) == 60
            assert compare(client, spec, tables, uri).none


def test_a_servers_index_is_replaced_without_writing_a_row_and_scores_stay_exact(on_server):
    shelf = on_server
    hnsw, flat, sq8 = (
        replace(shelf.context(MEAN), options=IndexOptions(name))
        for name in ("HNSW", "FLAT", "IVF_SQ8")
    )
    with connect(shelf.address) as client:
        shelf.index(client, MEAN)
        assert apply_options(client, hnsw) == [], "a new collection has it"
        for index in (flat, sq8):
            assert apply_options(client, index) == [MEAN.collection]
            assert held(client, MEAN.collection).index == index.options.index
            assert apply_options(client, index) == []
            assert compare(client, MEAN, shelf.tables, shelf.address).none
            assert validate(client, index, None).passed
        assert not are_exact(client, MEAN.collection, MEAN)
        own = shelf.albums[b"Artist/Album 00"][0]
        vector = vectors_of(client, [own.track_id], MEAN.collection)[own.track_id]
        matches = similar(client, vector, 20, [own.track_id], MEAN.collection)
        again = scored_again(_Project(shelf), MEAN, vector, matches)
        apply_options(client, flat)
        exact = similar(client, vector, 20, [own.track_id], MEAN.collection)
        assert [m.path for m in again] == [m.path for m in exact]
        assert [m.score for m in again] == pytest.approx([m.score for m in exact], abs=2e-6)


class _Project:
    def __init__(self, shelf):
        self.tables, self.store = shelf.tables, shelf.store


def test_what_a_server_refuses_is_named_and_the_collection_is_served_as_before(on_server):
    shelf = on_server
    with connect(shelf.address) as client:
        shelf.index(client, MEAN)
        # A standalone server has one query node.
        index = replace(shelf.context(MEAN), options=IndexOptions(replicas=2))
        with pytest.raises(ConfigurationError, match=r"Milvus .*EMBED_MILVUS_REPLICAS=2"):
            apply_options(client, index)
        assert held(client, MEAN.collection).replicas == 1
        assert validate(client, shelf.context(MEAN), None).passed
    options = IndexOptions()
    with connect(shelf.address, options=options) as client:
        with pytest.raises(ConfigurationError, match=r"EMBED_MILVUS_SHARDS=999.*999|limited"):
            ensure(client, replace(MEAN, shards=999))
        ensure(client, replace(MEAN, shards=2))
        name = replace(MEAN, shards=2).collection
        assert client.describe_collection(name)["num_shards"] == 2


def test_a_server_that_is_too_old_for_a_setting_is_named_with_its_version(on_server):
    with connect(on_server.address) as client:
        version = client.get_server_version()
        if not version.startswith("v2.3"):
            pytest.skip(f"the server has what is asked for: {version}")
        half = replace(MEAN, vector_type="float16")
        with pytest.raises(ConfigurationError, match=r"float16 needs Milvus 2\.4.*2\.3"):
            ensure(client, half)
        assert not client.has_collection(half.collection)
    for options, said in ((IndexOptions(mmap=True), "MMAP"), (IndexOptions("IVF_RABITQ"), "INDEX")):
        with (
            connect(on_server.address, options=options) as client,
            pytest.raises(ConfigurationError, match=rf"EMBED_MILVUS_{said}=.*needs Milvus"),
        ):
            ensure(client, MEAN)


def test_vectors_of_half_the_size_are_written_read_and_compared_on_a_server(on_server):
    """Milvus 2.4 or newer; never run so far."""
    shelf = on_server
    half = replace(MEAN, vector_type="float16")
    with connect(shelf.address) as client:
        if client.get_server_version().startswith("v2.3"):
            pytest.skip("Milvus 2.4 has vectors of 16 bits")
        status = shelf.index(client, half)
        assert status.served == half.collection
        assert validate(client, shelf.context(half), None).passed
        assert reconcile(client, shelf.context(half))[half.collection].none


@pytest.mark.parametrize("address", ["htp://host", "~nobody-of-that-name/index.db"])
def test_of_a_wrong_address_only_the_address_is_blamed(address: str) -> None:
    with pytest.raises(ConfigurationError, match="EMBED_MILVUS_URI=") as caught:
        Settings.load(milvus_uri=address, milvus_replicas=2)
    assert "REPLICAS" not in str(caught.value)
