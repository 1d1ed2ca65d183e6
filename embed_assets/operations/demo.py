"""`demo`: indexes real sample tracks in a separate EMBED_HOME."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib import resources
from importlib.util import find_spec
from pathlib import Path

from embed_assets.encoders.cards import WITHOUT_DOWNLOAD
from embed_assets.errors import ConfigurationError, is_passing
from embed_assets.formats import to_install
from embed_assets.operations.sync import SyncResult, sync
from embed_assets.settings import Settings

PACKAGE = "immich_memories_music"


def demo_settings(settings: Settings) -> Settings:
    """The settings of the demo: sample music and a home below EMBED_HOME, no download, Lite."""
    home = settings.home / "demo"
    return Settings(
        library=home / "music",
        home=home,
        encoder=WITHOUT_DOWNLOAD.name,
        device="auto",
        milvus_uri=str(home / "milvus.db"),
        milvus_token="",
        milvus_database="",
        tables="",
        settle_seconds=0,
        _env_file=None,
    )


def demo(settings: Settings, progress: Callable[[str], None]) -> SyncResult:
    """Copy the sample tracks and index them; `settings`: those of the demo.

    Raises:
        ConfigurationError: the sample tracks are not installed, or EMBED_HOME cannot be written.
    """
    progress(f"copying the sample tracks to {settings.library}")
    copy_samples(Path(settings.library or ""))
    return sync(settings, progress=progress)


def copy_samples(target: Path) -> None:
    """Copy the tracks of the package `immich-memories-music` (MIT), one folder per mood.

    Raises:
        ConfigurationError: the package is not installed, or the folder cannot be written.
    """
    if find_spec(PACKAGE) is None:
        raise ConfigurationError(
            f"the sample tracks are not installed: {to_install('demo')}, or `make demo`"
        )
    try:
        _copy(target)
    except OSError as e:
        if is_passing(e):
            raise
        raise ConfigurationError(
            f"the sample tracks cannot be copied: {e.strerror}: {e.filename}; make EMBED_HOME"
            " writable or name another folder"
        ) from e


def _copy(target: Path) -> None:
    with resources.as_file(resources.files(PACKAGE) / "tracks") as source:
        for track in sorted(source.glob("*/*.opus")):
            copy = target / track.parent.name / track.name
            if not copy.exists():
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(track, copy)
