"""What all tests share: hypothesis without clock and chance, and no settings from outside."""

import os
import shutil
import signal
from multiprocessing import forkserver
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import settings

from embed_assets.encoders import Encoder
from embed_assets_tests import small_muq, tiers
from embed_assets_tests.milvus_server import database, running_server
from embed_assets_tests.object_server import running_objects
from embed_assets_tests.postgres import database_of, running_postgres, tables_on

# What a script runs in the background ignores SIGINT, all processes of the tests would, and Dagster
# treats SIGTERM alike: nothing could be stopped.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples each time: a change is judged by what it changes, not by what chance finds.
settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if tiers.is_fast(item):
            item.add_marker("fast")
    items[:] = tiers.longest_first(items)


@pytest.fixture(scope="session", autouse=True)
def _forkserver():
    """Start it before a test sets EMBED_HOME: the end of that test would kill it with the rest."""
    forkserver.ensure_running()


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch, tmp_path):
    """Tests see neither the machine's EMBED_* variables nor a .env of the working directory."""
    for name in list(os.environ):
        if name.startswith(("EMBED_", "DAGSTER_")) and not name.startswith("EMBED_TEST_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def world(tmp_path):
    """A library and a home of the test's own; nothing of it outlives the test."""
    yield from _world(tmp_path)


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """A world with `up` running, shared by the tests of a module."""
    for made in _world(tmp_path_factory.mktemp("running")):
        made.album("First Artist/First Album", 1, 2, 3)
        made.up()
        made.until(made.in_step, "the first album is indexed")
        yield made


@pytest.fixture(scope="session")
def milvus_server(tmp_path_factory):
    """Address of a real Milvus server; skips where none can be had."""
    with running_server(tmp_path_factory.mktemp("milvus")) as address:
        yield address


@pytest.fixture(scope="session")
def postgres_server():
    """A real PostgreSQL server; skips where none can be had."""
    with running_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def object_server(tmp_path_factory):
    """A server that speaks S3; skips where none can be had."""
    with running_objects(tmp_path_factory.mktemp("objects") / "log") as server:
        yield server


@pytest.fixture
def bucket(object_server, monkeypatch):
    """The name of an empty bucket, which this process may use."""
    for name, value in object_server.environment.items():
        monkeypatch.setenv(name, value)
    return object_server.bucket()


@pytest.fixture
def postgres(postgres_server):
    """Address of an empty PostgreSQL database."""
    with database_of(postgres_server) as address:
        yield address


@pytest.fixture(params=["sqlite", "postgres"])
def each_database(request):
    """Have the tables of a test, `tables_at`, in SQLite, and then in PostgreSQL."""
    server = request.getfixturevalue("postgres_server") if request.param == "postgres" else None
    with tables_on(server):
        yield request.param


@pytest.fixture(params=["lite", "server"])
def uri(request, tmp_path):
    """Address of an empty index: a Lite folder, and then a database of a real server."""
    if request.param == "lite":
        yield str(tmp_path / "home" / "milvus.db")
        return
    with database(request.getfixturevalue("milvus_server")) as address:
        yield address


def _world(root):
    from embed_assets_tests.live_project import LiveProject

    made = LiveProject(root)
    made.library.mkdir()
    yield made
    made.power_loss()


@pytest.fixture
def lite(tmp_path: Path) -> str:
    return str(tmp_path / "home" / "milvus.db")


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a small MuQ, and beside them `cache`: made once, for all workers of xdist."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    folder = root / "small_muq" / "small"
    with FileLock(root / "small_muq.lock"):
        if not folder.exists():
            small_muq.save(folder.with_name("making")).rename(folder)
    return folder


@pytest.fixture(scope="session")
def small_mulan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small MuQ-MuLan, beside it upstream's copy and `cache`: made once, for all workers."""
    from embed_assets_tests import small_mulan

    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    folder = root / "small_mulan" / "small"
    with FileLock(root / "small_mulan.lock"):
        if not folder.exists():
            small_mulan.save(folder)
    return folder


@pytest.fixture
def copy(small: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small, tmp_path / "copy"))


@pytest.fixture(scope="module", params=["the reference", "the fastest engine"])
def muq(request: pytest.FixtureRequest, small: Path) -> Encoder:
    from embed_assets import encoders
    from embed_assets.encoders.muq.encoder import reference

    if request.param == "the reference":
        return reference(str(small), small.parent / "cache")
    return encoders.load("muq", str(small), "cpu", small.parent / "cache")
