"""Checks before the first run, so that it fails early; downloads the weights."""

from __future__ import annotations

from collections.abc import Callable

from embed_assets import encoders
from embed_assets.errors import ConfigurationError, TransientError
from embed_assets.library.walk import require_library
from embed_assets.project import fitted, vectors_of
from embed_assets.settings import Settings

WITHOUT_WORDS = "nothing is embedded for `find`, searches by sound go on"


def ready(
    settings: Settings, progress: Callable[[str], None], *, may_be_empty: bool = False
) -> Settings:
    """Check library, device and weights; returns the settings adapted to this machine.

    `may_be_empty`: the deletion of all music is confirmed.

    If only the weights for `find` cannot be had, `progress` gets the reason.

    Raises:
        LibraryUnavailable: the library is not there.
        ConfigurationError: device, windows or weights cannot work as configured.
        TransientError: the disk is full.
    """
    require_library(settings.library, may_be_empty=may_be_empty)
    if settings.unused_model:
        progress(settings.unused_model)
    vectors = vectors_of(settings)
    for one in vectors.encoders():
        encoders.require_device(one.name, one.device)
    vectors.tracks.require_window(settings.window_seconds)
    settings = fitted(settings)
    for one in vectors.encoders():
        try:
            with vectors.settings_named(one):
                encoders.fetch(one.name, one.model, one.cache, progress)
                one.require()
        except (ConfigurationError, TransientError) as error:
            if one == vectors.tracks:
                raise
            progress(f"{WITHOUT_WORDS}: {error}")
    return settings
