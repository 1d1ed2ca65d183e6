"""What neighbours in a collection are ranked by, if another order than by cosine was chosen."""

from __future__ import annotations

import time
from dataclasses import dataclass

from embed_assets.identity import CollectionKey
from embed_assets.storage.database import replace_row
from embed_assets.storage.tables import Tables


@dataclass(frozen=True)
class RankingChoice:
    """A method of `neighbours.ranking.METHODS`, when it was chosen, and why, in words."""

    method: str
    at: float
    why: str


def ranking_choice(tables: Tables, collection_key: CollectionKey) -> RankingChoice | None:
    """What was chosen for a collection; None if nothing was."""
    with tables.connect() as db:
        row = db.execute(
            "SELECT method, at, why FROM rankings WHERE collection_key = ?", (collection_key,)
        ).fetchone()
    return RankingChoice(*row) if row else None


def choose_ranking(tables: Tables, collection_key: CollectionKey, method: str, why: str) -> None:
    """Rank neighbours in a collection by a method from now on."""
    with tables.transaction() as db:
        db.execute(
            replace_row(
                "rankings", ("collection_key", "method", "at", "why"), key=("collection_key",)
            ),
            (collection_key, method, time.time(), why),
        )
        tables.database.note_change(db)
