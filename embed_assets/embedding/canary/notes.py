"""What the canary remembers between two checks: a JSON file for each recipe, and a few vectors.

They are in `canary` in EMBED_HOME. Lost or damaged notes cost only that the next check cannot name
the stage: vectors of tracks are compared with the stored ones.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from embed_assets.embedding.canary.report import Comparison, Level, Report
from embed_assets.embedding.canary.stages import Fingerprint
from embed_assets.errors import ConfigurationError, TransientError, is_passing
from embed_assets.identity import RecipeDigest
from embed_assets.storage.folder_store import FolderStore
from embed_assets.storage.vector_store import Store
from embed_assets.storage.whole_file import whole_file


@dataclass
class Noted:
    """The last check, and what each subject gave at each stage when it was last in order.

    `environment` is that of the last check, `good_environment` that of the last one without drift.
    `stages` are by audio hash, or by the key of a format of the clip. `accepted_at`: when a person
    accepted other vectors, in seconds since 1970; 0: never.
    """

    environment: dict[str, str] = field(default_factory=dict)
    good_environment: dict[str, str] = field(default_factory=dict)
    report: Report | None = None
    stages: dict[str, dict[str, Fingerprint]] = field(default_factory=dict)
    accepted_at: float = 0.0


@dataclass(frozen=True)
class Notes:
    """The notes of an EMBED_HOME.

    Methods raise TransientError if the disk fails, ConfigurationError if permissions are missing.
    """

    folder: Path

    @classmethod
    def beside(cls, store: Store) -> Notes:
        """The notes of the home that has this store of vectors."""
        return cls(store.home / "canary")

    @property
    def accepted(self) -> FolderStore:
        """Vectors that are right for a subject though the store has others, or none."""
        return FolderStore(self.folder)

    def file(self, recipe: RecipeDigest) -> Path:
        """The JSON file of a recipe."""
        return self.folder / f"{recipe}.json"

    @contextmanager
    def locked(self, recipe: RecipeDigest) -> Iterator[None]:
        """A lock, so that two runs do not check at the same time; it ends with its process."""
        from filelock import FileLock

        lock = FileLock(self.folder / f"{recipe}.lock")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except OSError as error:
            raise _failed(self.folder, error) from error
        try:
            yield
        finally:
            lock.release()

    def read(self, recipe: RecipeDigest) -> Noted:
        """What is noted; empty if there is nothing, or if it is damaged."""
        try:
            raw = self.file(recipe).read_bytes()
        except FileNotFoundError:
            return Noted()
        except OSError as error:
            raise _failed(self.file(recipe), error) from error
        try:
            return _parsed(json.loads(raw))
        except (ValueError, KeyError, TypeError, AttributeError):
            return Noted()

    def write(self, recipe: RecipeDigest, noted: Noted) -> None:
        """Replace what is noted, completely or not at all."""
        file = self.file(recipe)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(file) as out:
                out.write(json.dumps(asdict(noted)).encode())
        except OSError as error:
            raise _failed(file, error) from error

    def unused(self, in_use: Collection[str]) -> list[Path]:
        """Files and folders of other recipes than those in use."""
        every = self.folder.iterdir() if self.folder.is_dir() else ()
        return sorted(path for path in every if path.name.partition(".")[0] not in in_use)


def _parsed(found: dict[str, Any]) -> Noted:
    report = found["report"]
    if report is not None:
        made = [Comparison(**{**c, "level": Level(c["level"])}) for c in report["comparisons"]]
        report = Report(**{**report, "level": Level(report["level"]), "comparisons": made})
    stages = {
        key: {stage: Fingerprint(f["digest"], tuple(f["points"])) for stage, f in each.items()}
        for key, each in found["stages"].items()
    }
    return Noted(
        dict(found["environment"]),
        dict(found["good_environment"]),
        report,
        stages,
        float(found["accepted_at"]),
    )


def _failed(path: Path, error: OSError) -> Exception:
    kind = TransientError if is_passing(error) else ConfigurationError
    return kind(
        f"{path}: {error.strerror or error}; check that EMBED_HOME is mounted and writable, and"
        " that its disk works"
    )
