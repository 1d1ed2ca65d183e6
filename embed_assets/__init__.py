"""Keeps a Milvus vector index in step with a music library.

From Python:

    import embed_assets as ea

    library = ea.open()
    library.similar("nina simone sinnerman", n=10, where="genre=jazz year=1955..1965")

The way in for a reader is `embed_assets.definitions`: the whole project on one page.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embed_assets.api import Library, Snapshot
    from embed_assets.api import open_library as open  # noqa: A004  # `embed_assets.open`, as `gzip.open`
    from embed_assets.errors import (
        ConfigurationError,
        EmbedAssetsError,
        LibraryUnavailable,
        NotFound,
        TrackRejected,
        TransientError,
    )
    from embed_assets.index.nearest import Match
    from embed_assets.search.answers import Query, Result
    from embed_assets.search.duplicates import DuplicateGroup
    from embed_assets.search.evaluation import Evaluation
    from embed_assets.search.filters import Condition
    from embed_assets.search.segments import Part

__all__ = [
    "Condition",
    "ConfigurationError",
    "DuplicateGroup",
    "EmbedAssetsError",
    "Evaluation",
    "Library",
    "LibraryUnavailable",
    "Match",
    "NotFound",
    "Part",
    "Query",
    "Result",
    "Snapshot",
    "TrackRejected",
    "TransientError",
    "open",
]

_MODULES = {
    "embed_assets.api": ("Library", "Snapshot", "open"),
    "embed_assets.errors": (
        "ConfigurationError",
        "EmbedAssetsError",
        "LibraryUnavailable",
        "NotFound",
        "TrackRejected",
        "TransientError",
    ),
    "embed_assets.search.duplicates": ("DuplicateGroup",),
    "embed_assets.search.evaluation": ("Evaluation",),
    "embed_assets.search.filters": ("Condition",),
    "embed_assets.search.segments": ("Part",),
    "embed_assets.index.nearest": ("Match",),
    "embed_assets.search.answers": ("Query", "Result"),
}


def __getattr__(name: str) -> Any:
    """A public name, imported when it is first used: Dagster's processes need none of them."""
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(module), "open_library" if name == "open" else name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
