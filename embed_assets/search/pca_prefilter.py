"""PCA prefilter: finds candidates for an exact search along the principal axes of the vectors.

A scan of 100,000 vectors of 1024 dimensions reads 400 MB, which takes most of its time. A scan of
64 axes reads a sixteenth of that; then only the `CANDIDATES` best are compared in full. This is
exact enough if a few axes hold most of the variance, as with trained encoders. It is measured when
the axes are computed: if a true neighbour would nearly be missed, they are not used.
"""

from __future__ import annotations

import numpy as np

from embed_assets.search.order import Ordered

AXES = (64, 256)
"""Numbers of axes that are tried in turn, until the candidates contain the true neighbours."""

CANDIDATES = 1_024
CANDIDATES_EACH = 16
"""Additional candidates per requested neighbour."""

MARGIN = 3
"""Safety factor: true neighbours must rank this many times better than the last candidate."""

TRIALS = 64
SAMPLE = 8_192
ROUNDS = 4

EVERY = 16
"""One of so many scores is in the sample that says how high the best ones are."""


class PcaPrefilter:
    """Orthonormal axes, float32 `[dim, k]`, and the coordinates of each vector, `[k, n]`."""

    def __init__(self, axes: np.ndarray, parts: np.ndarray, *, is_exact_enough: bool) -> None:
        self.axes, self.parts, self.is_exact_enough = axes, parts, is_exact_enough

    @classmethod
    def of(cls, vectors: np.ndarray, order: Ordered | None = None) -> PcaPrefilter:
        """Axes of float32 `[n, dim]` vectors, from a sample, and whether they are exact enough.

        `order`: in which neighbours are ranked; None: by cosine.
        """
        rng = np.random.default_rng(0)
        some = np.sort(rng.choice(len(vectors), min(SAMPLE, len(vectors)), replace=False))
        first = _first_axes(vectors[some], min(AXES[-1], vectors.shape[1]), rng)
        queries = vectors[some[:: -(-len(some) // TRIALS)]]
        for k in AXES:
            axes = np.ascontiguousarray(first[:, :k])
            parts = _coordinates(axes, vectors)
            if _worst_place(queries, vectors, axes, parts, order) < CANDIDATES / MARGIN:
                return cls(axes, parts, is_exact_enough=True)
        return cls(axes[:, :0], parts[:0], is_exact_enough=False)

    def extend(self, vectors: np.ndarray) -> None:
        """Add vectors that were appended."""
        known = self.parts.shape[1]
        if known < len(vectors):
            new = _coordinates(self.axes, vectors[known:])
            self.parts = np.concatenate([self.parts, new], axis=1)

    def approximate_cosines(self, query: np.ndarray) -> np.ndarray:
        """Approximate cosines with a float32 `[dim]` query of length 1: float32 `[n]`."""
        return (query @ self.axes) @ self.parts


def _coordinates(axes: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """`[k, n]`: in this order BLAS reads them a fourth faster than as rows."""
    return axes.T @ vectors.T


def highest(scores: np.ndarray, count: int) -> np.ndarray:
    """Positions of the `count` highest scores and perhaps of some more, in no order."""
    sample = scores[::EVERY]
    place = 3 * count // (2 * EVERY)
    if 0 < place < len(sample):
        # All scores above that one are found without a partition of all scores.
        found = np.flatnonzero(scores >= np.partition(sample, -place)[-place])
        if count <= len(found) <= 4 * count:
            return found
    return np.argpartition(scores, -count)[-count:]


def _first_axes(vectors: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """The first `n` principal axes, approximately, in order (subspace iteration)."""
    spread = vectors.T @ vectors
    axes = rng.standard_normal((vectors.shape[1], n)).astype(np.float32)
    for _ in range(ROUNDS):
        axes = np.linalg.qr(spread @ axes)[0]
    return axes


def _worst_place(
    queries: np.ndarray,
    vectors: np.ndarray,
    axes: np.ndarray,
    parts: np.ndarray,
    order: Ordered | None,
) -> int:
    """The worst rank of a true neighbour (of ten) in the approximate scores."""
    worst = 0
    every = slice(None)
    for query in queries:
        true, guess = vectors @ query, (query @ axes) @ parts
        if order is not None:
            true, guess = (order.scores(query, x, every) for x in (true, guess))
        best = np.argpartition(true, -10)[-10:]
        worst = max(worst, int((guess > guess[best].min()).sum()))
    return worst
