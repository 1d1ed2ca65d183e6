"""What the areas of settings share: where they are read from, and how a path is completed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator
from pydantic_settings import BaseSettings, SettingsConfigDict


class Area(BaseSettings):
    """Some of the settings, read from `EMBED_*` variables and `.env`."""

    model_config = SettingsConfigDict(
        env_prefix="EMBED_", env_file=".env", extra="ignore", frozen=True, env_ignore_empty=True
    )


def _absolute(value: Path) -> Path:
    try:
        return value.expanduser().absolute()
    except RuntimeError as e:
        raise ValueError(str(e)) from e


AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
"""A path that holds in child processes, too; `~` is the home of the user."""
