"""A borrowed machine: embeds into shards, without the packages that it does not need."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import embed_assets
from embed_assets.settings import Settings
from embed_assets.storage.folder_store import FolderStore
from embed_assets.storage.shard_file import Contents, open_shard, write_shard
from embed_assets_tests import privileges
from embed_assets_tests.patience import PATIENCE

NOT_NEEDED = {
    "anyascii": "anyascii",
    "dagster": "dagster",
    "dagster-webserver": "dagster_webserver",
    "faiss-cpu": "faiss",
    "fastapi": "fastapi",
    "httpx": "httpx",
    "milvus-lite": "milvus_lite",
    "pandas": "pandas",
    "pillow": "PIL",
    "prometheus-client": "prometheus_client",
    "psutil": "psutil",
    "pymilvus": "pymilvus",
    "scikit-learn": "sklearn",
    "uvicorn": "uvicorn",
}
"""Dependencies that docs/shards.md leaves out, and what they are imported as."""


@dataclass(frozen=True)
class Borrowed:
    """A machine with a mounted library and an empty EMBED_HOME."""

    root: Path
    library: Path

    @property
    def shards(self) -> Path:
        return self.root / "shards"

    @property
    def home(self) -> Path:
        return self.root / "home"

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start `embed --into` with these arguments."""
        command = [sys.executable, "-m", "embed_assets.cli", "embed", "--into", str(self.shards)]
        return subprocess.Popen(
            [sys.executable, "-SE", privileges.__file__, *command, *arguments],
            env=self._environment(),
            cwd=self.root,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def embed(self, *arguments: str, code: int = 0) -> str:
        """Run `embed --into` to its end; returns what it prints on stdout."""
        process = self.start(*arguments)
        printed, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == code, errors
        return printed

    def _environment(self) -> dict[str, str]:
        missing = self.root / "missing"
        for name in NOT_NEEDED.values():
            module = missing / name / "__init__.py"
            module.parent.mkdir(parents=True, exist_ok=True)
            module.write_text(f"raise ImportError('{name} is not on this machine')\n")
        outside = {k: v for k, v in os.environ.items() if not k.startswith(("EMBED_", "DAGSTER_"))}
        package = Path(embed_assets.__file__).parent.parent
        return outside | {
            "PYTHONPATH": f"{missing}{os.pathsep}{package}",
            "EMBED_LIBRARY": str(self.library),
            "EMBED_HOME": str(self.home),
            "EMBED_ENCODER": "acoustic",
        }


def settings_at(root: Path, library: Path | None = None, **changes: Any) -> Settings:
    """The settings of a home with the same encoder."""
    return Settings(
        _env_file=None, library=library, home=root / "home", encoder="acoustic", **changes
    )


def remade(shard: Path, folder: Path, *, turn: bool = False, **changes: Any) -> Path:
    """A copy of a shard with other contents, and right checksums; `turn`: with other vectors."""
    folder.mkdir(parents=True, exist_ok=True)
    store = FolderStore(folder / "vectors")

    def turned(windows: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(windows[:, :, ::-1]) if turn else windows

    with open_shard(shard) as opened:
        there = opened.manifest
        for track in there.tracks:
            store.write(there.recipe_digest, track.audio, turned(opened.read(track)))
        contents = Contents(
            recipe=there.recipe,
            origin=there.origin,
            rows=[
                row.row(there.recipe_digest, "", 2e9) for row in (*there.tracks, *there.rejected)
            ],
            durations={track.audio: track.duration for track in there.tracks},
            clips={clip.name: turned(opened.read_clip(clip)) for clip in there.clips},
            store=store,
        )
    path, _ = write_shard(folder, replace(contents, **changes))
    return path
