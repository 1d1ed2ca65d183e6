"""Whether int8 is worth it is measured on the listener's own music, and said in words."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from embed_assets.embedding.compare import distance
from embed_assets.library.sample import sample
from embed_assets.operations.try_int8 import GOAL_OVERLAP, GOAL_SPEED, _verdict


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_the_sample_is_from_all_over_and_the_same_each_time(tmp_path: Path) -> None:
    for folder in range(20):
        (tmp_path / f"{folder}").mkdir()
        for track in range(30):
            (tmp_path / f"{folder}" / f"{track}.ogg").touch()
    (tmp_path / "1" / "cover.png").touch()
    chosen, there = sample(tmp_path, 100)
    assert there == 600
    assert len(set(chosen)) == 100
    assert len({path.split(b"/")[0] for path in chosen}) > 15
    assert sample(tmp_path, 100) == (chosen, 600)
    # More of them are these and others, so that one run may be set beside another.
    assert sample(tmp_path, 200)[0][:100] == chosen
    assert len(sample(tmp_path, 1000)[0]) == 600


def test_the_same_vectors_have_the_same_neighbours_and_others_do_not() -> None:
    random = np.random.default_rng(0)
    a = unit(random.standard_normal((100, 32)))
    same = distance(a, a.copy(), 10)
    assert (same.overlap, same.overlap_half, same.same_nearest) == (1, 1, 1)
    assert same.smallest_cosine == pytest.approx(1, abs=1e-6)
    other = distance(a, unit(random.standard_normal((100, 32))), 10)
    assert other.overlap == pytest.approx(10 / 99, abs=0.04)
    near = [distance(a, unit(a + e * random.standard_normal(a.shape)), 10) for e in (0.01, 0.1)]
    assert 1 > near[0].overlap > near[1].overlap > other.overlap
    assert near[0].smallest_cosine < near[0].median_cosine < 1


def test_ten_copies_of_one_track_are_no_change() -> None:
    a = unit(np.repeat(np.random.default_rng(0).standard_normal((10, 8)), 10, axis=0))
    assert distance(a, a.copy(), 9).overlap == 1


def test_the_verdict_names_the_setting_for_and_against() -> None:
    assert "Set EMBED_ENCODER=muq-int8" in _verdict(GOAL_OVERLAP, GOAL_SPEED, "openvino, bfloat16")
    for overlap, speed in ((GOAL_OVERLAP - 0.01, 4.0), (1.0, GOAL_SPEED - 0.1)):
        told = _verdict(overlap, speed, "openvino, bfloat16")
        assert told.startswith("Do not use it")
        assert told.endswith("Leave EMBED_ENCODER=muq.")


def test_it_needs_a_library(world) -> None:
    shutil.rmtree(world.library)
    done = world.run("try-int8")
    assert done.returncode == 2
    assert "EMBED_LIBRARY" in done.stderr
    assert not world.home.exists()
