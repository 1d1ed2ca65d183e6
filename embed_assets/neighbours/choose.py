"""Which order of neighbours is best for a library, by what was measured of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from embed_assets.neighbours.figures import differences, hubs_of, mean_of
from embed_assets.neighbours.measure import OTHER_ALBUM, SAME_ALBUM, SAME_GENRE, Measured
from embed_assets.neighbours.ranking import COSINE

FEWEST_ARTISTS, FEWEST_TRACKS = 10, 100
"""What a relation must have been measured for to be judged by."""

TOLERANCE = 0.01
"""By how much the share of good neighbours may have fallen, at the lower end of its interval."""

MANY_HUBS = 1.0
"""Skewness of occurrences from which fewer hubs are worth another order."""


@dataclass(frozen=True)
class Choice:
    """A method, and why it was chosen, in words."""

    method: str
    why: str


def best_method(measured: Mapping[str, Measured]) -> Choice:
    """The best of the methods that were measured; the cosine unless another is clearly better.

    Another order must not lose good neighbours, and must either find clearly more of them or, where
    there are many hubs, halve their skewness. It is judged by tracks of the same artist on another
    album; if there are too few of these, by those of the same album, or of the same genre.
    """
    before = measured[COSINE]
    judged = [name for name in (OTHER_ALBUM, SAME_ALBUM, SAME_GENRE) if _enough(before, name)]
    if not judged:
        return Choice(
            COSINE,
            f"too few tracks have tags to judge by: {FEWEST_TRACKS} tracks of {FEWEST_ARTISTS}"
            " artists are needed",
        )
    skewness = hubs_of(before).skewness or 0.0
    found = []
    for method, one in measured.items():
        if method == COSINE:
            continue
        changes = {d.relation: d for d in differences(one, before) if d.relation in judged}
        change = changes[judged[0]]
        after = hubs_of(one).skewness or 0.0
        loses = change.low < -TOLERANCE or any(d.high < 0 for d in changes.values())
        fewer_hubs = skewness > MANY_HUBS and after <= skewness / 2
        if loses or not (change.low > 0 or fewer_hubs):
            continue
        why = (
            f"{judged[0]}: {change.difference:+.3f} ({change.low:+.3f} to {change.high:+.3f});"
            f" skewness of occurrences {skewness:.2f} -> {after:.2f}"
        )
        found.append((-change.difference, after, Choice(method, why)))
    if not found:
        return Choice(COSINE, "no other order is clearly better")
    return min(found, key=lambda one: one[:2])[2]


def _enough(measured: Measured, relation: str) -> bool:
    mean = mean_of(measured.relations[relation].measured, measured.group)
    return mean.values >= FEWEST_TRACKS and mean.groups >= FEWEST_ARTISTS
