"""Settings of scans and of the runs that they request."""

from __future__ import annotations

import json

from pydantic import Field, field_validator

from embed_assets.settings.area import Area

_TAGS_OF_DAGSTER = ("dagster/partition", "dagster/asset_partition", "dagster/backfill")
"""How tags begin that say what a run is to do; with another value it fails."""


class RunSettings(Area):
    """When the library is scanned, and what a run is."""

    scan_seconds: int = Field(
        5, ge=1, le=86_400, description="Seconds between two scans of the library."
    )
    settle_seconds: float = Field(
        5.0,
        ge=0.0,
        le=86_400.0,
        allow_inf_nan=False,
        description="Seconds that a folder must stay unchanged before it is processed.",
    )
    folders_per_run: int = Field(
        64,
        ge=1,
        le=10_000,
        description="Most folders in a run. Runs of an import also end after ten minutes of work."
        " On a GPU the default is 1024.",
    )
    run_tags: str = Field(
        "",
        description="Tags of the runs that embed, as a JSON object. With several machines they say"
        " what such a run needs of one, e.g. `dagster-k8s/config` or `dagster-ray/config`"
        " (docs/cluster.md).",
    )

    @field_validator("run_tags")
    @classmethod
    def _a_json_object(cls, value: str) -> str:
        try:
            tags = json.loads(value or "{}")
        except (ValueError, RecursionError) as e:
            raise ValueError(f"is not JSON: {e}") from None
        if not isinstance(tags, dict):
            raise ValueError('must be a JSON object: {"name of a tag": its value}')
        if not all(name.strip() for name in tags):
            raise ValueError("a tag in the JSON has an empty name: leave it out")
        if refused := [name for name in tags if name.startswith(_TAGS_OF_DAGSTER)]:
            raise ValueError(f"Dagster sets the tag {refused[0]!r} itself: leave it out")
        return value

    @property
    def tags_of_runs(self) -> dict[str, str]:
        """EMBED_RUN_TAGS as Dagster keeps tags: a value that is no text is JSON."""
        tags = json.loads(self.run_tags or "{}")
        return {k: v if isinstance(v, str) else json.dumps(v) for k, v in tags.items()}
