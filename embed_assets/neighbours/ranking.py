"""Other orders of neighbours than by cosine: centring, and two corrections for hubs.

In many dimensions some vectors are near to everything, and their tracks turn up in every list
(Radovanovic et al. 2010; Schnitzer et al. 2012). Each method here judges a cosine by how near a
track is to music in general: two numbers a track, measured against a sample of the library.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

COSINE = "cosine"
CENTRED = "centred"
MUTUAL_PROXIMITY = "mutual-proximity"
CSLS = "csls"

METHODS = (COSINE, CENTRED, MUTUAL_PROXIMITY, CSLS)
"""The methods; docs/evaluate.md says what each ranks by."""

SAMPLE = 1_000
"""Tracks of the library that each track is measured against."""

NEAREST = 10
"""Nearest tracks of the sample that CSLS takes the mean of."""

BLOCK = 2_048
"""Vectors that are measured at a time: 16 MiB of cosines with the sample."""

SAME = 1 - 1e-5
"""A cosine from which a vector of the sample is that of the track itself, and does not count."""

LOWEST, HIGHEST, A_DEVIATION = -9.0, 37.0, 1_000
"""Deviations in the table of the normal distribution, and its entries for each."""


@dataclass(frozen=True)
class Ranking:
    """A method, and the vectors of the sample, float32 `[n, dim]` of length 1."""

    method: str
    sample: np.ndarray

    def numbers(self, vectors: np.ndarray) -> np.ndarray:
        """The two numbers of each float32 `[n, dim]` vector of length 1: float32 `[n, 2]`."""
        blocks = [self._numbers(block) for block in _blocks(vectors)]
        return np.concatenate(blocks, dtype=np.float32) if blocks else np.zeros((0, 2), np.float32)

    def scores(self, cosines: np.ndarray, of_query: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """Values to rank by, the nearest first: floats of the shape of `cosines`.

        `cosines`: `[n]` of a query, or `[queries, n]`. `of_query`, `numbers`: the numbers of the
        queries, `[2]` or `[queries, 2]`, and of the tracks, `[n, 2]`. For one track the value
        rises with the cosine; only values of one query can be compared.
        """
        first, second = of_query[..., 0, None], of_query[..., 1, None]
        if self.method == CENTRED:
            return (cosines - first - numbers[:, 0]) / (second * numbers[:, 1])
        if self.method == MUTUAL_PROXIMITY:
            mine = _share_above((cosines - first) / second)
            theirs = _share_above((cosines - numbers[:, 0]) / numbers[:, 1])
            return -np.log(mine + theirs - mine * theirs)
        if self.method == CSLS:
            return 2.0 * cosines - first - numbers[:, 0]
        return cosines

    def _numbers(self, vectors: np.ndarray) -> np.ndarray:
        if self.method == COSINE or not len(self.sample):
            return np.tile([0.0, 1.0], (len(vectors), 1))
        if self.method == CENTRED:
            centre = self.sample.mean(axis=0, dtype=np.float64)
            along, length = vectors @ centre, float(centre @ centre)
            # The length is split between both tracks, so that the cosine is theirs after centring.
            return np.stack([along - length / 2, _roots(1 - 2 * along + length)], axis=1)
        cosines = (vectors @ self.sample.T).astype(np.float64)
        others = cosines < SAME
        if self.method == CSLS:
            cosines[~others] = -1.0
            kept = min(NEAREST, cosines.shape[1])
            nearest = np.partition(cosines, -kept, axis=1)[:, -kept:].mean(axis=1)
            return np.stack([nearest, np.ones(len(vectors))], axis=1)
        count = np.maximum(others.sum(axis=1), 1)
        mean = (cosines * others).sum(axis=1) / count
        square = (cosines**2 * others).sum(axis=1) / count
        return np.stack([mean, _roots(square - mean**2)], axis=1)


BY_COSINE = Ranking(COSINE, np.zeros((0, 1), np.float32))


def _blocks(vectors: np.ndarray) -> Iterator[np.ndarray]:
    for begin in range(0, len(vectors), BLOCK):
        yield vectors[begin : begin + BLOCK]


def _roots(squares: np.ndarray) -> np.ndarray:
    """Square roots; what is 0 but for rounding is a small number, since it is divided by."""
    return np.sqrt(np.maximum(squares, 1e-8))


def _share_above(deviations: np.ndarray) -> np.ndarray:
    """Share of a normal distribution above these deviations, to a hundred-thousandth of itself.

    From a table: near neighbours are so far up that 1 minus the share below would be 0 for all of
    them, and scipy, which can do it, takes .4 s to import.
    """
    shares, steps = _table()
    place = np.clip((deviations.astype(np.float64) - LOWEST) * A_DEVIATION, 0, len(steps) - 1)
    entry = place.astype(np.int32)
    return shares[entry] + (place - entry) * steps[entry]


@functools.lru_cache(maxsize=1)
def _table() -> tuple[np.ndarray, np.ndarray]:
    """The shares above `LOWEST`, and so on up to `HIGHEST`, and the step from each to the next."""
    count = int((HIGHEST - LOWEST) * A_DEVIATION) + 1
    every = (LOWEST + i / A_DEVIATION for i in range(count))
    shares = np.array([math.erfc(x / math.sqrt(2)) / 2 for x in every])
    return shares, np.append(np.diff(shares), 0.0)
