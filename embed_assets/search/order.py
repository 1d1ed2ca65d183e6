"""The order of neighbours in a snapshot, if it is another one than by cosine.

Only the order differs: the scores that are shown are cosines.
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import Iterable, Sequence

import numpy as np

from embed_assets.identity import CollectionKey
from embed_assets.neighbours.ranking import COSINE, METHODS, SAMPLE, Ranking
from embed_assets.storage.ranking_choice import ranking_choice
from embed_assets.storage.tables import Tables


class Order:
    """Ranks neighbours by a method; measures the tracks when it is first needed.

    Safe for threads. `sample_rows`: rows of the vectors that all tracks are measured against. They
    stay the same while vectors are appended.
    """

    def __init__(self, method: str = COSINE, sample_rows: Sequence[int] = ()) -> None:
        self.method = method
        self.sample_rows = list(sample_rows)
        self._lock = threading.Lock()
        self._ranking: Ranking | None = None
        self._numbers = np.zeros((0, 2), np.float32)

    @property
    def by_cosine(self) -> bool:
        """Whether the order is that of the cosines."""
        return self.method == COSINE

    def of(self, vectors: np.ndarray) -> Ordered:
        """The order of these vectors, float32 `[n, dim]` of length 1."""
        with self._lock:
            if self._ranking is None:
                self._ranking = Ranking(self.method, vectors[self.sample_rows])
            known = len(self._numbers)
            if known < len(vectors):
                new = self._ranking.numbers(vectors[known:])
                self._numbers = np.concatenate([self._numbers, new])
            # A newer snapshot may have measured more.
            return Ordered(self._ranking, self._numbers[: len(vectors)])


class Ordered:
    """Vectors in an order: `numbers`, float32 `[n, 2]`, are those of each vector."""

    def __init__(self, ranking: Ranking, numbers: np.ndarray) -> None:
        self.ranking, self.numbers = ranking, numbers

    def scores(
        self, query: np.ndarray, cosines: np.ndarray, rows: np.ndarray | slice
    ) -> np.ndarray:
        """Values to rank by of some of the vectors, from their cosines with a query: `[rows]`."""
        of_query = self.ranking.numbers(query[None])[0]
        return self.ranking.scores(cosines, of_query, self.numbers[rows])


def chosen_method(tables: Tables, collection_key: CollectionKey) -> str:
    """What neighbours in a collection are ranked by."""
    choice = ranking_choice(tables, collection_key)
    # A later version may have stored a method that this one does not know.
    return choice.method if choice is not None and choice.method in METHODS else COSINE


def note_of(method: str) -> str:
    """For people: why scores need not fall."""
    return f"ranked by {method}, which was chosen for this collection; the scores are cosines"


def sample_of(tracks: Iterable[tuple[str, int]]) -> list[int]:
    """The rows of the sample, from (audio hash, row) of each track.

    Those of the lowest hashes: a random sample, of which little changes when the library does.
    """
    rows = dict(tracks)
    return [rows[audio] for audio in heapq.nsmallest(SAMPLE, rows)]
