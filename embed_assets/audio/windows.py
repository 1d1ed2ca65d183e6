"""Which windows of a track are embedded: arithmetic over durations only.

All windows of a track have the same length, as a batch must not be padded: zero padding destroys a
vector (cosine .34-.70 for a 4 s tail padded to 10 s).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

SHORTEST_TAIL = 0.1
"""Seconds; a remainder below this gets no window of its own."""


@dataclass(frozen=True)
class WindowPolicy:
    """How much of a track is embedded: `count` windows of `seconds`; count 0: the whole track.

    `wraps`: where a track that is embedded completely ends within a window, the track's beginning
    fills it. Otherwise that window ends where the track does, and overlaps the one before.
    """

    seconds: float
    count: int
    wraps: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.seconds) and self.seconds > 0):
            raise ValueError(f"window length must be above 0 s, not {self.seconds}")
        if self.count < 0:
            raise ValueError(f"number of windows must be 0 (whole track) or more, not {self.count}")

    def covers(self, duration: float) -> bool:
        """Whether a track of `duration` seconds is embedded completely."""
        return self.count == 0 or self.count * self.seconds >= duration


def plan(duration: float, policy: WindowPolicy) -> list[tuple[float, float]]:
    """Windows of a track as (start, length) in seconds, in order of time, all of the same length.

    Fewer windows than fit: spread evenly, centres at (i + .5) / count of the track. Otherwise the
    track is tiled without gaps and the last window ends where the track ends, overlapping its
    neighbour rather than being padded; with `wraps` it is shorter, as far as it is of this part. A
    track shorter than one window is one window at its own length. `duration` must be above 0.
    """
    if not (math.isfinite(duration) and duration > 0):
        raise ValueError(f"a track's duration must be above 0 s, not {duration}")
    length = policy.seconds
    if duration <= length:
        return [(0.0, duration)]
    last = duration - length
    if not policy.covers(duration):
        n = policy.count
        return [
            (min(max(0.0, (i + 0.5) / n * duration - length / 2), last), length) for i in range(n)
        ]
    full = int(duration // length)
    starts = [i * length for i in range(full)]
    tiles = [(start, length) for start in starts]
    if (tail := duration - full * length) >= SHORTEST_TAIL:
        tiles.append((full * length, tail) if policy.wraps else (last, length))
    return tiles


def placed(
    duration: float, policy: WindowPolicy, count: int, heard: float = 0.0
) -> list[tuple[float, float]]:
    """Positions of the `count` embedded windows of a track, as planned, rounded to 10 ms.

    `heard`: seconds that could be decoded, if known. For a damaged track without its middle windows
    the result is a guess.
    """
    for seconds in (heard, duration):
        windows = plan(seconds, policy) if 0 < seconds < math.inf else []
        if len(windows) == count:
            break
    windows += [(i * policy.seconds, policy.seconds) for i in range(len(windows), count)]
    return [(round(start, 2), round(length, 2)) for start, length in windows[:count]]
