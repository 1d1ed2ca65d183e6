"""Pools the window vectors of a track into the one vector that is indexed.

Pure numpy. A change here needs no forward pass: windows are stored, pooled vectors are not.
"""

from __future__ import annotations

import numpy as np

from embed_assets.errors import ConfigurationError, Reason, TrackRejected

POOLINGS = ("mean", "enriched")
"""The values of EMBED_POOLING."""

IQR_TO_SIGMA = 1.349
"""The interquartile range of a normal distribution, in standard deviations."""

_SMALLEST_NORM = 1e-12


def pool(windows: np.ndarray, pooling: str) -> np.ndarray:
    """Pool a track's windows: float32 [n_windows, S, dim] -> float32 [dim], or [3 * dim].

    `mean` is the mean over windows of the first frame statistic, which is the mean over frames.
    `enriched` joins [mean, IQR / 1.349, mean difference from one frame to the next]: the means over
    windows of the three frame statistics if S is 3, or, if S is 1, the three statistics over the
    windows themselves (for one window the last two are 0). Both are L2-normalised.

    Raises TrackRejected if a value is not finite or the result is zero, and ConfigurationError for
    an unknown pooling, or one that needs other statistics.
    """
    if windows.ndim != 3 or 0 in windows.shape:
        raise ValueError(
            f"windows must be [n_windows, S, dim], none of them 0; got {windows.shape}"
        )
    if not np.isfinite(windows).all():
        raise TrackRejected(Reason.BAD_VECTOR, "its window vectors contain NaN or infinity")
    stats = windows.shape[1]
    match pooling:
        case "mean":
            vector = windows[:, 0].mean(axis=0, dtype=np.float64)
        case "enriched" if stats == 3:
            vector = windows.mean(axis=0, dtype=np.float64).ravel()
        case "enriched" if stats == 1:
            vector = _statistics(windows[:, 0].astype(np.float64))
        case "enriched":
            raise ConfigurationError(
                f"EMBED_POOLING is 'enriched', which needs 1 or 3 frame statistics; the encoder "
                f"gives {stats}. Set EMBED_POOLING=mean."
            )
        case _:
            raise ConfigurationError(
                f"EMBED_POOLING is {pooling!r}: there is no such pooling. Set it to one of: "
                f"{', '.join(POOLINGS)}."
            )
    norm = float(np.sqrt(vector @ vector))
    if norm < _SMALLEST_NORM:
        raise TrackRejected(Reason.BAD_VECTOR, "its pooled vector is zero")
    return (vector / norm).astype(np.float32)


def _statistics(series: np.ndarray) -> np.ndarray:
    """[mean, IQR / 1.349, mean step] over axis 0: [n, dim] -> [3 * dim]."""
    low, high = np.quantile(series, (0.25, 0.75), axis=0)
    # The mean of all differences is (last - first) / their number.
    step = (series[-1] - series[0]) / max(len(series) - 1, 1)
    return np.concatenate([series.mean(axis=0), (high - low) / IQR_TO_SIGMA, step])
