"""Tables in PostgreSQL: what is said when it cannot be used, and that it may be killed."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

from embed_assets.errors import ConfigurationError, TransientError
from embed_assets.operations.doctor import doctor
from embed_assets.project import Project, for_reading
from embed_assets.settings import Settings
from embed_assets.storage import queries
from embed_assets.storage.postgres_address import PostgresAddress, normal_postgres_url
from embed_assets.storage.postgres_database import STATE, PostgresDatabase
from embed_assets.storage.postgres_sessions import KEPT
from embed_assets.storage.tables import Tables
from embed_assets_tests.postgres import running_postgres

SECRET = "not-for-others"


@pytest.fixture
def guarded(postgres_server, tmp_path):
    """Address of an empty database whose user needs a password."""
    name = "guarded_" + tmp_path.name.replace("-", "_")[:40]
    if not postgres_server.execute("SELECT 1 FROM pg_roles WHERE rolname = 'guarded'"):
        postgres_server.execute(f"CREATE ROLE guarded LOGIN PASSWORD '{SECRET}'")
    postgres_server.execute(f"CREATE DATABASE {name} OWNER guarded")
    yield postgres_server.address(name, "guarded")
    postgres_server.execute(f"DROP DATABASE {name} WITH (FORCE)")


def use(url: str, password: str = "", file: Path | None = None) -> Tables:
    tables = Tables(PostgresDatabase(PostgresAddress(url, password, file)))
    assert not queries.any_track(tables)
    return tables


def test_the_password_comes_from_a_setting_a_file_or_where_libpq_looks(
    guarded, tmp_path, monkeypatch
):
    (tmp_path / "password").write_text(f"{SECRET}\n")
    (tmp_path / "pgpass").write_text(f"*:*:*:guarded:{SECRET}\n")
    (tmp_path / "pgpass").chmod(0o600)
    with_setting = Settings(tables=guarded, tables_password=SECRET).tables_address
    with_file = Settings(tables=guarded, tables_password_file=tmp_path / "password").tables_address
    for address in (with_setting, with_file):
        # With options of their own, each has sessions of its own.
        url = f"{address.url}?application_name=x{bool(address.password)}"
        use(url, address.password, address.password_file)
        assert SECRET not in f"{address} {address!r}"
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "pgpass"))
    use(f"{guarded}?application_name=pgpass")


def test_a_wrong_login_or_database_fails_at_once_and_names_them_but_no_password(
    guarded, postgres_server
):
    wrong = [
        (guarded, "wrong-" + SECRET, "password authentication failed"),
        (guarded, "", "no password supplied"),
        (postgres_server.address("nowhere"), "", 'database "nowhere" does not exist'),
        (
            postgres_server.address("postgres", "nobody_here"),
            "",
            'role "nobody_here" does not exist',
        ),
    ]
    # Nothing listens at the other address.
    wrong.append((wrong[0][0].replace("@", "@127.0.0.2,"), "", "no password supplied"))
    for number, (url, password, why) in enumerate(wrong):
        with pytest.raises(ConfigurationError, match=why) as error:
            use(f"{url}?application_name=wrong{number}", password)
        assert "EMBED_TABLES" in str(error.value)
        assert "127.0.0.1" in str(error.value)
        assert SECRET not in str(error.value)


def test_a_server_that_is_away_is_named_and_awaited():
    with pytest.raises(TransientError, match=r"'music' on 127\.0\.0\.1:1 cannot be used"):
        use("postgresql://me@127.0.0.1:1/music")
    with pytest.raises(TransientError, match=r"no-such-host\.invalid"):
        use("postgresql://me@no-such-host.invalid/music")


def test_doctor_says_where_the_tables_are_or_why_they_are_not(postgres, tmp_path):
    music = tmp_path / "music"
    music.mkdir()
    settings = Settings(home=tmp_path / "home", library=music, encoder="acoustic", tables=postgres)
    checks = {f.check: f for f in doctor(settings)}
    assert checks["tables"].ok
    assert checks["tables"].message.startswith(postgres)
    away = settings.model_copy(update={"tables": "postgresql://me@127.0.0.1:1/music"})
    checks = {f.check: f for f in doctor(away)}
    assert not checks["tables"].ok
    assert "'music' on 127.0.0.1:1 cannot be used" in checks["tables"].message


def test_tables_of_a_newer_version_are_left_alone(postgres_server, tmp_path):
    url = postgres_server.schema(str(tmp_path))
    tables = use(url)
    with tables.connect() as db:
        db.execute(f"UPDATE {STATE} SET version = version + 1")
    with pytest.raises(ConfigurationError, match="use the version that wrote it"):
        use(f"{url}&application_name=another")


def test_tables_of_an_older_version_are_upgraded_and_keep_their_rows(postgres_server, tmp_path):
    url = postgres_server.schema(str(tmp_path))
    with use(url).connect() as db:
        db.execute("INSERT INTO looks (requested_at) VALUES (1.0)")
        db.execute("DROP TABLE rankings")
        db.execute(f"UPDATE {STATE} SET version = 9")
    with use(f"{url}&application_name=another").connect() as db:
        assert db.execute("SELECT requested_at FROM looks").fetchall() == [(1.0,)]
        assert db.execute("SELECT method FROM rankings").fetchall() == []


def test_an_encoding_that_lacks_letters_is_refused(postgres_server):
    postgres_server.execute("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    with pytest.raises(ConfigurationError, match="has the encoding LATIN1"):
        use(postgres_server.address("latin"))


def test_a_user_without_rights_is_told_so(postgres_server):
    postgres_server.execute("CREATE ROLE stranger LOGIN")
    with pytest.raises(ConfigurationError, match="permission denied"):
        use(postgres_server.address("postgres", "stranger"))


def test_a_schema_that_is_missing_is_said_to_be_so(postgres_server):
    with pytest.raises(ConfigurationError, match="CREATE SCHEMA"):
        use(f"{postgres_server.address('music')}?options=-csearch_path%3Dnot_there")


def test_whoever_is_interrupted_amid_a_transaction_holds_nobody_up(postgres_server, tmp_path):
    tables = use(f"{postgres_server.schema(str(tmp_path))}&application_name=interrupted")

    def interrupted() -> None:
        with tables.connect() as db:
            db.execute("BEGIN")
            db.execute("INSERT INTO looks (requested_at) VALUES (1.0)")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with tables.connect() as db:
        assert db.execute("SELECT id FROM looks").fetchall() == []
    idle = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"
    assert postgres_server.execute(f"{idle} AND application_name = 'interrupted'")[0][0] == 0


def test_whoever_waits_too_long_for_another_writer_is_told_so(postgres_server, tmp_path):
    tables = use(f"{postgres_server.schema(str(tmp_path))}&application_name=impatient")

    def impatient() -> None:
        with tables.connect() as db:
            db.execute("SET lock_timeout = '10ms'")
            db.execute(f"SELECT pg_advisory_lock(hashtext('{STATE} ' || current_schema()))")

    with (
        tables.transaction(),
        pytest.raises(TransientError, match="another process has been writing"),
    ):
        impatient()


def test_tables_of_another_program_are_left_alone_and_named(postgres, postgres_server, tmp_path):
    name = postgres.rpartition("/")[2]
    postgres_server.execute("CREATE TABLE tracks (title TEXT)", name)
    postgres_server.execute("ALTER TABLE tracks OWNER TO music", name)
    tables = Tables(PostgresDatabase(PostgresAddress(postgres)))
    for command in (tables.database.exists, tables.database.revision):
        with pytest.raises(ConfigurationError, match=r"of another program .*\(tracks\): use an"):
            command()
    made = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"
    assert postgres_server.execute(made, name) == [("tracks",)]
    postgres_server.execute("CREATE SCHEMA own AUTHORIZATION music", name)
    use(f"{postgres}?options=-csearch_path%3Down")


def test_without_the_driver_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    with pytest.raises(ConfigurationError, match=r"'\.\[shared\]'"):
        use("postgresql://me@127.0.0.1/music")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("mysql://me@host/music", "must be an address of PostgreSQL"),
        ("postgresql+psycopg2://me@host/music", "must be an address of PostgreSQL"),
        ("postgresql://me:secret@host/music", "EMBED_TABLES_PASSWORD"),
        ("postgresql://me@host/music?password=secret", "EMBED_TABLES_PASSWORD"),
        ("postgresql://me@host", "names no database"),
    ],
)
def test_other_addresses_are_refused_without_showing_a_password(url, why):
    with pytest.raises(ConfigurationError, match=why) as error:
        Settings.load(tables=url)
    assert "secret" not in str(error.value)


def test_an_address_is_any_that_libpq_knows():
    for url in ("postgresql:///music", "postgresql://a,b:1/music?sslmode=require"):
        assert normal_postgres_url(url) == url
    assert normal_postgres_url("postgres://me@host/x") == "postgresql://me@host/x"
    socket = PostgresAddress("postgresql:///music?host=/run/postgresql")
    assert str(socket) == "the database 'music' on /run/postgresql"


def test_commands_that_only_look_make_no_tables(postgres_server, tmp_path):
    settings = Settings(home=tmp_path, tables=postgres_server.schema(str(tmp_path)))
    assert not queries.any_track(for_reading(settings).tables)
    assert not Project.of(settings).tables.database.exists()
    use(settings.tables)
    assert for_reading(settings).tables.database.exists()


def test_few_sessions_are_kept(postgres_server, tmp_path):
    tables = use(f"{postgres_server.schema(str(tmp_path))}&application_name=few")
    started = threading.Barrier(8)

    def ask() -> None:
        with tables.connect():
            started.wait(60)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'few'"
    assert postgres_server.execute(count)[0][0] <= KEPT + 4  # Those that are ended may linger.
    for _ in range(20):
        queries.any_track(tables)
    assert postgres_server.execute(count)[0][0] <= KEPT


def test_a_process_that_was_cut_off_amid_writing_has_written_nothing(postgres_server, tmp_path):
    """As a host that stood still for a minute is: the server has given up its transaction."""
    tables = use(f"{postgres_server.schema(str(tmp_path))}&application_name=frozen")
    tables.begin_scan("f", b"F", "scan")

    def rows():
        from embed_assets.storage.records import Track

        yield Track("id", "f", b"a.mp3", 1, 1, 1, "audio")
        postgres_server.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'frozen' AND state = 'idle in transaction'"
        )

    with pytest.raises(TransientError):
        tables.put_tracks(rows(), "scan")
    assert not queries.any_track(tables)
    tables.begin_scan("f", b"F", "next")


def test_a_server_that_is_killed_is_used_again_when_it_is_back():
    with running_postgres() as server:
        tables = use(server.address("music"))
        tables.begin_scan("f", b"F", "scan")
        tables.mark_dirty("f")  # Which a power loss survives, as the start of a scan does not.
        server.kill()
        with pytest.raises(TransientError, match=r"127\.0\.0\.1"):
            tables.digest("f")
        server.start()
        assert list(tables.folders()) == [("f", b"F", False)]
        with tables.connect():  # A session that is held while the server is killed.
            server.kill()
            server.start()
            assert list(tables.folders()) == [("f", b"F", False)]
        with pytest.raises(TransientError):
            lose(tables, server)
        server.start()
        with tables.connect() as db:
            assert db.execute("SELECT scan FROM folders").fetchone()[0] == "scan"


def lose(tables, server) -> None:
    with tables.transaction() as db:
        db.execute("UPDATE folders SET scan = 'lost'")
        server.kill()
