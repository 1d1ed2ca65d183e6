"""The variables of the environment and of `.env`, by their names.

Which are logins of music servers, which are almost the name of a setting, and which no other child
may inherit.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path


def variables() -> dict[str, str | None]:
    """All variables that are set, by name, those of `.env` included.

    A file that cannot be read is left out: `Settings.load` says what is wrong with it.
    """
    from dotenv import dotenv_values

    in_file: Mapping[str, str | None] = {}
    with suppress(OSError, UnicodeDecodeError):
        in_file = dotenv_values(".env") if Path(".env").exists() else {}
    return {**in_file, **os.environ}


def logins() -> dict[str, str]:
    """The variables with logins of music servers, by their names in capitals."""
    return {k.upper(): v for k, v in variables().items() if v and is_login(k)}


def mistyped(known: Iterable[str]) -> list[str]:
    """A sentence for each variable that is not `known` but has almost the name of one."""
    known = list(known)
    there = {name.upper(): name for name in variables()}
    near = {
        name: {
            *get_close_matches(upper, known, cutoff=0.85),
            *(k for k in known if len(upper) > len("EMBED_") and k.startswith(upper)),
        }
        for upper, name in there.items()
        if upper not in known and upper.startswith("EMBED") and not is_login(upper)
    }
    return [
        f"{name} is not a setting and has no effect: is it {' or '.join(sorted(found))}?"
        for name, found in near.items()
        if found
    ]


def is_login(variable: str) -> bool:
    """Whether a variable holds a login of a music server."""
    return variable.upper().startswith("EMBED_SERVER_")


def is_http(variable: str) -> bool:
    """Whether a variable is a setting of `serve`."""
    return variable.upper().startswith("EMBED_HTTP")


def forget_secrets() -> None:
    """Remove what only `serve` needs from the environment, so that no other child inherits it.

    Its tokens and the logins of music servers stay in the `Settings` that were loaded before.
    """
    for name in list(os.environ):
        if name.upper() in ("EMBED_HTTP_TOKEN", "EMBED_HTTP_READ_TOKEN") or is_login(name):
            del os.environ[name]
