"""The canary: a change of any stage between a file and its vector is noticed and named."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from embed_assets.embedding.canary import clip
from embed_assets.embedding.canary.check import check
from embed_assets.embedding.canary.report import Level
from embed_assets.workers import open_pool
from embed_assets_tests.canary_tools import BROKEN, embed, with_own_notes
from embed_assets_tests.embedded import HERE

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
    """A library of a few formats, embedded by real workers, for tests that change nothing in it."""
    return embed(tmp_path_factory.mktemp("canary"))


@pytest.fixture
def home(embedded, tmp_path):
    return with_own_notes(embedded, tmp_path)


# A healthy home


def test_a_healthy_home_is_in_order_with_real_workers(home):
    with open_pool(2) as pool:
        first, second = check(home, pool), check(home, pool)
    for report in (first, second):
        assert report.level is Level.OK, report
        assert report.tracks == 6
        assert report.distance < 1e-6
        assert not report.stage
    assert "6 tracks embedded again" in second.message
    # By then all stages are noted.
    assert all(len(c.differences) >= 2 for c in second.comparisons)


def test_the_clip_is_the_music_that_is_computed_anywhere():
    samples, rate = soundfile.read(clip.file_of("flac"), dtype="int16")
    assert np.array_equal(samples, clip.music(rate))


def test_what_is_shipped_of_the_clip_is_what_it_gives_here():
    from embed_assets_tests.make_canary_clip import expected

    with np.load(clip.EXPECTED) as shipped:
        made = expected()
        assert sorted(shipped.files) == sorted(made), (
            "run: python -m embed_assets_tests.make_canary_clip"
        )
        for name in shipped.files:
            assert np.allclose(made[name], shipped[name], rtol=1e-3, atol=1e-4), name


OTHER_CPU = """
import ctypes, glob, os, sys
import av
libraries = glob.glob(os.path.join(os.path.dirname(av.__file__), "..", "av.libs", "libavutil*"))
if libraries:
    ctypes.CDLL(libraries[0]).av_force_cpu_flags(0)
from embed_assets_tests.embedded import HERE
from embed_assets_tests.canary_tools import CHOICE
from embed_assets.embedding.canary.outcomes import embed_clip
from embed_assets.embedding.canary.notes import Noted, Notes
from embed_assets.embedding.embed_folders import EmbedContext
from embed_assets.library.manifest import MusicFolder
from embed_assets.storage.tables import Tables
from embed_assets.storage.folder_store import FolderStore
from pathlib import Path
context = EmbedContext(
    MusicFolder(None), CHOICE.recipe(10.0, 3), CHOICE, Tables(None), FolderStore(Path(sys.argv[1]))
)
for outcome in embed_clip(context, HERE, Notes(Path(sys.argv[1])), Noted()):
    print(outcome.level, outcome.distance, max(outcome.differences.values()), flush=True)
"""


@pytest.mark.parametrize("core", ["Nehalem", "Haswell"])
def test_a_processor_with_other_instructions_gives_what_is_shipped(tmp_path, core):
    """FFmpeg without SIMD, numpy and its BLAS without new instructions: far below the limits."""
    less = {"OPENBLAS_CORETYPE": core, "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3 AVX512F AVX512_SKX"}
    done = subprocess.run(
        [sys.executable, "-c", OTHER_CPU, str(tmp_path)],
        env=os.environ | less | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len(lines) == len(clip.FORMATS), done.stderr
    for level, distance, difference in lines:
        assert level == "ok"
        assert float(distance) < 1e-5
        assert float(difference) < 2e-5


# Each stage, broken


@pytest.mark.parametrize("stage", BROKEN)
def test_the_first_stage_that_differs_is_named(home, monkeypatch, stage):
    assert check(home, HERE).level is Level.OK
    with monkeypatch.context() as broken:
        BROKEN[stage](broken)
        report = check(home, HERE)
    assert report.level is Level.ERROR, report
    assert report.stage == stage
    assert {c.stage for c in report.comparisons if c.level is not Level.OK} == {stage}
    assert f"the first stage that differs is the {stage}" in report.message
    assert "embed-assets canary --accept" in report.message
    assert check(home, HERE).level is Level.OK, "mended, it is in order again"


@pytest.mark.parametrize("stage", BROKEN)
def test_drift_before_the_first_check_is_noticed_too(home, monkeypatch, stage):
    """No stage is noted yet: tracks are compared with stored vectors, the clip with the shipped."""
    BROKEN[stage](monkeypatch)
    report = check(home, HERE)
    assert report.level is Level.ERROR
    assert report.stage == stage
    assert report.tracks == 6
