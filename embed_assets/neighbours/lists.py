"""The ten nearest tracks of each track, exactly, in tiles of bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from embed_assets.neighbours.ranking import Ranking

NEAREST = 10
"""Neighbours of a track that are looked at."""

QUERIES, COLUMNS = 1_024, 4_096
"""Size of a tile: 16 MiB of cosines, and a few times as much while they are ranked."""

FIRST_COLUMNS = 256
"""Columns of the first tile, of which every score is a candidate for the lists."""


@dataclass(frozen=True)
class Vectors:
    """Vectors that are read in blocks: rows of a float32 `[N, dim]` array, which may be a file."""

    array: np.ndarray
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, kept: np.ndarray | slice) -> np.ndarray:
        """Some of the vectors, float32 `[n, dim]`."""
        return self.array[self.rows[kept]]

    def only(self, kept: np.ndarray) -> Vectors:
        """Some of the vectors, without reading them."""
        return Vectors(self.array, self.rows[kept])


def nearest_lists(
    vectors: Vectors,
    asked: np.ndarray,
    left_out: Mapping[str, np.ndarray],
    ranking: Ranking,
) -> dict[str, np.ndarray]:
    """For each name in `left_out` the nearest tracks of those asked: int `[asked, NEAREST]`.

    `asked`: positions. `left_out`: int `[n]` labels; a track with the label of the query is not in
    its list, and neither is the query itself. The nearest is first. Where fewer are left, -1
    follows.
    """
    numbers = np.concatenate(
        [ranking.numbers(vectors.take(columns)) for columns in _columns(len(vectors))]
    )
    found = {name: np.full((len(asked), NEAREST), -1) for name in left_out}
    for begin in range(0, len(asked), QUERIES):
        some = slice(begin, begin + QUERIES)
        for name, nearest in _nearest(vectors, asked[some], left_out, ranking, numbers).items():
            found[name][some] = nearest
    return found


def _nearest(
    vectors: Vectors,
    asked: np.ndarray,
    left_out: Mapping[str, np.ndarray],
    ranking: Ranking,
    numbers: np.ndarray,
) -> dict[str, np.ndarray]:
    queries = vectors.take(asked)
    best = {name: np.full((len(asked), NEAREST), -np.inf, np.float32) for name in left_out}
    where = {name: np.full((len(asked), NEAREST), -1) for name in left_out}
    for columns in _columns(len(vectors)):
        cosines = queries @ vectors.take(columns).T
        scores = ranking.scores(cosines, numbers[asked], numbers[columns])
        # What is no better than the last place of any list need not be looked at.
        least = np.min([b[:, -1] for b in best.values()], axis=0)
        row, column = np.nonzero(scores > least[:, None])
        position, score = columns.start + column, scores[row, column]
        other = position != asked[row]
        for name, labels in left_out.items():
            kept = other & (labels[position] != labels[asked[row]]) & (score > best[name][row, -1])
            _merge(best[name], where[name], row[kept], position[kept], score[kept])
    return where


def _merge(
    best: np.ndarray, where: np.ndarray, row: np.ndarray, position: np.ndarray, score: np.ndarray
) -> None:
    """Put candidates into the lists `[rows, NEAREST]`, which stay in order."""
    n = len(best)
    rows = np.concatenate([np.repeat(np.arange(n), NEAREST), row])
    scores = np.concatenate([best.ravel(), score])
    positions = np.concatenate([where.ravel(), position])
    order = np.lexsort((-scores, rows))
    first = np.searchsorted(rows[order], np.arange(n))
    kept = order[first[:, None] + np.arange(NEAREST)]
    best[:], where[:] = scores[kept], positions[kept]


def _columns(n: int) -> Iterator[slice]:
    begin, width = 0, FIRST_COLUMNS
    while begin < n:
        yield slice(begin, min(begin + width, n))
        begin, width = begin + width, COLUMNS
