"""Downloads the weights on a machine that runs neither `up` nor `sync`."""

from __future__ import annotations

from collections.abc import Callable

from embed_assets import encoders
from embed_assets.project import vectors_of
from embed_assets.settings import Settings


def download(settings: Settings, progress: Callable[[str], None]) -> list[encoders.EncoderInfo]:
    """Download the weights that the settings name if they are missing; returns their encoders.

    Needs neither the library nor the device: a machine that only does runs of others, and a volume
    that containers share, get the weights so.

    Raises:
        ConfigurationError: the weights cannot be had or used; names the setting.
        TransientError: the disk is full.
    """
    vectors = vectors_of(settings)
    found = []
    for one in vectors.encoders():
        with vectors.settings_named(one):
            encoders.fetch(one.name, one.model, one.cache, progress)
            found.append(encoders.describe(one.name, one.model, one.cache))
    return found
