"""Opening the index, Milvus Lite or a server: locks, turns, and translated errors.

Only one process at a time can open Milvus Lite; a second one fails at once, and `close()` does not
release its lock. Two locks of our own, which the kernel releases when a process dies, make
processes wait: `queue` is held while waiting for the index, `holder` while using it. A process that
has the index and finds `queue` held knows that another one waits; `give_way` lets it in.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from embed_assets.errors import (
    ConfigurationError,
    EmbedAssetsError,
    IndexBusy,
    TransientError,
    is_passing,
)
from embed_assets.index import milvus_compat
from embed_assets.index.address import is_server, normal_address
from embed_assets.index.milvus_compat import Fault

if TYPE_CHECKING:
    from pymilvus import MilvusClient

CONNECT_SECONDS = 10.0
"""How long a server may take to answer the first call."""


@dataclass
class _Lite:
    """A client's hold on a Lite folder."""

    path: Path
    wait_seconds: float
    held: ExitStack = field(default_factory=ExitStack)


_lite: WeakKeyDictionary[MilvusClient, _Lite] = WeakKeyDictionary()


@contextmanager
def connect(
    uri: str, token: str | None = None, *, wait_seconds: float = 60.0
) -> Iterator[MilvusClient]:
    """Yield a client for the index at `uri`: a path ending in `.db` (Lite), or http(s)://host.

    A server's address may name a database; https means TLS.

    A Lite index belongs to this process alone until the block ends. Keep the block short, or call
    `give_way` in it, and never fork in it. Errors of pymilvus that leave the block are raised as
    ours.

    Raises:
        TransientError: the server does not answer, or another process still has the Lite index
            after `wait_seconds`.
        ConfigurationError: the URI or the token cannot work.
    """
    try:
        uri = normal_address(uri)
    except ValueError as e:
        raise ConfigurationError(f"EMBED_MILVUS_URI={uri!r}: {e}") from None
    if is_server(uri):
        with _our_errors(uri):
            client = milvus_compat.quiet_client_class()(
                uri, token=token or "", timeout=CONNECT_SECONDS
            )
            try:
                yield client
            finally:
                with suppress(Exception):
                    client.close()
        return
    lite = _Lite(_lite_path(uri), wait_seconds)
    # Before pymilvus is imported, the better part of a second: who does not get it needs none.
    _lock(lite)
    with lite.held, _our_errors(uri):
        client = milvus_compat.unopened_client()
        _start(client, lite)
        _lite[client] = lite
        try:
            yield client
        finally:
            _lite.pop(client, None)
            _release(client, lite)


def give_way(client: MilvusClient) -> bool:
    """Let another process use the Lite index if one waits for it; True if one was let in.

    Afterwards the client is open again, but its collections must be loaded again. Does nothing on a
    server. No other thread may be using the client.
    """
    lite = _lite.get(client)
    if lite is None or not _somebody_waits(lite.path):
        return False
    _release(client, lite)
    _lock(lite)
    _start(client, lite)
    return True


def lite_folder(client: MilvusClient) -> Path | None:
    """The folder of a Lite index, None for a server."""
    lite = _lite.get(client)
    return lite.path if lite else None


def _lite_path(uri: str) -> Path:
    path = Path(uri)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as e:
        raise ConfigurationError(
            f"EMBED_MILVUS_URI={uri!r}: {e.filename} is a file, but Milvus Lite needs a folder"
            " (older versions used a file): move it away and run `embed-assets sync`"
        ) from e
    except OSError as e:
        raise _no_folder(path, e) from e
    if not os.access(path, os.W_OK | os.X_OK):
        raise _no_folder(path, "permission denied")
    return path


def _no_folder(path: Path, why: object) -> EmbedAssetsError:
    if isinstance(why, OSError) and is_passing(why):
        return TransientError(f"cannot open the Milvus Lite folder {path} just now: {why}")
    return ConfigurationError(
        f"EMBED_MILVUS_URI: cannot write the Milvus Lite folder {path} ({why}): make it writable,"
        " or choose another path"
    )


def _lock(lite: _Lite) -> None:
    from filelock import FileLock, Timeout

    deadline = time.monotonic() + lite.wait_seconds
    queue = FileLock(lite.path / "embed_assets.queue", thread_local=False, poll_interval=0.02)
    holder = FileLock(lite.path / "embed_assets.holder", thread_local=False, poll_interval=0.02)
    try:
        with queue.acquire(timeout=lite.wait_seconds):
            holder.acquire(timeout=max(0.0, deadline - time.monotonic()))
    except Timeout as e:
        raise IndexBusy(
            f"{lite.path} has been in use by {_who(lite.path)} for more than {lite.wait_seconds:g}"
            " s. Only one process at a time can use Milvus Lite: wait for the other one, stop it,"
            " or set EMBED_MILVUS_URI to a Milvus server"
        ) from e
    except OSError as e:
        raise _no_folder(lite.path, e) from e
    lite.held.callback(holder.release)


def _start(client: MilvusClient, lite: _Lite) -> None:
    """Open the index whose locks are held; the locks are released if that fails."""
    deadline = time.monotonic() + lite.wait_seconds
    with lite.held.pop_all() as held:
        try:
            # Not ours, or it would have our locks.
            while milvus_compat.is_held(lite.path):
                if time.monotonic() > deadline:
                    raise IndexBusy(
                        f"{lite.path} has been in use by a program other than embed_assets (a"
                        f" notebook?) for more than {lite.wait_seconds:g} s: close it there and"
                        " try again"
                    )
                time.sleep(0.1)
        except OSError as e:
            raise _no_folder(lite.path, e) from e
        held.callback(milvus_compat.release, lite.path)
        milvus_compat.open_again(client, lite.path)
        with suppress(OSError, ValueError):
            command = " ".join([os.path.basename(sys.argv[0]), *sys.argv[1:3]])
            _note(lite.path).write_text(f"process {os.getpid()} ({command})")
        lite.held = held.pop_all()


def _release(client: MilvusClient, lite: _Lite) -> None:
    with suppress(Exception):
        client.close()
    lite.held.close()


def _somebody_waits(path: Path) -> bool:
    from filelock import FileLock, Timeout

    queue = FileLock(path / "embed_assets.queue", thread_local=False)
    try:
        with queue.acquire(blocking=False):
            return False
    except Timeout:
        return True


def _note(path: Path) -> Path:
    return path / "embed_assets.who"


def _who(path: Path) -> str:
    try:
        return _note(path).read_text(errors="replace")
    except OSError:
        return "another process"


@contextmanager
def _our_errors(uri: str) -> Iterator[None]:
    """Translate errors of pymilvus and gRPC into ours, which say what to do."""
    import grpc
    from pymilvus.exceptions import MilvusException

    try:
        yield
    except EmbedAssetsError:
        raise
    except (MilvusException, grpc.RpcError) as e:
        raise _translated(uri, e) from e


def _translated(uri: str, error: Exception) -> EmbedAssetsError:
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
    if fault is Fault.BAD_ADDRESS and is_server(uri):
        return ConfigurationError(f"EMBED_MILVUS_URI={uri!r} cannot work: {message}")
    if fault is Fault.BAD_REQUEST:
        return ConfigurationError(
            f"Milvus at {uri} refuses a request ({message}): its version does not work with this"
            " version of embed_assets; please report this"
        )
    if fault is Fault.DISK_FULL:
        advice = "the disk is full: free some space, and work continues where it stopped"
    elif is_server(uri):
        advice = "check that the server is running and that EMBED_MILVUS_URI is right"
    else:
        advice = (
            "if this happens again, delete that folder and run `embed-assets sync`: the index is"
            " rebuilt from the stored embeddings, and nothing is embedded again"
        )
    return TransientError(f"Milvus at {uri} failed: {message}; {advice}")
