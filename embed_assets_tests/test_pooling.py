"""A track's windows become one vector of the promised width, or the track is rejected."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embed_assets.errors import ConfigurationError, Reason, TrackRejected
from embed_assets.identity import IndexSpec, Recipe
from embed_assets.storage.pooling import POOLINGS, pool


def windows(n: int, stats: int, dim: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(1, 2, (n, stats, dim)).astype(np.float32)


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def test_mean_is_the_direction_of_the_mean_over_windows() -> None:
    vector = pool(np.array([[[3, 0]], [[3, 8]]], np.float32), "mean")
    np.testing.assert_allclose(vector, [0.6, 0.8], rtol=1e-6)


def test_mean_looks_at_the_frame_means_alone() -> None:
    array = windows(4, 3, 16)
    other = array.copy()
    other[:, 1:] = 99
    np.testing.assert_array_equal(pool(array, "mean"), pool(other, "mean"))
    np.testing.assert_allclose(pool(array, "mean"), unit(array[:, 0].mean(0)), rtol=1e-5)


def test_enriched_joins_the_three_frame_statistics_of_the_encoder() -> None:
    array = windows(5, 3, 8)
    expected = unit(np.concatenate([array[:, s].mean(0) for s in range(3)]))
    np.testing.assert_allclose(pool(array, "enriched"), expected, rtol=1e-5)


def test_enriched_takes_the_statistics_over_windows_from_an_encoder_that_has_only_means() -> None:
    array = windows(6, 1, 8)
    series = array[:, 0].astype(np.float64)
    quartiles = np.percentile(series, [25, 75], axis=0)
    steps = np.diff(series, axis=0).mean(0)
    expected = unit(np.concatenate([series.mean(0), np.ptp(quartiles, axis=0) / 1.349, steps]))
    np.testing.assert_allclose(pool(array, "enriched"), expected, rtol=1e-5, atol=1e-7)


def test_a_single_window_has_no_spread_and_no_steps() -> None:
    vector = pool(windows(1, 1, 8), "enriched")
    assert vector.shape == (24,)
    assert not vector[8:].any()


@given(
    n=st.integers(1, 30),
    stats=st.sampled_from([1, 3]),
    dim=st.sampled_from([1, 2, 155, 1024]),
    pooling=st.sampled_from(POOLINGS),
    scale=st.sampled_from([1e-6, 1.0, 1e30]),
)
def test_every_shape_gives_a_unit_vector_of_the_width_that_the_index_expects(
    n: int, stats: int, dim: int, pooling: str, scale: float
) -> None:
    names = ("mean", "iqr", "diff")[:stats]
    recipe = Recipe("any", "0", 24_000, dim, 10.0, n, frame_stats=names)
    vector = pool(windows(n, stats, dim) * np.float32(scale), pooling)
    assert vector.shape == (IndexSpec(recipe, pooling).dim,)
    assert vector.dtype == np.float32
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("stats", [1, 3])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_vector_that_is_not_finite_rejects_the_track(
    bad: float, stats: int, pooling: str
) -> None:
    array = windows(3, stats, 8)
    array[1, 0, 3] = bad
    with pytest.raises(TrackRejected) as caught:
        pool(array, pooling)
    assert caught.value.reason is Reason.BAD_VECTOR


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_vector_without_a_direction_rejects_the_track(pooling: str) -> None:
    with pytest.raises(TrackRejected) as caught:
        pool(np.zeros((3, 3, 8), np.float32), pooling)
    assert caught.value.reason is Reason.BAD_VECTOR


def test_an_unknown_pooling_names_the_setting_and_the_choices() -> None:
    with pytest.raises(ConfigurationError, match=r"EMBED_POOLING is 'max'.*mean, enriched"):
        pool(windows(2, 3, 4), "max")


def test_enriched_says_when_the_encoder_cannot_give_it() -> None:
    with pytest.raises(ConfigurationError, match="EMBED_POOLING is 'enriched'"):
        pool(windows(2, 2, 4), "enriched")


@pytest.mark.parametrize("shape", [(3, 8), (0, 3, 8), (2, 3, 0), (8,)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="windows must be"):
        pool(np.ones(shape, np.float32), "mean")
