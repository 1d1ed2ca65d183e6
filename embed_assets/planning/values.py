"""What planning reads and returns."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from embed_assets.identity import PartitionKey


@dataclass(frozen=True, slots=True)
class FolderSnapshot:
    """A folder as the walk found it; `version` is None where it could not be read.

    `newest`: the latest change of a file in it, in seconds of the system's clock. `ctimes`: empty
    unless files have other ctimes than when they were read.
    """

    key: PartitionKey
    version: str | None
    files: int = 0
    newest: float = 0.0
    ctimes: str = ""


@dataclass(frozen=True)
class Known:
    """What was known of folders, by partition key, before the walk began.

    `partitions`: all keys, in the order in which they were added. `indexed`: the version that is
    indexed. `running`: folders that runs cover. `failed`: folders whose last run failed; True if
    the folder caused it (retry alone), False if the cause is shared, e.g. Milvus was down (retry
    together). `unlisted`: folders that are in the tables and have no partition, as after the
    Dagster home was deleted.
    """

    partitions: Sequence[PartitionKey] = ()
    indexed: Mapping[PartitionKey, str] = field(default_factory=dict)
    running: Collection[PartitionKey] = ()
    failed: Mapping[PartitionKey, bool] = field(default_factory=dict)
    unlisted: Sequence[PartitionKey] = ()


@dataclass(frozen=True)
class Policy:
    """How much to start, and when.

    A folder has to be unchanged for `settle_seconds`. `max_new_runs` may be started now, at most
    `max_import_runs` of them for imports; each covers up to `folders_per_run` folders and, in an
    import, embeds up to `files_per_run` tracks (a folder is never split). `encoders`: how many runs
    embed at the same time; an import is divided among them. `interactive`: folders that changed
    just now get a run of their own, ahead of an import. `removals_confirmed`: a person says that
    folders were deleted on purpose.
    """

    settle_seconds: float = 5.0
    folders_per_run: int = 64
    max_new_runs: int = 4
    max_import_runs: int = 2
    removals_confirmed: bool = False
    interactive: bool = True
    files_per_run: int = 10**9
    encoders: int = 1


@dataclass(frozen=True)
class RunRequest:
    """One run: `keys` in the order in which they are, or will be, added as partitions."""

    keys: tuple[PartitionKey, ...]
    remove: bool = False
    is_import: bool = False


@dataclass
class SensorCursor:
    """What one evaluation leaves for the next.

    `debouncing`: key -> (version, since when it is unchanged). `attempts`: key -> (version, how
    many runs were requested for it, when the last was). `resume`: the folder after which the walk
    continues. `missing`: folders that the walk so far did not find. `scanned_at`: when the last
    scan began, in seconds since 1970.
    """

    debouncing: dict[PartitionKey, tuple[str, float]] = field(default_factory=dict)
    attempts: dict[PartitionKey, tuple[str, int, float]] = field(default_factory=dict)
    resume: str | None = None
    missing: list[PartitionKey] = field(default_factory=list)
    scanned_at: float = 0.0

    def record_end(self, request: RunRequest, now: float) -> None:
        """Count the backoff of a run's folders from its end, should it have failed."""
        for key in self.attempts.keys() & set(request.keys):
            version, count, _ = self.attempts[key]
            self.attempts[key] = version, count, now

    @classmethod
    def load(cls, text: str | None) -> SensorCursor:
        """Read what `dump` wrote; anything else is an empty cursor."""
        try:
            raw = json.loads(text or "{}")
            return cls(
                {k: (v, float(t)) for k, (v, t) in raw.get("debouncing", {}).items()},
                {k: (v, int(n), float(t)) for k, (v, n, t) in raw.get("attempts", {}).items()},
                raw.get("resume"),
                list(raw.get("missing", [])),
                float(raw.get("scanned_at", 0.0)),
            )
        except (ValueError, TypeError, AttributeError):
            return cls()

    def dump(self) -> str:
        """Text for the sensor's cursor."""
        return json.dumps(asdict(self), separators=(",", ":"))


@dataclass(frozen=True)
class Plan:
    """What to do now, and how many folders are in which state.

    `retire`: folders that are out of the index, whose partitions go. `adopt`: folders that are in
    step and have no partition. `debounced_in`, `next_attempt_in`: seconds until the first folder
    has been unchanged for long enough, or is retried.
    """

    requests: tuple[RunRequest, ...] = ()
    retire: tuple[PartitionKey, ...] = ()
    adopt: tuple[PartitionKey, ...] = ()
    folders: int = 0
    files: int = 0
    in_step: int = 0
    due: int = 0
    running: int = 0
    backing_off: int = 0
    unreadable: int = 0
    debounced_in: float | None = None
    next_attempt_in: float | None = None
