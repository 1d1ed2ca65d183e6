"""Opening the index, Milvus Lite or a server, with errors that say what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from embed_assets.errors import ConfigurationError, EmbedAssetsError, TransientError
from embed_assets.index import milvus_compat
from embed_assets.index.backend import Backend, backend_of
from embed_assets.index.milvus_compat import Fault

if TYPE_CHECKING:
    from embed_assets.index.clients import IndexClient
    from embed_assets.index.options import IndexOptions


@contextmanager
def connect(
    uri: str,
    token: str | None = None,
    *,
    options: IndexOptions | None = None,
    wait_seconds: float = 60.0,
) -> Iterator[IndexClient]:
    """Yield a client for the index at `uri`: a path ending in `.db` (Lite), or http(s)://host.

    A server's address may name a database; https means TLS. `options`: how a server is to hold the
    collections that are created.

    A Lite index belongs to this process alone until the block ends. Keep the block short, or call
    `give_way` in it, and never fork in it. Errors of pymilvus that leave the block are raised as
    ours.

    Raises:
        TransientError: the server does not answer, or another process still has the Lite index
            after `wait_seconds`.
        ConfigurationError: the URI or the token cannot work.
    """
    try:
        backend = backend_of(uri, options)
    except ValueError as e:
        raise ConfigurationError(f"EMBED_MILVUS_URI={uri!r}: {e}") from None
    try:
        with backend.open(token or "", wait_seconds) as client:
            yield client
    except EmbedAssetsError:
        raise
    except Exception as e:
        if milvus_compat.is_error(e):
            raise _translated(backend, e) from e
        raise


def _translated(backend: Backend, error: Exception) -> EmbedAssetsError:
    """An error of ours for one of pymilvus or gRPC."""
    uri = backend.uri
    message, fault = milvus_compat.message_of(error), milvus_compat.fault_of(error)
    if fault is Fault.DENIED:
        return ConfigurationError(
            f"Milvus at {uri} refuses the login ({message}): set EMBED_MILVUS_TOKEN to"
            " user:password, or to an API key with write access"
        )
    if fault is Fault.NO_DATABASE:
        return ConfigurationError(
            f"Milvus at {uri} has no such database ({message}): create it there, or change "
            "EMBED_MILVUS_DATABASE"
        )
    # Lite's folder was opened a moment ago: what it says then is an error of the disk.
    if fault is Fault.BAD_ADDRESS and not backend.exclusive:
        return ConfigurationError(f"EMBED_MILVUS_URI={uri!r} cannot work: {message}")
    if fault is Fault.BAD_REQUEST:
        return ConfigurationError(
            f"Milvus at {uri} refuses a request ({message}): its version does not work with this"
            " version of embed_assets; please report this"
        )
    advice = backend.advice
    if fault is Fault.DISK_FULL:
        advice = "the disk is full: free some space, and work continues where it stopped"
    return TransientError(f"Milvus at {uri} failed: {message}; {advice}")
