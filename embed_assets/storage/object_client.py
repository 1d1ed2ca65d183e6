"""Requests to an object store by obstore, with its errors in our words."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import Any, TypeVar

from embed_assets.errors import ConfigurationError, TransientError
from embed_assets.formats import to_install
from embed_assets.storage import object_errors
from embed_assets.storage.vectors_address import parts_of

R = TypeVar("R")

TIMEOUT = timedelta(seconds=30)
"""How long a request may take."""

RETRYING = timedelta(seconds=15)
"""How long a request that failed is repeated; a step that fails is tried again later anyway."""

HURRIED = timedelta(seconds=3)
"""How long a request may take, and be repeated, for somebody who waits for the answer."""

PAUSE_SECONDS = 5.0
"""How long requests fail at once after one that stayed without an answer.

Otherwise a step would wait for each of its tracks.
"""


class Missing(Exception):
    """There is no such object.

    `is_certain`: the answer is that of an object store, and not of any web server.
    """

    def __init__(self, *, is_certain: bool) -> None:
        super().__init__()
        self.is_certain = is_certain


class AlreadyThere(Exception):
    """There is such an object."""


class NotSupported(Exception):
    """This kind of store does not know the request."""


def obstore() -> Any:
    """The library.

    Raises:
        ConfigurationError: it is not installed.
    """
    try:
        import obstore
        import obstore.exceptions
    except ImportError:
        raise ConfigurationError(
            "EMBED_VECTORS names an object store, and obstore is not installed:"
            f" {to_install('shared')}"
        ) from None
    return obstore


@dataclass
class Server:
    """What this process knows of a server: obstore's client, and when it last gave no answer."""

    client: Any
    silent_until: float = 0.0
    said: str = ""


def call(
    address: str,
    doing: str,
    function: Callable[..., R],
    *args: Any,
    may_be_missing: bool = False,
    hurried: bool = False,
    **how: Any,
) -> R:
    """`function(client, *args, **how)`, with the client of an address.

    `doing`: what this does, for messages, e.g. `read x.npy`. `may_be_missing`: raise Missing if
    there is no such object. `hurried`: wait for `HURRIED` only.

    Raises:
        Missing, AlreadyThere, NotSupported: the caller knows what to do.
        TransientError: the server gave no answer, or a temporary failure.
        ConfigurationError: the login is refused, the bucket is missing, and the like.
    """
    errors, server = obstore().exceptions, server_of(address, hurried=hurried)
    if time.monotonic() < server.silent_until:
        raise TransientError(server.said)
    problem: Exception
    try:
        return function(server.client, *args, **how)
    except errors.AlreadyExistsError:
        problem = AlreadyThere()
    except (errors.NotSupportedError, NotImplementedError):
        problem = NotSupported()
    except (errors.BaseError, OSError, ValueError) as error:
        problem = object_errors.problem_of(doing, address, error)
        if may_be_missing and object_errors.is_missing_object(error):
            problem = Missing(is_certain=object_errors.is_certain(error))
        elif how.get("mode") == "create" and object_errors.is_not_implemented(error):
            problem = NotSupported()
        elif isinstance(problem, TransientError):
            server.silent_until = time.monotonic() + PAUSE_SECONDS
            server.said = str(problem)
    except BaseException as error:
        # obstore panics, e.g. at a login with a line break.
        if type(error).__name__ != "PanicException":
            raise
        problem = unreadable_variables(address)
    # Raised out here, the text of obstore is not in its traceback: it may hold signatures.
    raise problem


@lru_cache(maxsize=8)
def server_of(address: str, *, hurried: bool = False) -> Server:
    """This process keeps the client, with its connections; `hurried`: another one, which gives up.

    Raises:
        ConfigurationError: an environment variable of the object store cannot be read.
    """
    from obstore.store import AzureStore, GCSStore, S3Store

    kind, bucket, prefix = parts_of(address)
    plain = object_errors.endpoint(kind).startswith("http://")
    how: dict[str, Any] = {
        "prefix": prefix or None,
        "client_options": {"timeout": HURRIED if hurried else TIMEOUT, "allow_http": plain},
        "retry_config": {
            "max_retries": 1 if hurried else 4,
            "retry_timeout": HURRIED if hurried else RETRYING,
        },
    }
    kinds: dict[str, Any] = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}
    try:
        return Server(kinds[kind](bucket, **how))
    except (obstore().exceptions.BaseError, ValueError):
        # The text of obstore may hold what the variable contains.
        wrong = unreadable_variables(address)
    raise wrong


def unreadable_variables(address: str) -> ConfigurationError:
    """What to raise if obstore cannot use its environment variables."""
    kind, _, _ = parts_of(address)
    return ConfigurationError(
        f"EMBED_VECTORS={address}: obstore cannot read one of the environment variables of the"
        f" object store ({object_errors.VARIABLES[kind]}): correct them (docs/vectors.md)"
    )
