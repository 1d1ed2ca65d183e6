"""The values that a look at the library is made of: what was seen, remembered, asked for."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

EMPTY = "empty"
"""Version of a folder that was removed from the index."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A folder as the walk saw it; `version` None: unreadable. `newest` in seconds of the clock.

    `touched`: says which other ctimes its files have than those that were read; empty for none.
    """

    key: str
    version: str | None
    files: int = 0
    newest: float = 0.0
    touched: str = ""


@dataclass(frozen=True)
class Request:
    """One run: `keys` in the order in which they are (or are to be) added as partitions."""

    keys: tuple[str, ...]
    remove: bool = False
    bulk: bool = False


@dataclass
class Memory:
    """What one look leaves for the next."""

    settling: dict[str, tuple[str, float]] = field(default_factory=dict)
    tries: dict[str, tuple[str, int, float]] = field(default_factory=dict)
    resume: str | None = None
    gone: list[str] = field(default_factory=list)

    def rest_from_now(self, request: Request, now: float) -> None:
        """A run that took long has ended: its folders rest from here, should it have failed."""
        for key in self.tries.keys() & set(request.keys):
            version, count, _ = self.tries[key]
            self.tries[key] = version, count, now

    @classmethod
    def load(cls, text: str | None) -> Memory:
        """Read what `dump` wrote; anything else is an empty memory."""
        try:
            raw = json.loads(text or "{}")
            return cls(
                settling={k: (v, float(t)) for k, (v, t) in raw.get("settling", {}).items()},
                tries={k: (v, int(n), float(t)) for k, (v, n, t) in raw.get("tries", {}).items()},
                resume=raw.get("resume"),
                gone=list(raw.get("gone", [])),
            )
        except (ValueError, TypeError, AttributeError):
            return cls()

    def dump(self) -> str:
        """Text for the sensor's cursor."""
        return json.dumps(asdict(self), separators=(",", ":"))


@dataclass(frozen=True)
class Policy:
    """How eagerly to act; `room` runs may be started now, `bulk_room` of them for imports.

    `fresh_first`: folders that changed just now have a run of their own, before an import.
    `files_per_run`: so many tracks are embedded by one run of an import, at most; a folder is
    never cut. `encoders`: so many runs embed at the same time, and an import is shared out.
    """

    settle_seconds: float = 5.0
    folders_per_run: int = 64
    room: int = 4
    bulk_room: int = 2
    confirmed: bool = False
    fresh_first: bool = True
    files_per_run: int = 10**9
    encoders: int = 1


@dataclass(frozen=True)
class Plan:
    """What to do now, and what is waited for: seconds until a folder settles, or was at rest."""

    requests: tuple[Request, ...]
    retire: tuple[str, ...]
    folders: int
    files: int
    in_step: int
    due: int
    held: int
    resting: int
    unreadable: int
    settles_in: float | None = None
    next_try_in: float | None = None
