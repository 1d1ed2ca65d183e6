"""How times and numbers are written for people and in JSON."""

from __future__ import annotations

from datetime import UTC, datetime


def iso(seconds: float) -> str:
    """A moment of the system's clock as ISO 8601, in UTC, e.g. `2026-02-28T09:00:00+00:00`."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def counted(number: int, thing: str) -> str:
    """`1 folder`, `2 folders`."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """`2 min 05 s`, `3 h 12 min`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
