"""An instance in PostgreSQL, which several machines can share: locks, pools and batches there."""

import multiprocessing
import subprocess
import sys
import time
import uuid
from contextlib import contextmanager

import dagster as dg
import pytest

from embed_assets.defs.dagster_compat import batches, pools, runs
from embed_assets.defs.dagster_compat.locks import is_postgres, lock
from embed_assets.errors import AlreadyRunning
from embed_assets_tests.patience import PATIENCE
from embed_assets_tests.postgres import database_of, running_postgres
from embed_assets_tests.test_dagster_compat import home, in_batches, stored  # noqa: F401

YAML = """
instance_class: {{module: embed_assets.defs.dagster_compat.batches, class: BatchingInstance}}
storage: {{postgres: {{postgres_url: "{url}"}}}}
concurrency: {{pools: {{granularity: op}}}}
telemetry: {{enabled: false}}
"""


def write_yaml(folder, address):
    """A dagster.yaml for this database."""
    url = address.replace("postgresql://", "postgresql+psycopg2://")
    folder.mkdir(exist_ok=True)
    (folder / "dagster.yaml").write_text(YAML.format(url=url))
    return folder


@pytest.fixture
def shared(tmp_path, postgres):
    """Folder of an instance in PostgreSQL."""
    return write_yaml(tmp_path / "shared", postgres)


@pytest.fixture(params=["sqlite", "postgres"])
def folder(request):
    """Folder of an instance, in our own SQLite files and then in PostgreSQL."""
    return request.getfixturevalue("home" if request.param == "sqlite" else "shared")


HOLDS = """
import sys
from pathlib import Path
from embed_assets.defs.dagster_compat.locks import lock
from embed_assets.defs.dagster_compat.runs import open_folder
with open_folder(Path(sys.argv[1])) as instance, lock(instance, "turns"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_is_free_again_when_its_holder_is_killed(folder):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout.readline() == b"held\n"
        with runs.open_folder(folder) as instance:
            for seconds in (0, 0.2):
                with pytest.raises(AlreadyRunning), lock(instance, "turns", seconds):
                    pass
            with lock(instance, "another", 0) as other:
                assert other.is_held()
            holder.kill()
            with lock(instance, "turns", PATIENCE):
                pass
    finally:
        holder.kill()
        holder.communicate()


def test_a_lock_whose_connection_is_lost_is_taken_again_unless_another_one_has_it(shared):
    def cut(held):
        with runs.open_folder(shared) as other, other.event_log_storage.index_connection() as db:
            pid = held.connection.connection.dbapi_connection.info.backend_pid
            db.exec_driver_sql(f"SELECT pg_terminate_backend({pid})")

    with runs.open_folder(shared) as instance, lock(instance, "up") as held:
        cut(held)
        assert held.is_held(), "nobody else wanted it"
        with pytest.raises(AlreadyRunning), lock(instance, "up", 0):
            pass
        cut(held)
        with lock(instance, "up", PATIENCE) as another:
            assert not held.is_held()
            assert another.is_held()


def test_a_lock_outlives_a_restart_of_the_server_and_is_never_held_twice(tmp_path):
    with running_postgres() as server, database_of(server) as address:
        folder = write_yaml(tmp_path / "instance", address)
        with runs.open_folder(folder) as instance, lock(instance, "up") as held:
            server.kill()
            assert held.is_held(), "nobody else can take it either"
            server.start()
            assert held.is_held()
            with pytest.raises(AlreadyRunning), lock(instance, "up", 0):
                pass
            server.kill()
            server.start()
            with lock(instance, "up", PATIENCE) as another:
                assert not held.is_held()
                assert another.is_held()


def test_events_in_batches_are_stored_on_postgres_as_one_by_one(
    shared, tmp_path, postgres_server, monkeypatch
):
    with runs.open_folder(shared) as instance:
        assert is_postgres(instance)
        assert batches.stores_batches(instance)
        in_batch = stored(instance, in_batches(instance).run_id)
        planned = [row for row in in_batch["index"] if row[0] == "ASSET_MATERIALIZATION_PLANNED"]
        assert len(planned) == 6
    monkeypatch.setattr(batches, "EVENTS_PER_BATCH", 0)
    with database_of(postgres_server) as address:
        other = write_yaml(tmp_path / "other", address)
        with runs.open_folder(other) as instance:
            assert in_batch == stored(instance, in_batches(instance).run_id)
    assert [row[2] for row in in_batch["tags"]] == ["a", "bb", "c"]


# Two faults of Dagster's pools. A test that says so ends the need for our locks.

ROUNDS = 2


def _slowly(seconds):
    """Leave others time to come between what is read and what is written."""
    from sqlalchemy import Engine, event

    @event.listens_for(Engine, "before_cursor_execute")
    def slowly(connection, cursor, statement, *rest):
        if statement.startswith(("INSERT INTO pending_steps", "UPDATE concurrency_slots")):
            time.sleep(seconds)


@contextmanager
def _claims_of(folder, patched):
    """The claims of a run of its own, with or without our locks."""
    if patched:
        pools.patch_claims()
    with runs.open_folder(folder) as instance:
        run = dg.DagsterRun(job_name="all_of_it", run_id=str(uuid.uuid4()))
        with pools.Claims(instance, run) as mine:
            yield mine


def _ask_together(folder, me, barrier, said, patched):
    _slowly(0.2)
    with _claims_of(folder, patched) as mine:
        for turn in range(ROUNDS):
            barrier.wait(PATIENCE)
            given = mine.claim("gpu", f"step {turn}")
            barrier.wait(PATIENCE)
            said.put((turn, given))
            mine.free_step(f"step {turn}")
            mine._instance.event_log_storage.free_concurrency_slots_for_run(mine._run_id)


def _leave_as_another_comes(folder, me, barrier, said, patched):
    with _claims_of(folder, patched) as mine:
        if me == 0:
            assert mine.claim("gpu", "step")
            barrier.wait(PATIENCE)
            time.sleep(0.3)
            mine.free_step("step")
            return
        _slowly(1.0)
        barrier.wait(PATIENCE)
        until = time.monotonic() + 5.0
        while not (given := mine.claim("gpu", "step")) and time.monotonic() < until:
            time.sleep(0.05)
        said.put((0, given))
        mine.free_step("step")


def in_processes(folder, work, answers, *, patched):
    """What two processes say that ask for the slot."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["embed_assets.definitions", __name__])
    barrier, said = context.Barrier(2), context.Queue()
    with runs.open_folder(folder) as instance:
        pools.set_pool_limit(instance, "gpu", 1)
    at_work = [
        context.Process(target=work, args=(folder, me, barrier, said, patched)) for me in range(2)
    ]
    for process in at_work:
        process.start()
    try:
        return [said.get(timeout=PATIENCE) for _ in range(answers)]
    finally:
        for process in at_work:
            process.join(PATIENCE)
            process.kill()


@pytest.mark.parametrize("patched", [True, False], ids=["ours", "dagster's"])
def test_one_slot_is_given_to_one_step(folder, patched):
    said = in_processes(folder, _ask_together, 2 * ROUNDS, patched=patched)
    times = [sum(given for turn, given in said if turn == i) for i in range(ROUNDS)]
    if patched:
        assert times == [1] * ROUNDS
    else:
        assert max(times) > 1, "Dagster's own claims have become safe: `patch_claims` can go"


@pytest.mark.parametrize("patched", [True, False], ids=["ours", "dagster's"])
def test_nobody_waits_beside_a_free_slot(folder, patched):
    ((_, given),) = in_processes(folder, _leave_as_another_comes, 1, patched=patched)
    if patched:
        assert given
    else:
        assert not given, "Dagster's own pools wake everybody up: `patch_claims` can go"
