"""What an evaluation of neighbours found, as `evaluate --json` prints it."""

from __future__ import annotations

from dataclasses import dataclass

from embed_assets.neighbours.figures import Difference, Hubs, Relation


@dataclass(frozen=True)
class SameTrack:
    """How often the two halves of a track find each other; needs no tags."""

    found: float
    """Share of tracks whose second half is the one nearest to their first half."""
    low: float | None
    """Lower end of its 95 % confidence interval, by drawing artists."""
    high: float | None
    """Upper end."""
    chance: float
    """The expected share of random choices."""
    tracks: int
    """Number of tracks, each with at least two windows; these are searched, too."""


@dataclass(frozen=True)
class Beside:
    """The same figures for other vectors or another order of neighbours."""

    name: str
    """The encoder, the collection or the order."""
    tracks: int
    """Number of tracks that both have; only these are compared."""
    relations: tuple[Relation, ...]
    """Its figures by tags."""
    hubs: Hubs
    """Its figures without tags."""
    differences: tuple[Difference, ...]
    """By how much the evaluated collection is better."""


@dataclass(frozen=True)
class Evaluation:
    """How good the neighbours in a collection are."""

    collection: str
    """The collection that was evaluated."""
    encoder: str
    """The encoder that made its vectors."""
    ranking: str
    """What neighbours are ranked by."""
    tracks: int
    """Number of its tracks; identical audio counts once."""
    asked: int
    """Number of tracks whose neighbours were looked at; less than `tracks` for a sample."""
    relations: tuple[Relation, ...]
    """How often the ten nearest of a track belong together with it by their tags."""
    same_track: SameTrack | None
    """How often a track finds itself; null if no track has two windows."""
    hubs: Hubs
    """How evenly tracks occur among the neighbours of others."""
    beside: tuple[Beside, ...]
    """What it is compared with: the built-in encoder, if its vectors are stored, and other orders
    of neighbours."""
    chosen: str | None = None
    """What neighbours are ranked by from now on; null without `--choose`."""
    why: str = ""
    """Why that was chosen."""
