"""What Milvus does not offer: files of Milvus Lite that are read or deleted, and error texts.

Nothing else knows the layout of a Lite folder,
milvus-lite's classes, or words of an error message. What is lacking:

- Reading a Lite index beside its writer: one process has it, for the better part of a second at
  each opening. Which collections there are, which one the alias names and whether anything was
  written is read from its files. Upstream: milvus-io/milvus-lite#264, open.
- Releasing a Lite index before the process ends: `MilvusClient.close` keeps the lock. Upstream:
  milvus-io/milvus-lite#227, closed as intended.
- Why a Lite index cannot be opened: the client hides it, so milvus-lite's own class is asked first.
  Upstream: no issue found.
- A Lite index that survives a kill: a half-written index file fails each load, and a folder without
  schema each creation. Upstream: no issue found.
- Error codes: pymilvus raises one class for most of what a server says, and a code that differs
  between versions of the server. Upstream: no issue found.
"""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from enum import Enum
from pathlib import Path

WRITTEN_FOR = {"pymilvus": "3.0.2", "milvus-lite": "3.2.2"}
"""The versions this was written for; run its tests before using others."""

PAGE = 16_384
"""Most rows that a server returns in one answer."""


def lite_has(folder: Path, collection: str) -> bool:
    """Whether a Lite index has the collection."""
    return _collection(folder, collection).is_dir()


def lite_alias(folder: Path, alias: str) -> str | None:
    """The collection behind an alias of a Lite index; None if that is not known."""
    try:
        name = json.loads(_aliases(folder).read_text()).get(alias)
    except (OSError, ValueError, AttributeError):
        return None
    return name if name and lite_has(folder, name) else None


def lite_files(folder: Path, collection: str) -> list[str]:
    """A line with size and time for each file of a Lite collection, and one for the aliases.

    If the lines are equal, nobody wrote to the collection or moved an alias in between.
    """
    aliases = _aliases(folder)
    files = [f"aliases {aliases.stat().st_mtime_ns}"] if aliases.exists() else []
    for root, _, names in os.walk(_collection(folder, collection)):
        for name in names:
            with suppress(OSError):
                info = os.stat(os.path.join(root, name))
                files.append(f"{root}/{name} {info.st_size} {info.st_mtime_ns}")
    return sorted(files)


def delete_lite_indexes(folder: Path, collection: str) -> bool:
    """Delete the index files of a Lite collection; Lite builds them again from the rows.

    Returns False if there are none. A kill while Lite writes such a file leaves half of it, and
    then every load fails.
    """
    files = list((_collection(folder, collection) / "partitions").glob("*/indexes/*.idx"))
    for file in files:
        file.unlink(missing_ok=True)
    return bool(files)


def delete_half_created(folder: Path, collection: str) -> None:
    """Delete a collection folder that a kill left without a schema; Lite fails on it."""
    half = _collection(folder, collection)
    if half.is_dir() and not (half / "schema.json").exists():
        shutil.rmtree(half)


def _collection(folder: Path, collection: str) -> Path:
    return folder / "collections" / collection


def _aliases(folder: Path) -> Path:
    return folder / "aliases.json"


def is_held(folder: Path) -> bool:
    """Whether another process has this Lite index open. Raises OSError: it cannot be opened."""
    from milvus_lite.db import MilvusLite
    from milvus_lite.exceptions import DataDirLockedError

    try:
        MilvusLite(str(folder)).close()
    except DataDirLockedError:
        return True
    return False


def release(folder: Path) -> None:
    """Stop this process's server of a Lite index, which releases its lock."""
    from milvus_lite.server_manager import server_manager_instance

    server_manager_instance.release_server(str(folder))


class Fault(Enum):
    """What kind of error Milvus raised."""

    DENIED = "the login is refused"
    NO_DATABASE = "the server has no such database"
    DISK_FULL = "the disk is full"
    BAD_ADDRESS = "the address cannot be one"
    BAD_REQUEST = "what was asked cannot be done, now or later"
    OTHER = "anything else, which may pass"


_DENIED = ("unauthenticated", "auth check failure", "permission", "illegal token", "invalid token")


def is_error(error: Exception) -> bool:
    """Whether it is an error of pymilvus or gRPC."""
    import grpc
    from pymilvus.exceptions import MilvusException

    return isinstance(error, MilvusException | grpc.RpcError)


def fault_of(error: Exception) -> Fault:
    """The kind of an error of pymilvus or gRPC, by its class and the words of its message."""
    from pymilvus import exceptions as theirs

    message = message_of(error).lower()
    if any(word in message for word in _DENIED):
        return Fault.DENIED
    if "database not found" in message:
        return Fault.NO_DATABASE
    if "no space left" in message:
        return Fault.DISK_FULL
    if isinstance(error, theirs.ConnectionConfigException):
        return Fault.BAD_ADDRESS
    bugs = (theirs.ParamError, theirs.DataNotMatchException, theirs.DataTypeNotMatchException)
    if isinstance(error, bugs) or getattr(error, "is_input_error", False):
        return Fault.BAD_REQUEST
    return Fault.OTHER


_REFUSED = (
    "invalid parameter",
    "limited to",
    "not support",
    "unsupported",
    "invalid index type",
    "unknown index type",
    "replica number",
    "nodes not enough",
    "no enough nodes",
)


def is_refusal(error: Exception) -> bool:
    """Whether a server says that it cannot do what was asked, now or later."""
    message = message_of(error).lower()
    return fault_of(error) is Fault.BAD_REQUEST or any(words in message for words in _REFUSED)


def has_other_replicas(error: Exception) -> bool:
    """Whether a collection was not loaded because it is, or is being, with other replicas."""
    return "change the replica number" in message_of(error).lower()


def message_of(error: Exception) -> str:
    """The message of an error of pymilvus or gRPC."""
    return getattr(error, "message", "") or str(error)
