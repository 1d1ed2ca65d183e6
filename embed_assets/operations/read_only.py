"""Helpers of commands that only read: a missing EMBED_HOME counts as empty, and is not created."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from embed_assets.defs.instance import open_instance
from embed_assets.library.walk import require_library
from embed_assets.operations.up import running_address
from embed_assets.settings import Settings


def require_setting(settings: Settings) -> None:
    """Check EMBED_LIBRARY before anything else, so that its error comes before other errors.

    Raises:
        LibraryUnavailable: EMBED_LIBRARY is not set.
    """
    if settings.library is None:
        require_library(None)


@contextmanager
def open_existing(settings: Settings) -> Iterator[dg.DagsterInstance]:
    """The Dagster instance of EMBED_HOME, or an empty one in memory if there is none."""
    if (settings.instance_home / "dagster.yaml").exists():
        with open_instance(settings) as instance:
            yield instance
    else:
        with dg.DagsterInstance.ephemeral() as instance:
            yield instance


def address_of_up(settings: Settings) -> str | None:
    """Address of the UI of a running `up`, or None."""
    return running_address(settings) if settings.instance_home.exists() else None
