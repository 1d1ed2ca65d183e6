"""`demo`: the whole job on real sample tracks, in a home of its own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from importlib import resources
from importlib.util import find_spec
from pathlib import Path

from embed_assets.commands.similar import Answer, similar
from embed_assets.commands.sync import SyncResult, sync
from embed_assets.encoders.cards import WITHOUT_DOWNLOAD
from embed_assets.errors import ConfigurationError
from embed_assets.identity import display_path
from embed_assets.project import Project
from embed_assets.reports import embedded_tracks
from embed_assets.settings import Settings

PACKAGE = "immich_memories_music"
LISTS = 3


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
        settle_seconds=0,
        _env_file=None,
    )


def demo(settings: Settings, tell: Callable[[str], None]) -> tuple[SyncResult, list[Answer]]:
    """Copy the sample tracks, bring the index in step, ask it for what sounds like a few of them.

    Raises:
        ConfigurationError: the sample tracks are not installed.
    """
    mine = demo_settings(settings)
    tell(f"copying the sample tracks to {mine.library}")
    copy_samples(Path(mine.library))
    # Runs are processes of their own: they find the demo's settings in the environment.
    os.environ.update(mine.environment())
    for name in ("EMBED_MILVUS_TOKEN", "EMBED_MILVUS_DATABASE"):
        os.environ.pop(name, None)
    result = sync(mine, tell=tell)
    project = Project.of(mine)
    tracks = list(embedded_tracks(project.tables, project.spec().recipe.digest))
    picked = tracks[:: max(1, len(tracks) // LISTS)][:LISTS]
    return result, [similar(project, display_path(t.path), 5) for t in picked]


def copy_samples(target: Path) -> None:
    """Copy the tracks of the package `immich-memories-music` (MIT), a folder a mood.

    Raises:
        ConfigurationError: it is not installed.
    """
    if find_spec(PACKAGE) is None:
        raise ConfigurationError(
            "the sample tracks are not installed: pip install 'embed_assets[demo]', or `make demo`"
        )
    with resources.as_file(resources.files(PACKAGE) / "tracks") as source:
        for track in sorted(source.glob("*/*.opus")):
            copy = target / track.parent.name / track.name
            if not copy.exists():
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(track, copy)
