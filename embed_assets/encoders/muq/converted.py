"""Conversions of MuQ on disk: a folder each, whole or not there, with how its engines fared.

A folder `<cache>/openvino/<name>` holds a model for OpenVINO, the torch module's vectors of the
check audio, a manifest with sizes and checksums, and a verdict for each (OpenVINO, device, dtype)
that was checked on this machine.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import time
import uuid
import zlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embed_assets.identity import digest

MODEL = "model.xml"
REFERENCE = "reference.npy"
GRAPH = (MODEL, "model.bin")

MAKING_SECONDS = 3600.0
"""Longer than any conversion takes."""


@dataclass(frozen=True)
class ConvertedModelCache:
    """A folder of this kind, whether it is there or not.

    `files`: what is in it. `mapped`: more files, of which little is read: of these only the size is
    checked.
    """

    folder: Path
    files: tuple[str, ...] = (*GRAPH, REFERENCE)
    mapped: tuple[str, ...] = ()

    @property
    def _every(self) -> tuple[str, ...]:
        return (*self.files, *self.mapped)

    @property
    def model(self) -> Path:
        """The converted model, with `model.bin` beside it."""
        return self.folder / MODEL

    @property
    def weights(self) -> Path:
        """The weights of the converted model."""
        return self.folder / GRAPH[1]

    @property
    def reference(self) -> Path:
        """Vectors of the check audio by torch's module in float32: float32 [n, 3, dim]."""
        return self.folder / REFERENCE

    def is_whole(self) -> bool:
        """Whether all files are there, unharmed: each is read through, unless it is mapped."""
        try:
            manifest = json.loads((self.folder / "manifest.json").read_bytes())
            if any((self.folder / n).stat().st_size != manifest[n][0] for n in self.mapped):
                return False
            files = [(self.folder / name, *manifest[name]) for name in self.files]
            return all(p.stat().st_size == size and crc(p) == value for p, size, value in files)
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def fingerprint(self) -> str | None:
        """What tells its weights from others, ranges of activations included; None: not there."""
        try:
            size, value = json.loads((self.folder / "manifest.json").read_bytes())["model.bin"]
            return f"{size:x}-{value:08x}"
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def ensure(self, make: Callable[[Path], None]) -> None:
        """Have it there and whole: `make` writes the files into a folder of its own if need be.

        Other processes wait meanwhile, and find it made. Raises OSError.
        """
        if self.is_whole():
            return
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with self.locked():
            if not self.is_whole():
                self._make(make)

    def locked(self) -> Any:
        """A lock among processes, which the kernel takes back from one that dies."""
        from filelock import FileLock

        return FileLock(self.folder.with_name(f"{self.folder.name}.lock"))

    def cosine(self, what: dict[str, str], measure: Callable[[], float]) -> float:
        """The verdict on the engine that `what` tells apart from others, measured at most once."""
        if (known := self.known_cosine(what)) is not None:
            return known
        with self.locked():
            if (known := self.known_cosine(what)) is not None:
                return known
            cosine = measure()
            verdict = self._verdict(what)
            making = verdict.with_suffix(f".{uuid.uuid4().hex}.tmp")
            making.write_text(json.dumps(what | {"cosine": cosine}))
            making.replace(verdict)
            return cosine

    def known_cosine(self, what: dict[str, str]) -> float | None:
        """The verdict if it is there."""
        return _read_cosine(self._verdict(what))

    def has_verdict(self, dtype: str) -> bool:
        """Whether there is a verdict on any engine that computes in this type."""
        for file in self.folder.glob("check-*.json"):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                if json.loads(file.read_text())["dtype"] == dtype:
                    return True
        return False

    def _verdict(self, what: dict[str, str]) -> Path:
        return self.folder / f"check-{digest(*what.values(), size=8)}.json"

    def _make(self, make: Callable[[Path], None]) -> None:
        folder = self.folder
        for old in folder.parent.glob(f".{folder.name}.*.tmp"):
            shutil.rmtree(old, ignore_errors=True)
        making = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.tmp")
        try:
            making.mkdir()
            make(making)
            files = {n: [(making / n).stat().st_size, crc(making / n)] for n in self._every}
            (making / "manifest.json").write_text(json.dumps(files))
            for name in (*self._every, "manifest.json"):
                with open(making / name, "rb") as file:
                    os.fsync(file.fileno())
            if folder.is_symlink() or folder.is_file():
                folder.unlink()
            shutil.rmtree(folder, ignore_errors=True)
            making.rename(folder)
        finally:
            shutil.rmtree(making, ignore_errors=True)


def unused_in(folder: Path, needed: Collection[str]) -> list[Path]:
    """Folders of conversions in `folder` whose names are not needed; not what is just made."""
    found = []
    for one in folder.glob("*/"):
        making = one.name[0] == "." and time.time() - one.stat().st_mtime < MAKING_SECONDS
        if one.name not in needed and not making:
            found.append(one)
    return sorted(found)


def crc(path: Path) -> int:
    """Checksum of a file, read through."""
    value = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            value = zlib.crc32(block, value)
    return value


def _read_cosine(verdict: Path) -> float | None:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        cosine = float(json.loads(verdict.read_bytes())["cosine"])
        return cosine if math.isfinite(cosine) else None
    return None
