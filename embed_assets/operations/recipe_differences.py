"""Says which settings differ between two machines that should make the same vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from embed_assets.identity import Recipe

_SETTINGS = {
    "encoder": "EMBED_ENCODER",
    "weights": "weights (EMBED_MODEL)",
    "window_seconds": "EMBED_WINDOW_SECONDS",
    "windows": "EMBED_WINDOWS",
}


def recipe_differences(there: Recipe, wanted: Sequence[Recipe]) -> str:
    """What differs, with both values; e.g. `EMBED_WINDOWS: 5 there, 3 here`.

    `wanted`: the recipes of this machine, the tracks' first; compared is the one of the same
    encoder. If there is none, only the encoders are named: the rest follows from them.
    """
    here = next((recipe for recipe in wanted if recipe.encoder == there.encoder), wanted[0])
    names = [field.name for field in fields(Recipe)]
    both = [(name, getattr(there, name), getattr(here, name)) for name in names]
    differing = [(n, a, b) for n, a, b in both if a != b]
    if there.encoder != here.encoder:
        differing = [d for d in differing if d[0] in ("encoder", "window_seconds", "windows")]
    elif any(name in _SETTINGS for name, _, _ in differing):
        differing = [d for d in differing if d[0] in _SETTINGS]
    return "; ".join(f"{_named(n)}: {_shown(a)} there, {_shown(b)} here" for n, a, b in differing)


def _named(field: str) -> str:
    return _SETTINGS.get(field, f"{field} (another version of embed_assets)")


def _shown(value: object) -> str:
    """A value for a message; digests are long."""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return f"{text[:16]}..." if len(text) > 32 else text
