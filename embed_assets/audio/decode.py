"""Decodes the windows of a track to mono float32 at the encoder's sample rate.

Here is what callers use, and what happens to a track that ends earlier than its header says.
`reader.py` finds and decodes samples.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from embed_assets.audio.chain import decoder_of
from embed_assets.audio.container import FFMPEG, LIBSNDFILE, UNREADABLE, claimed_seconds, open_audio
from embed_assets.audio.reader import Reader
from embed_assets.audio.windows import SHORTEST_TAIL, WindowPolicy, plan
from embed_assets.errors import Reason, TrackRejected
from embed_assets.formats import counted

if TYPE_CHECKING:
    import numpy as np

SHORTEST = 1.0
"""Seconds that must decode for a track to be embedded."""

MOST_ROUNDS = 8
"""How often windows are planned again for a track that ends earlier than expected."""

SILENCE = 1e-6
"""Peak-to-peak amplitude below which a track is silent: -120 dB, a thirtieth of a 16-bit step. All
silent tracks would have the same vector, and be each other's nearest neighbours."""


@dataclass(frozen=True)
class Decoded:
    """A track's windows: float32 mono arrays, their starts in seconds, and what was lost.

    `decoded_seconds`: how much of the track the windows cover. `notes`: empty if nothing was lost.
    """

    windows: list[np.ndarray]
    starts: list[float]
    decoded_seconds: float
    damaged_packets: int
    notes: str


@dataclass
class WindowStream:
    """A track's windows as they are decoded; the figures are final when `windows` is exhausted."""

    windows: Iterator[np.ndarray] = field(default_factory=lambda: iter(()))
    starts: list[float] = field(default_factory=list)
    decoded_seconds: float = 0.0
    damaged_packets: int = 0
    note: str = ""


def read_windows(path: bytes, duration: float, policy: WindowPolicy, sample_rate: int) -> Decoded:
    """Decode all windows of a track at once; see `iter_windows`, which holds one at a time."""
    stream = iter_windows(path, duration, policy, sample_rate)
    every = list(stream.windows)
    return Decoded(
        every, stream.starts, stream.decoded_seconds, stream.damaged_packets, stream.note
    )


def iter_windows(
    path: bytes, duration: float, policy: WindowPolicy, sample_rate: int
) -> WindowStream:
    """Decode the windows that `policy` plans for a track, one by one, in order of time.

    Each is float32 mono [round(seconds * sample_rate)] at `sample_rate` Hz; a track shorter than
    one window is one window of its own length. `duration` is the probe's, in seconds; if less can
    be decoded, the windows are planned over that, and `note` says so. Memory: a few windows,
    whatever the track's length. While iterating it raises:

        TrackRejected: CORRUPT (nothing decodes), TOO_SHORT (under 1 s does), SILENT (only digital
            silence, raised at the end), or as `open_audio`.
        OSError: the file could not be read; this says nothing about the track.
    """
    stream = WindowStream()
    stream.windows = _by_either(stream, path, duration, policy, sample_rate)
    return stream


def _by_either(
    stream: WindowStream, path: bytes, duration: float, policy: WindowPolicy, sample_rate: int
) -> Iterator[np.ndarray]:
    """By FFmpeg; by libsndfile if FFmpeg decodes nothing."""
    try:
        yield from _windows(stream, path, duration, policy, sample_rate, FFMPEG)
        return
    except TrackRejected as e:
        if stream.starts or e.reason not in UNREADABLE:
            raise
        rejected = e
    try:
        yield from _windows(stream, path, duration, policy, sample_rate, LIBSNDFILE)
    except TrackRejected as e:
        raise (e if stream.starts or e.reason not in UNREADABLE else rejected) from rejected


def _windows(
    stream: WindowStream,
    path: bytes,
    duration: float,
    policy: WindowPolicy,
    sample_rate: int,
    decoder: str,
) -> Iterator[np.ndarray]:
    with (
        open_audio(path, duration, decoder) as audio,
        closing(decoder_of(audio)) as decodes,
    ):
        reader = Reader(decodes)
        claimed = claimed_seconds(audio)
        if not (math.isfinite(duration) and duration > 0):
            duration = audio.header_seconds
        _require_length(reader, duration, claimed)
        covered = 0.0
        beginning = _Beginning()
        try:
            for start, window in _cut_all(reader, duration, policy, sample_rate, claimed):
                end = start + len(window) / sample_rate
                stream.decoded_seconds += end - max(start, covered)
                covered = end
                stream.starts.append(start)
                yield beginning.fill(window) if policy.wraps else window
            if stream.starts and reader.loudest < SILENCE:
                raise _silent(reader, stream.decoded_seconds)
        finally:
            stream.damaged_packets = reader.damaged
            stream.note = _note(reader, audio.decoder, decodes.unread_links, duration, claimed)


class _Beginning:
    """The first window of a track, whose samples fill what the last one lacks."""

    def __init__(self) -> None:
        self.window: np.ndarray | None = None

    def fill(self, window: np.ndarray) -> np.ndarray:
        """A window at its full length; the first one as it is."""
        import numpy as np

        if self.window is None:
            self.window = window
        missing = max(0, len(self.window) - len(window))
        return np.concatenate([window, self.window[:missing]]) if missing else window


def _silent(reader: Reader, seconds: float) -> TrackRejected:
    if reader.not_finite:
        return TrackRejected(
            Reason.CORRUPT, "its samples are not finite numbers; copy it again from its source"
        )
    return TrackRejected(Reason.SILENT, f"its windows ({seconds:.0f} s in all) are silent")


def _require_length(reader: Reader, seconds: float, claimed: float) -> None:
    why = f" ({reader.first_error})" if reader.first_error else ""
    if seconds <= 0:
        raise TrackRejected(Reason.CORRUPT, f"none of its audio could be decoded{why}")
    if seconds < SHORTEST and (claimed >= SHORTEST or reader.damaged):
        of = f" of {claimed:.1f} s" if claimed >= SHORTEST else ""
        raise TrackRejected(
            Reason.CORRUPT, f"only {seconds:.2f} s{of} could be decoded{why}; copy it again"
        )
    if seconds < SHORTEST:
        raise TrackRejected(
            Reason.TOO_SHORT, f"{seconds:.2f} s of audio; at least {SHORTEST:g} s are needed"
        )


def _cut_all(
    reader: Reader, duration: float, policy: WindowPolicy, sample_rate: int, claimed: float
) -> Iterator[tuple[float, np.ndarray]]:
    rounds = 0
    while not policy.covers(duration):
        rounds += 1
        windows = plan(duration, policy)
        # The last one first: if the track ends before it, nothing has been handed out yet.
        last = reader.cut(*windows[-1], sample_rate)
        if last is None:
            _require_length(reader, reader.end_seconds, claimed)
            if reader.end_seconds >= duration or rounds == MOST_ROUNDS:
                raise TrackRejected(Reason.CORRUPT, "seeking in it does not work")
            duration = reader.end_seconds
            continue
        for start, length in windows[:-1]:
            window = reader.cut(start, length, sample_rate)
            if window is not None:
                yield start, window
        yield windows[-1][0], last
        return

    handed_out = 0.0
    for start, length in plan(duration, policy):
        window = reader.cut(start, length, sample_rate)
        if window is None:
            end = reader.end_seconds
            if handed_out == 0.0 or end - handed_out >= SHORTEST_TAIL:
                _require_length(reader, end, claimed)
                if policy.wraps and handed_out:
                    length = end - start
                else:
                    start, length = max(0.0, end - length), min(length, end)
                window = reader.cut(start, length, sample_rate)
                if window is not None:
                    yield start, window
                elif handed_out == 0.0:
                    raise TrackRejected(Reason.CORRUPT, "none of its audio could be decoded")
            return
        yield start, window
        handed_out = start + length


def heard_seconds(note: str) -> float:
    """Seconds of a track that could be decoded, from its note; 0 if the note does not say."""
    found = re.match(r"(\d+) of \d+ s could be decoded", note)
    return float(found[1]) if found else 0.0


def _note(reader: Reader, decoder: str, unread_links: int, duration: float, claimed: float) -> str:
    notes = []
    whole = claimed if claimed > 1.05 * duration + 0.5 else duration
    heard = min(duration, reader.end_seconds or duration)
    if heard < whole - 0.5:
        notes.append(f"{heard:.0f} of {whole:.0f} s could be decoded")
    if reader.not_finite:
        samples = counted(reader.not_finite, "sample")
        notes.append(f"replaced by silence, because not finite numbers: {samples}")
    if reader.damaged:
        were = "was" if reader.damaged == 1 else "were"
        notes.append(f"{counted(reader.damaged, 'damaged packet')} {were} skipped")
    if unread_links:
        notes.append(f"{unread_links} of the files that it is made of could not be read")
    if decoder == LIBSNDFILE:
        notes.append("decoded by libsndfile, because FFmpeg cannot")
    return "; ".join(notes)
