"""For commands that only look: an EMBED_HOME that is not there is empty, and is not made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from embed_assets.defs.instance import open_instance
from embed_assets.library.walk import require_library
from embed_assets.operations.up import running_address
from embed_assets.settings import Settings


def require_setting(settings: Settings) -> None:
    """Begin with the library: whoever has set nothing need not hear of weights first.

    Raises:
        LibraryUnavailable: EMBED_LIBRARY is not set.
    """
    if settings.library is None:
        require_library(None)


@contextmanager
def open_existing(settings: Settings) -> Iterator[dg.DagsterInstance]:
    """The instance of EMBED_HOME, or an empty one in memory where there is none."""
    if (settings.dagster_home / "dagster.yaml").exists():
        with open_instance(settings) as instance:
            yield instance
    else:
        with dg.DagsterInstance.ephemeral() as instance:
            yield instance


def address_of_up(settings: Settings) -> str | None:
    """Address of the UI of an `up` that is running now."""
    return running_address(settings) if settings.dagster_home.exists() else None
