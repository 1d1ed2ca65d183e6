"""How times, numbers and names are written for people; no name steers their terminal."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime

_STEERING = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def iso(seconds: float) -> str:
    """A moment of the system's clock as ISO 8601, in UTC, e.g. `2026-02-28T09:00:00+00:00`."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def counted(number: int, thing: str) -> str:
    """`1 folder`, `2 folders`."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def first_few(names: Sequence[str], separator: str = ", ", most: int = 3) -> str:
    """`a`, `a, b`, `a, b, c and 5 more`: at most `most` names."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return separator.join(names[:most]) + more


def duration(seconds: float) -> str:
    """`2 min 05 s`, `3 h 12 min`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def to_install(extra: str) -> str:
    """The command that installs an optional part of this package, which is on no package index."""
    return f"`pip install --editable '.[{extra}]'` in the clone of embed_assets"


def validation_message(message: str) -> str:
    """What pydantic says of a wrong value, without the "Value error, " before our own sentences."""
    return message.removeprefix("Value error, ")


def plain(text: object) -> str:
    r"""A text on one line, without control characters: they are shown as `\xNN` or `\uNNNN`."""
    return _STEERING.sub(_shown, str(text))


def _shown(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
