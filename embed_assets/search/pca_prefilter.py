"""Candidates for an exact search: the parts of the vectors along the library's principal axes.

A scan of whole vectors reads 400 MB at 100,000 rows of 1024, which is what it costs. Along 64 axes
it is a sixteenth, and the best `CANDIDATES` by these are then looked at whole. That is right where
few axes hold most of what tells tracks apart, as they do with trained encoders: it is measured
when the axes are found, and where a true neighbour would come near to being missed, they are
called insufficient.
"""

from __future__ import annotations

import numpy as np

AXES = (64, 256)
"""So many are tried, until the true neighbours are among the candidates."""

CANDIDATES = 1_024
CANDIDATES_EACH = 16
"""Candidates for each neighbour that is asked for, on top."""

MARGIN = 3
"""A true neighbour's place must be so much better than the last candidate's, when measured."""

TRIALS = 64
SAMPLE = 8_192
ROUNDS = 4


class PcaPrefilter:
    """Orthonormal axes, float32 `[dim, k]`, and each vector's part along them, `[n, k]`."""

    def __init__(self, axes: np.ndarray, parts: np.ndarray, *, is_exact_enough: bool) -> None:
        self.axes, self.parts, self.is_exact_enough = axes, parts, is_exact_enough

    @classmethod
    def of(cls, vectors: np.ndarray) -> PcaPrefilter:
        """The axes of float32 `[n, dim]` vectors, from a sample, and whether they suffice."""
        rng = np.random.default_rng(0)
        some = np.sort(rng.choice(len(vectors), min(SAMPLE, len(vectors)), replace=False))
        first = _first_axes(vectors[some], min(AXES[-1], vectors.shape[1]), rng)
        queries = vectors[some[:: -(-len(some) // TRIALS)]]
        for k in AXES:
            axes = np.ascontiguousarray(first[:, :k])
            parts = vectors @ axes
            if _worst_place(queries, vectors, axes, parts) < CANDIDATES / MARGIN:
                return cls(axes, parts, is_exact_enough=True)
        return cls(axes[:, :0], parts[:, :0], is_exact_enough=False)

    def extend(self, vectors: np.ndarray) -> None:
        """Take in the vectors that were appended to those known."""
        known = len(self.parts)
        if known < len(vectors):
            self.parts = np.concatenate([self.parts, vectors[known:] @ self.axes])

    def approximate_scores(self, query: np.ndarray) -> np.ndarray:
        """About the cosines with a float32 `[dim]` query of length 1: float32 `[n]`."""
        return self.parts @ (self.axes.T @ query)


def _first_axes(vectors: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """About the first `n` principal axes, the first first (subspace iteration)."""
    spread = vectors.T @ vectors
    axes = rng.standard_normal((vectors.shape[1], n)).astype(np.float32)
    for _ in range(ROUNDS):
        axes = np.linalg.qr(spread @ axes)[0]
    return axes


def _worst_place(
    queries: np.ndarray, vectors: np.ndarray, axes: np.ndarray, parts: np.ndarray
) -> int:
    """How far down a true neighbour (of ten) comes by the axes alone, at the worst."""
    worst = 0
    exact = queries @ vectors.T
    approximate_scores = (queries @ axes) @ parts.T
    for true, guess in zip(exact, approximate_scores, strict=True):
        best = np.argpartition(true, -10)[-10:]
        worst = max(worst, int((guess > guess[best].min()).sum()))
    return worst
