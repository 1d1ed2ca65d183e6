"""The Dagster instance: creating ours in EMBED_HOME, opening it or a person's own; `up`'s lock."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import resources
from pathlib import Path

import dagster as dg
from sqlalchemy.exc import DatabaseError, OperationalError

from embed_assets.defs.dagster_compat.locks import HeldLock, file_lock, lock
from embed_assets.defs.dagster_compat.runs import open_folder
from embed_assets.errors import AlreadyRunning, ConfigurationError, TransientError, is_passing
from embed_assets.settings import Settings

OPENING_SECONDS = 60.0


def prepare_home(settings: Settings) -> Path:
    """Create EMBED_HOME and the instance's folder, with this version's `dagster.yaml`.

    A folder of EMBED_DAGSTER_HOME is a person's own, and nothing in it is changed.

    Raises:
        ConfigurationError: EMBED_HOME cannot be written, or EMBED_DAGSTER_HOME has no dagster.yaml.
        TransientError: its disk is full, or fails.
    """
    home = settings.instance_home
    try:
        settings.up_folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise cannot_write(settings.up_folder, e) from e
    if settings.dagster_home is not None:
        if not (home / "dagster.yaml").is_file():
            raise ConfigurationError(
                f"EMBED_DAGSTER_HOME={home}: there is no dagster.yaml: put yours there"
                " (`embed-assets cluster-config` prints one for several machines), or leave"
                " EMBED_DAGSTER_HOME empty"
            )
        return home
    try:
        with resources.as_file(resources.files("embed_assets") / "dagster.yaml") as source:
            temporary = home / f".dagster.yaml.{os.getpid()}"
            shutil.copyfile(source, temporary)
            temporary.replace(home / "dagster.yaml")
    except OSError as e:
        raise cannot_write(home, e) from e
    return home


def cannot_write(home: Path, error: OSError) -> ConfigurationError | TransientError:
    """The error for a file of the instance's folder that cannot be written."""
    if is_passing(error):
        return _disk_fails(home, error)
    return ConfigurationError(
        f"EMBED_HOME={home.parent}: {error.strerror}: {error.filename}; make it writable or name"
        " another folder"
    )


def allow_runs(settings: Settings, runs: int) -> None:
    """Set how many runs Dagster's queue starts at once, for the next daemon.

    A person's own dagster.yaml has their number. Raises OSError.
    """
    if settings.dagster_home is not None:
        return
    file = settings.instance_home / "dagster.yaml"
    text = re.sub(r"(max_concurrent_runs:) \d+", rf"\1 {runs}", file.read_text())
    temporary = file.with_name(f".dagster.yaml.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(file)


def _disk_fails(home: Path, why: object) -> TransientError:
    return TransientError(
        f"the Dagster instance in {home} cannot be used: {why}; is the disk full, or failing? Make"
        " room: nothing is lost, and what is done is not done again"
    )


@contextmanager
def open_instance(settings: Settings) -> Iterator[dg.DagsterInstance]:
    """The instance of EMBED_HOME or EMBED_DAGSTER_HOME, whatever DAGSTER_HOME is.

    Raises:
        TransientError: its disk is full, or fails, or its database server is away, here or in the
            block.
        ConfigurationError: it cannot be written, or is damaged, or its dagster.yaml cannot be used.
    """
    home = prepare_home(settings)
    os.environ["DAGSTER_HOME"] = str(home)
    try:
        with _opened(settings) as instance:
            yield instance
    except (OperationalError, sqlite3.OperationalError) as e:
        raise _unusable(settings, getattr(e, "orig", e)) from e
    except DatabaseError as e:
        if settings.dagster_home is not None:
            raise _unusable(settings, e.orig) from e
        raise ConfigurationError(
            f"the Dagster instance in {home} is damaged ({e.orig}): move it away and run"
            " `embed-assets sync`; nothing is embedded again"
        ) from e
    except OSError as e:
        if is_passing(e):
            raise _disk_fails(home, e) from e
        raise
    except Exception as e:
        # What dagster-postgres raises after some attempts to connect.
        if isinstance(e.__cause__, OperationalError):
            raise _unusable(settings, e.__cause__.orig) from e
        raise


def _unusable(settings: Settings, why: object) -> TransientError:
    if settings.dagster_home is None:
        return _disk_fails(settings.instance_home, why)
    reason = str(why).strip().partition("\n")[0]
    return TransientError(
        f"the database of EMBED_DAGSTER_HOME={settings.dagster_home} cannot be used: {reason}; is"
        " the server running, and reachable from this machine? Nothing is lost"
    )


def _opened(settings: Settings) -> dg.DagsterInstance:
    home = settings.instance_home
    # The first process creates the databases; a second one at that moment would fail.
    with ExitStack() as stack:
        try:
            stack.enter_context(file_lock(settings.up_folder / "opening.lock", OPENING_SECONDS))
        except AlreadyRunning:
            raise TransientError(
                f"the Dagster instance in {home} is being opened by another process for more than"
                f" {OPENING_SECONDS:.0f} s: see what it waits for, and try again"
            ) from None
        if settings.dagster_home is None:
            return open_folder(home)
        try:
            return open_folder(home)
        except (DatabaseError, OSError):
            raise
        except Exception as e:
            if isinstance(e.__cause__, DatabaseError):
                raise
            raise ConfigurationError(
                f"EMBED_DAGSTER_HOME={home}: its dagster.yaml cannot be used:"
                f" {type(e).__name__}: {str(e).strip()}"
            ) from e


@contextmanager
def sole_starter(settings: Settings, wait_seconds: float = 0.0) -> Iterator[HeldLock]:
    """Hold the lock of `up`; it is released however the process ends.

    A person's own instance has one `up`, on whichever machine.

    Raises:
        AlreadyRunning: another `up` has it.
        ConfigurationError: EMBED_HOME cannot be written, or the instance cannot be opened.
        TransientError: its disk is full, or fails, or its database server is away.
    """
    home = prepare_home(settings)
    with ExitStack() as stack:
        try:
            if settings.dagster_home is None:
                held = stack.enter_context(file_lock(home / "up.lock", wait_seconds))
            else:
                instance = stack.enter_context(open_instance(settings))
                held = stack.enter_context(lock(instance, "up", wait_seconds))
        except AlreadyRunning:
            raise AlreadyRunning(
                f"another `embed-assets up` runs for {settings.dagster_home or settings.home}"
            ) from None
        except OSError as e:
            raise cannot_write(settings.up_folder, e) from e
        yield held
