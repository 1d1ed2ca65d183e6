"""Files that are complete or absent, also after a power loss."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def whole_file(path: Path, temporary: Path | None = None) -> Iterator[BinaryIO]:
    """A file to write to that replaces `path` at the end of the block, synced.

    Until then it has the name `temporary`, or another one beside `path`. A failure, also one in the
    block, leaves `path` as it was, and no partial file. Raises OSError.
    """
    making = temporary or path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    with open(making, "xb") as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(making, path)
        except BaseException:
            making.unlink(missing_ok=True)
            raise


def write_whole(path: Path, temporary: Path, raw: bytes, *, replace: bool = True) -> None:
    """Write a file under a temporary name, sync it, and give it its name.

    Without `replace`, a file that has the name already stays. A failure leaves no partial file.
    Raises OSError.
    """
    if replace:
        with whole_file(path, temporary) as file:
            file.write(raw)
        return
    _write_synced(temporary, raw)
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    except OSError:
        # Some network disks know no links.
        with suppress(FileExistsError):
            _write_synced(path, raw)
    finally:
        temporary.unlink(missing_ok=True)


def _write_synced(path: Path, raw: bytes) -> None:
    with open(path, "xb") as file:
        try:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            path.unlink(missing_ok=True)
            raise
