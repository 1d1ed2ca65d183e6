"""Means, confidence intervals and differences of what was measured, as they are shown."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from embed_assets.neighbours.lists import NEAREST
from embed_assets.neighbours.measure import Measured

DRAWS = 1_000
"""Bootstrap samples of a confidence interval."""

DRAWS_AT_ONCE = 50

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Relation:
    """How often neighbours have a relation of tags."""

    relation: str
    """What they have in common, e.g. `same artist, another album`."""
    precision: float | None
    """Mean share of a track's ten nearest that have it (P@10); null: no track has such another."""
    low: float | None
    """Lower end of its 95 % confidence interval, by drawing artists."""
    high: float | None
    """Upper end."""
    chance: float | None
    """The expected share of ten random tracks."""
    possible: float | None
    """The highest mean share that there can be, as some artists and albums have few tracks."""
    tracks: int
    """Number of tracks that it was measured for."""
    artists: int
    """Number of their artists."""


@dataclass(frozen=True)
class Hubs:
    """How evenly tracks occur in the lists of the ten nearest."""

    skewness: float | None
    """Skewness of the number of lists that a track is in; 0: even, above 1: some are everywhere."""
    orphans: float | None
    """Share of tracks that are in no list; null for a sample."""
    top_percent: float | None
    """Share of all places that the most frequent 1 % of the tracks hold; null for a sample."""
    most: int | None
    """Number of lists that the most frequent track is in; null for a sample."""


@dataclass(frozen=True)
class Difference:
    """By how much the ten nearest are better than others, for the same tracks."""

    relation: str
    """As in `relations`."""
    difference: float
    """Difference of the mean shares; above 0: better."""
    low: float
    """Lower end of its 95 % confidence interval, by drawing artists."""
    high: float
    """Upper end."""


@dataclass(frozen=True)
class Mean:
    """A mean and its confidence interval, over `values` of `groups`; None if there are none."""

    value: float | None
    low: float | None
    high: float | None
    values: int
    groups: int


def relations_of(measured: Measured) -> tuple[Relation, ...]:
    """The figures of each relation."""
    found = []
    for name, one in measured.relations.items():
        mean = mean_of(one.measured, measured.group)
        chance, possible = (_mean(x) for x in (one.chance, one.possible))
        found.append(
            Relation(
                name, mean.value, mean.low, mean.high, chance, possible, mean.values, mean.groups
            )
        )
    return tuple(found)


def differences(measured: Measured, other: Measured) -> tuple[Difference, ...]:
    """By how much the first is better, for each relation that both have of the same tracks."""
    found = []
    for name, one in measured.relations.items():
        mean = mean_of(one.measured - other.relations[name].measured, measured.group)
        if mean.value is not None and mean.low is not None and mean.high is not None:
            found.append(Difference(name, mean.value, mean.low, mean.high))
    return tuple(found)


def hubs_of(measured: Measured) -> Hubs:
    """How evenly tracks occur in lists of ten, if all tracks were asked.

    Of a sample only the skewness can be told: the factorial moments of counts shrink by known
    factors, whatever the counts are.
    """
    counts = measured.occurrences.astype(np.float64)
    n, asked = len(counts), len(measured.asked)
    skewness = _skewness(counts, n, asked)
    if asked < n or n < 2:
        return Hubs(skewness, None, None, None)
    most = np.sort(counts)[::-1]
    places = max(counts.sum(), 1.0)
    top = most[: max(1, round(n / 100))].sum() / places
    return Hubs(skewness, round(float((counts == 0).mean()), 4), round(float(top), 4), int(most[0]))


def mean_of(values: np.ndarray, groups: np.ndarray) -> Mean:
    """The mean of the values that are not NaN, and a percentile bootstrap over whole groups.

    The same groups are drawn each time. With a single group there is no interval: its ends are 0
    and 1, or -1 and 1 if a value is negative.
    """
    kept = ~np.isnan(values)
    if not kept.any():
        return Mean(None, None, None, 0, 0)
    values = values[kept]
    _, codes = np.unique(groups[kept], return_inverse=True)
    sizes = np.bincount(codes).astype(np.float64)
    sums = np.bincount(codes, weights=values)
    n = len(sizes)
    value = round(float(values.mean()), 4)
    if n < 2:
        return Mean(value, -1.0 if values.min() < 0 else 0.0, 1.0, len(values), n)
    rng = np.random.default_rng(0)
    means: list[np.ndarray] = []
    for _ in range(0, DRAWS, DRAWS_AT_ONCE):
        drawn = rng.integers(0, n, (DRAWS_AT_ONCE, n))
        means.append(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))
    outside = (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.concatenate(means), (outside, 1 - outside))
    return Mean(value, round(float(low), 4), round(float(high), 4), len(values), n)


def _mean(values: np.ndarray) -> float | None:
    kept = values[~np.isnan(values)]
    return round(float(kept.mean()), 4) if len(kept) else None


def _skewness(counts: np.ndarray, n: int, asked: int) -> float | None:
    """Skewness of the counts if all `n` tracks had been asked, from those of `asked` ones."""
    if n < NEAREST or asked < 3:
        return None
    moments, scale = [], 1.0
    falling = np.ones(n)
    for i in range(3):
        falling = falling * (counts - i)
        scale *= (n - i) / (asked - i)
        moments.append(float(falling.mean()) * scale)
    first, second, third = moments
    square, cube = second + first, third + 3 * second + first
    variance = square - first**2
    if variance < 1e-9:
        return 0.0
    central = cube - 3 * first * square + 2 * first**3
    return round(central / variance**1.5, 3)
