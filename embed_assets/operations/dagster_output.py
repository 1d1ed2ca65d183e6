"""The log file of Dagster or `serve`: limits its size, reads new lines, warnings and its end."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

LOG_BYTES = 5_000_000
"""A longer log is moved to `<name>.1`, which is overwritten."""

REPEAT_SECONDS = 600.0
"""A warning that is repeated is printed again after this time."""

TAIL_LINES = 20

_COLOR = re.compile(r"\x1b\[[0-9;]*m")
_WARNING = re.compile(r"\d{4}-\d\d-\d\d [\d:]{8} \S+ - (\S+) - (?:WARNING|ERROR|CRITICAL) - (.+)")
_IN_THE_RECORD = ("dagster", "dagster.daemon.SensorDaemon")
"""Loggers of steps and of sensor ticks, whose messages are also in Dagster's database."""
_HARMLESS = "No cursor for event type"
_NUMBER = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|\d+")


def bound(log: Path) -> None:
    """Limit the size of a log that other processes append to; lines of this moment may be lost."""
    with suppress(OSError):
        if log.stat().st_size <= LOG_BYTES:
            return
        with suppress(OSError):
            shutil.copyfile(log, log.with_name(f"{log.name}.1"))
        os.truncate(log, 0)


class DagsterOutput:
    """The log file of Dagster's output, read as it grows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = path.stat().st_size if path.exists() else 0
        self.shown: dict[str, float] = {}

    def new(self) -> bytes:
        """The lines that were printed since the last call."""
        try:
            with open(self.path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                # A smaller file was truncated because it was too long.
                self.offset = self.offset if self.offset <= size else 0
                file.seek(self.offset)
                text = file.read()
        except OSError:
            return b""
        whole = text[: text.rfind(b"\n") + 1]
        self.offset += len(whole)
        return whole

    def warnings(self, text: bytes) -> Iterator[str]:
        """The first line of each warning and error that is in the log only."""
        now = time.monotonic()
        for line in _lines(text):
            found = _WARNING.match(line)
            if found is None or found[1] in _IN_THE_RECORD or found[2].startswith(_HARMLESS):
                continue
            kind = _NUMBER.sub("", found[2])
            if now - self.shown.get(kind, -REPEAT_SECONDS) >= REPEAT_SECONDS:
                self.shown[kind] = now
                yield found[2]


def tail(path: Path, offset: int) -> list[str]:
    """The last lines that Dagster printed after an offset in its file, without empty ones."""
    try:
        with open(path, "rb") as file:
            file.seek(max(offset, os.fstat(file.fileno()).st_size - 20_000))
            return _lines(file.read())[-TAIL_LINES:]
    except OSError:
        return []


def _lines(text: bytes) -> list[str]:
    lines = _COLOR.sub("", text.decode(errors="backslashreplace")).splitlines()
    return [line.rstrip() for line in lines if line.strip()]
