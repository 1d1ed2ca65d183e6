"""Files that are complete or absent, also after a power loss."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def write_whole(path: Path, temporary: Path, raw: bytes, *, replace: bool = True) -> None:
    """Write a file under a temporary name, sync it, and give it its name.

    Without `replace`, a file that has the name already stays. A failure leaves no partial file.
    Raises OSError.
    """
    _write_synced(temporary, raw)
    try:
        if replace:
            os.replace(temporary, path)
            return
        try:
            os.link(temporary, path)
        except FileExistsError:
            pass
        except OSError:
            # Some network disks know no links.
            with suppress(FileExistsError):
                _write_synced(path, raw)
        temporary.unlink()
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _write_synced(path: Path, raw: bytes) -> None:
    with open(path, "xb") as file:
        try:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            path.unlink(missing_ok=True)
            raise
