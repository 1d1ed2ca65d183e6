"""The built-in encoder: what a window sounds like by measurable features, no model, no download.

It is for trying the whole system, for tests, and for machines too small for MuQ. It knows timbre,
harmony and rhythm as statistics and nothing of what music means: it finds the same recording and
the same soundtrack, and is no match for a learned model in finding what a listener calls similar.

The features are librosa's (mel spectrogram, MFCC, chroma, spectral contrast, onsets) over one
shared STFT, with librosa's filter banks, and the modulation of mel bands. They are computed with
numpy, and the filter banks are shipped, because importing librosa and numba costs each worker
process two CPU-seconds; a test holds them against librosa. Maxima of the onsets' autocorrelation
were tried and left out: over 440 tracks they find the same recording a little better (R@1 +.025)
and the same soundtrack a little worse (mAP -.014).

`constants.npz` standardises them and projects them to where windows of one track lie close together
and tracks far apart (linear discriminants: whitening by the covariance within tracks, then the
principal axes between them). benchmarks/fit_acoustic.py fitted it, on 494 tracks of 25 game
soundtracks. On soundtracks that it was not fitted on: R@1 .77, mAP over soundtracks .24
(standardised only: .59, .17; chance: .002, .07).
"""

from __future__ import annotations

import functools
import itertools
from pathlib import Path

import numpy as np

from embed_assets.encoders.acoustic.card import ACOUSTIC
from embed_assets.encoders.base import EncoderInfo
from embed_assets.errors import Reason, TrackRejected
from embed_assets.identity import digest

FEATURE_VERSION = 1
"""Raised when `features` gives other numbers; the constants must then be fitted anew."""

CONSTANTS = Path(__file__).with_name("constants.npz")

SAMPLE_RATE = ACOUSTIC.sample_rate
N_FFT = 2048
HOP = 1024
N_MELS = 48
N_MFCC = 20

MODULATION_EDGES = (0.2, 0.5, 1.0, 2.0, 4.0, 7.0, 11.0)
"""Hz; how fast eight groups of mel bands go up and down."""

CONTRAST_EDGES = (0.0, 200.0, 400.0, 800.0, 1600.0, 3200.0, 6400.0, SAMPLE_RATE / 2)
"""Hz; librosa's octave bands of spectral contrast."""

FLOOR = 1e-10
BOUND = 4.0
"""Standard deviations at which a feature is cut off, so that a click cannot own a vector."""


@functools.lru_cache(maxsize=1)
def constants() -> dict[str, np.ndarray]:
    """What is shipped: `mel` [48, 1025], `chroma` [12, 1025], `dct` [20, 48], the fitted `mean`
    and `std` [features] and `projection` [features, dim]; all float32.
    """
    with np.load(CONSTANTS) as shipped:
        return {name: shipped[name].astype(np.float32) for name in shipped.files}


@functools.lru_cache(maxsize=1)
def info() -> EncoderInfo:
    """What the encoder is; reads the shipped constants and imports nothing heavy."""
    shipped = constants()
    weights = digest(
        f"acoustic {FEATURE_VERSION}",
        *(part for name in sorted(shipped) for part in (name, shipped[name].tobytes())),
    )
    return EncoderInfo(
        name=ACOUSTIC.name,
        weights=weights,
        sample_rate=SAMPLE_RATE,
        dim=shipped["projection"].shape[1],
        frame_stats=("mean",),
        min_seconds=1.0,
        note=ACOUSTIC.note,
    )


def describe(*_: object) -> EncoderInfo:
    """The same for `embed_assets.encoders.describe`: there are no weights to be found."""
    return info()


def load(*_: object) -> Acoustic:
    """The encoder, ready, whatever the model, device and cache; takes milliseconds."""
    return Acoustic()


def features_of(_: Acoustic, window: np.ndarray) -> np.ndarray:
    """What is projected to a vector: float32 [T] at 22,050 Hz -> float32 [266]."""
    return features(window)


class Acoustic:
    """Acoustic features as an encoder; see the module and `encoders.Encoder`."""

    device = "cpu"
    engine = "numpy"
    dtype = "float32"
    warning = ""

    def __init__(self) -> None:
        self.info = info()

    def encode(self, windows: np.ndarray) -> np.ndarray:
        """Encode windows of one length: float32 [B, T] at 22,050 Hz -> float32 [B, 1, dim].

        Vectors have norm 1 and do not depend on gain or DC. Raises TrackRejected (TOO_SHORT) for
        windows under 1 s, (BAD_VECTOR) for samples that are not finite.
        """
        if windows.shape[1] < SAMPLE_RATE * self.info.min_seconds:
            raise TrackRejected(
                Reason.TOO_SHORT,
                f"a window of {windows.shape[1] / SAMPLE_RATE:.2f} s; the acoustic encoder needs"
                f" {self.info.min_seconds:g} s",
            )
        if not np.isfinite(windows).all():
            raise TrackRejected(Reason.BAD_VECTOR, "the decoded audio contains infinite samples")
        # One by one: BLAS sums a batch in another order, and a vector would depend on its batch.
        return np.stack([project(features(window)[None]) for window in windows])


def project(raw: np.ndarray) -> np.ndarray:
    """Standardise and project features: float32 [B, features] -> unit vectors [B, dim]."""
    shipped = constants()
    z = np.clip((raw - shipped["mean"]) / shipped["std"], -BOUND, BOUND)
    vectors = z @ shipped["projection"]
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    # The average of all music has no direction: give it one rather than a zero vector.
    vectors[norms[:, 0] < 1e-6, 0] = 1.0
    return (vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)).astype(
        np.float32
    )


def features(samples: np.ndarray, banks: dict[str, np.ndarray] | None = None) -> np.ndarray:
    """Describe a window: float32 [T] at 22,050 Hz, at least one second -> float32 [266].

    Levels are relative to the window's own mean power, so gain does not count. `banks` replaces the
    shipped filter banks while constants are fitted. Sources: Davis and
    Mermelstein 1980 (MFCC), Jiang et al. 2002 (spectral contrast), McKinney and Breebaart 2003
    (modulation energy), as librosa computes them where it does.
    """
    banks = banks or constants()
    magnitude = spectrogram(samples)
    power = magnitude * magnitude
    mel = banks["mel"] @ power
    decibel = 10 * np.log10(mel / (mel.mean() + FLOOR) + 1e-6)
    cepstrum = banks["dct"] @ decibel
    return np.concatenate(
        [
            decibel.mean(axis=1),
            decibel.std(axis=1),
            cepstrum.mean(axis=1),
            cepstrum.std(axis=1),
            np.diff(cepstrum, axis=1).std(axis=1),
            _harmony(banks["chroma"] @ power),
            _over_time(contrast(magnitude)),
            _shape(magnitude, power),
            _onsets(np.maximum(np.diff(decibel, axis=1), 0)),
            _modulation(decibel),
        ]
    ).astype(np.float32)


def spectrogram(samples: np.ndarray) -> np.ndarray:
    """Magnitudes float32 [1025, frames], as `librosa.stft(..., center=False)` gives them."""
    centred = (samples - samples.mean()).astype(np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(centred, N_FFT)[::HOP]
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N_FFT) / N_FFT)).astype(np.float32)
    return np.ascontiguousarray(np.abs(np.fft.rfft(frames * window, axis=1)).T, dtype=np.float32)


def contrast(magnitude: np.ndarray) -> np.ndarray:
    """Peak over valley in dB in seven octave bands: [1025, frames] -> float32 [7, frames]."""
    frequency = np.linspace(0, SAMPLE_RATE / 2, N_FFT // 2 + 1)
    rows = []
    for low, high in itertools.pairwise(CONTRAST_EDGES):
        inside = np.flatnonzero((frequency >= low) & (frequency <= high))
        first = max(inside[0] - 1, 0) if low else inside[0]
        last = inside[-1] + 1 if high >= SAMPLE_RATE / 2 else inside[-1]
        band = np.sort(magnitude[first:last], axis=0)
        n = max(1, round(0.02 * (inside[-1] + 1 - first)))
        rows.append(_decibel(band[-n:].mean(axis=0)) - _decibel(band[:n].mean(axis=0)))
    return np.stack(rows)


def _decibel(value: np.ndarray) -> np.ndarray:
    return 10 * np.log10(np.maximum(value, FLOOR))


def _over_time(rows: np.ndarray) -> np.ndarray:
    return np.concatenate([rows.mean(axis=1), rows.std(axis=1)])


def _harmony(chroma: np.ndarray) -> np.ndarray:
    """Chroma and, so that a transposed piece stays near, its spectrum over pitch classes."""
    share = chroma / (chroma.sum(axis=0, keepdims=True) + FLOOR)
    mean = share.mean(axis=1)
    return np.concatenate([mean, share.std(axis=1), np.abs(np.fft.rfft(mean))[1:]])


def _shape(magnitude: np.ndarray, power: np.ndarray) -> np.ndarray:
    frequency = np.linspace(0, SAMPLE_RATE / 2, N_FFT // 2 + 1, dtype=np.float32)
    total = magnitude.sum(axis=0) + FLOOR
    centroid = frequency @ magnitude / total
    spread = np.sqrt(np.maximum(frequency**2 @ magnitude / total - centroid**2, 0))
    rolloff = (np.cumsum(magnitude, axis=0) < 0.85 * total).sum(axis=0)
    mean_power = power.mean(axis=0) + FLOOR
    flatness = np.log(np.exp(np.log(power + FLOOR).mean(axis=0)) / mean_power + 1e-6)
    loudness = np.log(mean_power / mean_power.mean() + 1e-6)
    rows = np.stack([*np.log1p([centroid, spread, rolloff]), flatness])
    return np.concatenate(
        [_over_time(rows), [loudness.std()], np.percentile(loudness, [10, 50, 90])]
    )


def _onsets(rise: np.ndarray) -> np.ndarray:
    """Onset strength in three bands of mel; what repeats is in `_modulation`."""
    bands = np.stack([rise[:10].mean(axis=0), rise[10:30].mean(axis=0), rise[30:].mean(axis=0)])
    return _over_time(bands)


def _modulation(decibel: np.ndarray) -> np.ndarray:
    groups = decibel.reshape(8, N_MELS // 8, -1).mean(axis=1)
    groups = groups - groups.mean(axis=1, keepdims=True)
    n = groups.shape[1]
    strength = np.abs(np.fft.rfft(groups * np.hanning(n), axis=1)) / n
    frequency = np.fft.rfftfreq(n, HOP / SAMPLE_RATE)
    rows = []
    for low, high in itertools.pairwise(MODULATION_EDGES):
        inside = (frequency >= low) & (frequency < high)
        rows.append(strength[:, inside].mean(axis=1) if inside.any() else strength.mean(axis=1))
    return np.log(np.stack(rows, axis=1) + 1e-3).ravel()
