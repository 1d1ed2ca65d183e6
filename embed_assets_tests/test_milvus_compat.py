"""What Milvus does not offer and we use: where a test fails, another version does it otherwise.

That Lite builds deleted index files again and creates a half-created collection anew is tested in
test_index_on_lite.py, and what a server says of a missing database in test_addresses.py.
"""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from pymilvus import MilvusClient
from pymilvus.exceptions import MilvusException

from embed_assets.index import milvus_compat
from embed_assets.index.connection import connect
from embed_assets.index.milvus_compat import Fault, fault_of, lite_alias, lite_files, lite_has
from embed_assets_tests.indexing import DIM, SPEC, album, write

NAME = SPEC.collection


def test_the_pinned_versions_are_those_that_this_was_written_for():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    pins = [pin.replace("==", ">=").partition(",")[0] for pin in project["dependencies"]]
    for package, written_for in milvus_compat.WRITTEN_FOR.items():
        assert f"{package}>={written_for}" in pins


def test_what_a_lite_index_holds_is_read_from_its_files(lite):
    folder = Path(lite)
    assert not lite_has(folder, NAME)
    write(lite, [album("a", 3)])
    assert lite_has(folder, NAME)
    assert lite_alias(folder, "tracks") is None
    seen = [lite_files(folder, NAME)]
    with connect(lite) as client:
        client.create_alias(NAME, "tracks")
    seen.append(lite_files(folder, NAME))
    assert lite_alias(folder, "tracks") == NAME
    with connect(lite) as client:
        client.list_collections()
    assert lite_files(folder, NAME) == seen[-1], "a look changes nothing"
    write(lite, [album("b", 1)])
    seen.append(lite_files(folder, NAME))
    assert seen[0] != seen[1] != seen[2]
    (folder / "aliases.json").write_text("[")
    assert lite_alias(folder, "tracks") is None


def test_a_lite_collection_has_index_files_and_a_schema(lite):
    write(lite, [album("a", 300)])
    folder = Path(lite)
    milvus_compat.delete_half_created(folder, NAME)
    assert lite_has(folder, NAME), "it has a schema"
    assert milvus_compat.delete_lite_indexes(folder, NAME)
    assert not milvus_compat.delete_lite_indexes(folder, NAME)
    shutil.rmtree(folder)
    (folder / "collections" / NAME).mkdir(parents=True)
    milvus_compat.delete_half_created(folder, NAME)
    assert not lite_has(folder, NAME)


HELD = """
import sys
from pathlib import Path
from embed_assets.index.milvus_compat import is_held
print(is_held(Path(sys.argv[1])))
"""


def held_for_others(folder):
    command = [sys.executable, "-c", HELD, str(folder)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout == "True\n"


def test_a_lite_index_is_held_until_it_is_released_and_the_same_client_opens_it_again(tmp_path):
    folder = tmp_path / "milvus.db"
    client = MilvusClient.__new__(MilvusClient)
    for _ in range(2):
        assert not held_for_others(folder)
        client.__init__(str(folder))
        assert client.list_collections() == []
        client.close()
        assert held_for_others(folder), "closing is enough now: see whether `release` can go"
        milvus_compat.release(folder)
    assert not milvus_compat.is_held(folder)


def test_an_error_is_raised_and_not_printed_as_well(lite, capfd):
    with connect(lite) as client, pytest.raises(MilvusException) as raised:
        client.search("nothing of that name", data=[[0.0] * DIM])
    assert "nothing of that name" in milvus_compat.message_of(raised.value)
    assert capfd.readouterr() == ("", "")


def test_what_can_never_be_done_is_told_from_what_may_pass(lite):
    write(lite, [album("a", 1)])
    with connect(lite) as client, pytest.raises(MilvusException) as wrong:
        client.upsert(NAME, [{"track_id": "a row without the other fields"}])
    assert fault_of(wrong.value) is Fault.BAD_REQUEST
    with pytest.raises(MilvusException) as away:
        MilvusClient("http://127.0.0.1:1", timeout=1)
    assert fault_of(away.value) is Fault.OTHER
    with pytest.raises(MilvusException) as address:
        MilvusClient("ftp://127.0.0.1:1", timeout=1)
    assert fault_of(address.value) is Fault.BAD_ADDRESS


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("auth check failure, please check username and password are correct", Fault.DENIED),
        ("UNAUTHENTICATED: illegal token", Fault.DENIED),
        ("privilege: permission deny to `Insert`", Fault.DENIED),
        ("database not found[database=music]", Fault.NO_DATABASE),
        ("[Errno 28] No space left on device: '/data'", Fault.DISK_FULL),
        ("node offline", Fault.OTHER),
    ],
)
def test_what_servers_say_in_words_is_understood(said, meant):
    assert fault_of(MilvusException(message=said)) is meant
