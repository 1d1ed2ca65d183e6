"""Every `EMBED_*` setting, read from the environment or `.env` and validated.

`Settings` has all of them; a module for each area declares and checks its own. Only entry points
(definitions, command line) read settings. They pass plain values to the domain, which never reads
configuration.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from embed_assets.errors import ConfigurationError
from embed_assets.formats import validation_message
from embed_assets.index.address import normal_address
from embed_assets.settings.encoder import EncoderSettings
from embed_assets.settings.milvus import MilvusSettings
from embed_assets.settings.runs import RunSettings
from embed_assets.settings.serving import ServingSettings
from embed_assets.settings.state import StateSettings
from embed_assets.settings.variables import forget_secrets, is_http, mistyped

__all__ = ["Settings", "forget_secrets"]


# The fields of the last base come first, also in docs/settings.md.
class Settings(ServingSettings, RunSettings, MilvusSettings, EncoderSettings, StateSettings):
    """The settings; `docs/settings.md` is generated from their descriptions."""

    # Of no area: it is about what Dagster keeps.
    history_days: int = Field(
        30,
        ge=0,
        le=36_500,
        description="Days after which runs over folders, and failed runs, are deleted from"
        " Dagster's history; what partitions show is kept. 0: never. Other runs are deleted after a"
        " week.",
    )

    @classmethod
    def load(cls, **given: Any) -> Settings:
        """Read the environment and `.env`; what is `given`, by its field's name, goes first.

        Raises:
            ConfigurationError: a value is not valid, or there is no setting of a name; names each
                variable and what is wrong.
        """
        for name in given.keys() - cls.model_fields.keys():
            near = get_close_matches(name, cls.model_fields, n=1)
            meant = f": is it {near[0]}?" if near else f"; there are: {', '.join(cls.model_fields)}"
            raise ConfigurationError(f"{name} is not a setting{meant}")
        try:
            return cls(**given)
        except ValidationError as e:
            problems = "; ".join(
                f"EMBED_{'_'.join(map(str, p['loc'])).upper()}={_shown(p['input'])}:"
                f" {_wrong(p['type'], p['msg'])}"
                for p in e.errors()
            )
            raise ConfigurationError(f"wrong setting: {problems}") from None
        except UnicodeDecodeError as e:
            raise ConfigurationError(
                f"{Path('.env').absolute()} is not UTF-8 text ({e.reason} at byte {e.start}): save"
                " it as UTF-8, or move it away"
            ) from None

    @classmethod
    def mistyped(cls) -> list[str]:
        """A sentence for each variable that is not a setting but has almost the name of one."""
        return mistyped(f"EMBED_{name.upper()}" for name in cls.model_fields)

    @property
    def index_uri(self) -> str:
        """Address of the index: EMBED_MILVUS_URI with its database, or the Lite file."""
        if not self.milvus_uri:
            return str(self.home / "milvus.db")
        return normal_address(self.milvus_uri, self.milvus_database)

    def environment(self) -> dict[str, str]:
        """The settings as absolute `EMBED_*` variables, for child processes other than `serve`."""
        return {name: value for name, value in self._variables().items() if not is_http(name)}

    def http_environment(self) -> dict[str, str]:
        """The settings of `serve`, tokens and logins included, for the process that serves."""
        own = {name: value for name, value in self._variables().items() if is_http(name)}
        return own | self._logins

    def without_http(self) -> Settings:
        """The settings without those of `serve`, for processes that may not know its tokens."""
        fields = type(self).model_fields.items()
        defaults = {n: field.default for n, field in fields if n.startswith("http")}
        copy = self.model_copy(update=defaults)
        copy._logins = {}  # noqa: SLF001  # of its own class
        return copy

    def _variables(self) -> dict[str, str]:
        values = self.model_dump(exclude_none=True)
        return {f"EMBED_{k.upper()}": str(v) for k, v in values.items() if v != ""}


def _wrong(kind: str, message: str) -> str:
    """What is wrong with a value, by pydantic's kind of error and its message."""
    return "write true or false" if kind.startswith("bool") else validation_message(message)


def _shown(value: object) -> str:
    """A value for a message, without the login that an address may hold."""
    return re.sub(r"(//).*(?=@)|(password=)[^&]*", r"\1\2***", repr(value))
