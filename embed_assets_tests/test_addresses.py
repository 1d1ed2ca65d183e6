"""Where the index lies, as people write it: one meaning each, or a sentence on what to write."""

import subprocess
import sys

import pytest

from embed_assets.errors import ConfigurationError, TransientError
from embed_assets.identity import IndexSpec, Recipe
from embed_assets.index.address import normal_address
from embed_assets.index.connection import connect
from embed_assets.settings import Settings
from embed_assets_tests.searcher import ROOT

SPEC = IndexSpec(Recipe("acoustic", "w", 24000, 8, 10.0, 3))


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("HTTP://Host:19530/", "http://host:19530"),
        ("https://in01.api.zillizcloud.com", "https://in01.api.zillizcloud.com"),
        ("http://[::1]:19530", "http://[::1]:19530"),
        ("http://host:19530/music", "http://host:19530/music"),
    ],
)
def test_a_server_has_one_address_however_it_is_written(written, meant):
    assert normal_address(written) == meant
    assert Settings(milvus_uri=written, _env_file=None).index_uri == meant
    assert SPEC.collection_key(meant) == SPEC.collection_key(normal_address(written))


def test_a_lite_folder_is_absolute_and_a_database_is_part_of_the_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert normal_address("a/b.db") == str(tmp_path / "a/b.db")
    made = Settings(milvus_uri="http://host:19530", milvus_database="music", _env_file=None)
    assert made.index_uri == "http://host:19530/music"
    assert made.index_uri == normal_address("http://host:19530/music", "music")


@pytest.mark.parametrize(
    ("uri", "database", "told"),
    [
        ("http://[::1", "", r"is not a web address.*write http://host:port"),
        ("http://host:port", "", "is not a web address"),
        ("http://", "", "names no host"),
        ("http://host/x.db", "", r"'x\.db' is not a name of a database.*EMBED_MILVUS_DATABASE"),
        ("http://host/a/b", "", "is not a name of a database"),
        ("http://host?secure=1", "", "more than host, port and database"),
        ("https://root:Milvus@host:19530", "", "EMBED_MILVUS_TOKEN"),
        ("ftp://host/milvus.db", "", r"must be a path that ends in \.db"),
        ("milvus", "", r"must be a path that ends in \.db"),
        ("http://host/one", "two", "names database 'one'"),
        ("milvus.db", "music", "only one database"),
        ("", "music", "only one database"),
    ],
)
def test_an_address_that_cannot_work_says_what_to_write(uri, database, told, monkeypatch):
    monkeypatch.setenv("EMBED_MILVUS_URI", uri)
    monkeypatch.setenv("EMBED_MILVUS_DATABASE", database)
    with pytest.raises(ConfigurationError, match=rf"EMBED_MILVUS_(URI|DATABASE)=.*{told}"):
        Settings.load()
    if not database:
        with pytest.raises(ConfigurationError, match=rf"EMBED_MILVUS_URI=.*{told}"), connect(uri):
            pass


def test_a_database_that_is_not_there_is_named(milvus_server):
    told = r"no_such_one.*EMBED_MILVUS_DATABASE"
    with (
        pytest.raises(ConfigurationError, match=told),
        connect(f"{milvus_server}/no_such_one") as client,
    ):
        client.list_collections()


def test_https_needs_a_server_that_speaks_it_and_its_certificate(milvus_server, tmp_path):
    from embed_assets_tests.tls import tls_in_front_of

    with tls_in_front_of(milvus_server, tmp_path) as (address, certificate):
        with pytest.raises(TransientError, match=r"https://localhost"), connect(address):
            pass
        script = (
            "import sys; from embed_assets.index.connection import connect\n"
            "with connect(sys.argv[1], 'root:Milvus') as c: print(c.list_collections())"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, address],
            env={"GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(certificate), "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("[")
