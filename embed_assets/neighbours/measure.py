"""How good neighbours are, measured on tags and without them, a value for each track.

`figures.py` makes means and confidence intervals of these values.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from embed_assets.neighbours.labels import UNKNOWN, Labels
from embed_assets.neighbours.lists import NEAREST, QUERIES, Vectors, nearest_lists
from embed_assets.neighbours.ranking import Ranking

OTHER_ALBUM = "same artist, another album"
SAME_ALBUM = "same album"
SAME_GENRE = "same genre, another artist"

TIE = 1e-5
"""Cosines that differ by less are equal."""


@dataclass(frozen=True)
class Precision:
    """A relation: which share of the ten nearest of each asked track has it; float64 `[asked]`.

    NaN for tracks without a tag, or without another track that has the relation. `chance`: the
    expected share of ten random tracks, exactly. `possible`: the highest share that there can be.
    """

    measured: np.ndarray
    chance: np.ndarray
    possible: np.ndarray


@dataclass(frozen=True)
class Measured:
    """What was measured of each asked track. `asked`: positions; `group`: int, as in `Labels`.

    `occurrences`: int `[tracks]`, in how many of the asked tracks' ten nearest each track is.
    """

    asked: np.ndarray
    group: np.ndarray
    relations: dict[str, Precision]
    occurrences: np.ndarray


def measure(vectors: Vectors, labels: Labels, asked: np.ndarray, ranking: Ranking) -> Measured:
    """Measure the ten nearest of the asked tracks (positions) among all.

    For the same artist on another album, tracks of the album are left out; for the same genre by
    another artist, tracks of the artist: an encoder finds the sound of a studio easily.
    """
    everything = np.arange(len(labels))
    left_out = {SAME_ALBUM: everything, OTHER_ALBUM: labels.album, SAME_GENRE: labels.artist}
    lists = nearest_lists(vectors, asked, left_out, ranking)
    wanted = {SAME_ALBUM: labels.album, OTHER_ALBUM: labels.artist, SAME_GENRE: labels.genre}
    relations = {
        name: _precision(lists[name], wanted[name], left_out[name], asked)
        for name in (OTHER_ALBUM, SAME_ALBUM, SAME_GENRE)
    }
    nearest = lists[SAME_ALBUM]
    counts = np.bincount(nearest[nearest >= 0], minlength=len(labels))
    return Measured(asked, labels.group[asked], relations, counts)


def _precision(
    lists: np.ndarray, wanted: np.ndarray, left_out: np.ndarray, asked: np.ndarray
) -> Precision:
    """The relation of equal labels in `wanted`, but not in `left_out`."""
    # A track without a name is in no relation, and is never left out as if it had a common one.
    of_both = _sizes(np.stack([wanted, left_out], axis=1))
    relevant = (_sizes(wanted) - of_both)[asked]
    others = (len(wanted) - _sizes(left_out))[asked]
    known = (wanted[asked] != UNKNOWN) & (left_out[asked] != UNKNOWN) & (relevant > 0)
    length = np.minimum(others, NEAREST)
    hits = ((wanted[lists] == wanted[asked][:, None]) & (lists >= 0)).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = (hits / length, relevant / others, np.minimum(relevant, length) / length)
    return Precision(*(np.where(known, share, np.nan) for share in shares))


def _sizes(labels: np.ndarray) -> np.ndarray:
    """For each track, how many tracks have its label."""
    _, codes, counts = np.unique(labels, axis=0, return_inverse=True, return_counts=True)
    return counts[codes.reshape(-1)]


def halves_found(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Whether no second half is nearer to the first half of a track than its own: bool `[n]`.

    `first`, `second`: float32 `[n, dim]` of length 1. Equal sounds may take each other's place.
    """
    found = np.zeros(len(first), bool)
    for begin in range(0, len(first), QUERIES):
        some = slice(begin, begin + QUERIES)
        own = np.einsum("ij,ij->i", first[some], second[some])
        found[some] = own >= (first[some] @ second.T).max(axis=1) - TIE
    return found
