"""The canary: what stops new vectors and what does not, and what a person can do."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from embed_assets.audio import decoders
from embed_assets.embedding.canary import clip
from embed_assets.embedding.canary.check import (
    VectorsDrifted,
    check,
    recent_report,
    require_same_vectors,
)
from embed_assets.embedding.canary.notes import Notes
from embed_assets.embedding.canary.outcomes import TRACKS
from embed_assets.embedding.canary.report import Level, Report, level_of, tolerance
from embed_assets.embedding.decode_ahead import DecodeAhead
from embed_assets.embedding.embed_folders import EmbedContext, embed_folders
from embed_assets.library.manifest import MusicFolder
from embed_assets.storage.folder_store import FolderStore
from embed_assets.storage.tables import Tables
from embed_assets.workers import open_pool
from embed_assets_tests.canary_tools import (
    CHOICE,
    decode_badly,
    embed,
    resample_badly,
    with_own_notes,
)
from embed_assets_tests.embedded import HERE
from embed_assets_tests.synth import write_track


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
    """A library of a few formats, embedded by real workers, for tests that change nothing in it."""
    return embed(tmp_path_factory.mktemp("canary"))


@pytest.fixture
def home(embedded, tmp_path):
    return with_own_notes(embedded, tmp_path)


def embedded_hashes(context: EmbedContext) -> list[str]:
    return sorted(e.audio_hash for e in context.store.entries(context.recipe.digest))


def names(report: Report, level: Level = Level.ERROR) -> list[str]:
    return [c.name for c in report.comparisons if c.level is level]


# Who asks before new vectors are written


@pytest.fixture
def versions(monkeypatch):
    """The environment as this test has it."""
    there = {"soxr": "1.0.0", "CPU": "Zen 3"}
    monkeypatch.setattr("embed_assets.embedding.canary.check.environment", lambda _: dict(there))
    return there


def test_embedding_checks_again_only_if_something_changed(home, versions):
    assert require_same_vectors(home, HERE) is not None, "there was no check yet"
    assert require_same_vectors(home, HERE) is None
    versions["soxr"] = "1.1.0"
    report = require_same_vectors(home, HERE)
    assert report.level is Level.OK
    assert report.changed == ["soxr 1.0.0 -> 1.1.0"]
    assert require_same_vectors(home, HERE) is None


def test_no_vectors_are_written_while_they_differ_until_one_goes_back(home, versions, monkeypatch):
    require_same_vectors(home, HERE)
    versions["soxr"] = "1.1.0"
    with monkeypatch.context() as broken:
        resample_badly(broken)
        with pytest.raises(VectorsDrifted, match=r"soxr 1\.0\.0 -> 1\.1\.0") as raised:
            require_same_vectors(home, HERE)
        assert "pip install soxr==1.0.0" in str(raised.value)
        assert "the resampler" in str(raised.value)
    # It is remembered: nothing is embedded to find out again.
    with pytest.raises(VectorsDrifted):
        require_same_vectors(home, HERE)
    versions["soxr"] = "1.0.0"
    assert require_same_vectors(home, HERE).level is Level.OK


def test_what_a_person_accepts_is_right_from_then_on(home, versions, monkeypatch):
    require_same_vectors(home, HERE)
    resample_badly(monkeypatch)
    assert check(home, HERE).level is Level.ERROR
    accepted = check(home, HERE, accept=True)
    assert accepted.level is Level.OK
    assert accepted.message.startswith("accepted")
    assert require_same_vectors(home, HERE) is None
    later = check(home, HERE)
    assert later.level is Level.OK
    assert later.tracks == 6
    assert later.distance < 1e-6
    monkeypatch.undo()
    assert check(home, HERE).level is Level.ERROR, "what was right before is drift now"


def test_a_first_installation_is_never_held_up(tmp_path, monkeypatch):
    """An empty home has no vectors to differ from; what differs from the release is a warning."""
    empty = EmbedContext(
        MusicFolder(tmp_path),
        CHOICE.recipe(10.0, 3),
        CHOICE,
        Tables(tmp_path / "tables.sqlite"),
        FolderStore(tmp_path / "vectors"),
    )
    decode_badly(monkeypatch)
    report = require_same_vectors(empty, HERE)
    assert report.level is Level.WARN
    assert report.stage == "decoder"
    assert check(empty, HERE).level is Level.OK, "this is how it decodes here"


def test_a_check_of_the_last_hour_is_enough_for_each_run_of_a_backfill(home, versions, monkeypatch):
    assert recent_report(home) is None
    made = check(home, HERE)
    assert recent_report(home) == made
    versions["soxr"] = "1.1.0"
    assert recent_report(home) is None
    resample_badly(monkeypatch)
    assert check(home, HERE).level is Level.ERROR
    assert recent_report(home) is None, "drift is looked at again each time"


def test_where_other_processes_decode_the_device_checks_before_its_first_track(tmp_path):
    """As on a GPU; here both kinds of processes use the CPU."""
    made = []
    with open_pool(1) as decoders_, open_pool(1) as device:
        ahead = DecodeAhead(decoders_, device)
        context = embed(tmp_path, 3)
        again = replace(context, force=True)
        ask = lambda: made.append(require_same_vectors(again, ahead))  # noqa: E731
        ((_, outcome),) = embed_folders(again, [b"Album"], ahead, before_first=ask)
    assert outcome.embedded == 3
    assert [(report.level, report.tracks) for report in made] == [(Level.OK, 3)]


def test_nothing_is_asked_if_no_track_is_to_be_embedded(home):
    asked = []
    with open_pool(1) as pool:
        before = partial(asked.append, 1)
        ((_, outcome),) = embed_folders(home, [b"Album"], pool, before_first=before)
    assert outcome.reused == 6
    assert not asked


# What is no drift


def test_a_changed_track_is_no_drift_and_another_is_chosen(tmp_path):
    context = embed(tmp_path, TRACKS + 2)
    assert check(context, HERE).tracks == TRACKS
    chosen = json.loads(Notes.beside(context.store).file(context.recipe.digest).read_text())
    name = next(c["name"] for c in chosen["report"]["comparisons"] if "clip" not in c["name"])
    write_track(tmp_path / "music" / name, seconds=4, seed=99)
    report = check(context, HERE)
    assert report.level is Level.OK
    assert (report.tracks, report.skipped) == (TRACKS, 1)
    assert name not in [c.name for c in report.comparisons]


def test_music_that_is_away_is_no_drift_and_ends_none(home, monkeypatch):
    away = replace(home, library=MusicFolder(Path("/nowhere")))
    check(home, HERE)
    with monkeypatch.context() as broken:
        # Of tracks alone, as the clip would tell by itself.
        monkeypatch.setattr(clip, "FORMATS", {})
        resample_badly(broken)
        assert check(away, HERE).level is Level.OK
        assert check(home, HERE).level is Level.ERROR
        assert check(away, HERE).level is Level.ERROR, "nothing was compared: still red"


def test_a_copy_with_other_windows_is_left_out(home):
    """Its audio was embedded from another file: it never gave the stored vectors."""
    odd = embedded_hashes(home)[0]
    right = home.store.read(home.recipe.digest, odd)
    try:
        home.store.write(home.recipe.digest, odd, right[:1], replace=True)
        report = check(home, HERE)
        assert report.level is Level.OK
        assert (report.tracks, report.skipped) == (5, 1)
    finally:
        home.store.write(home.recipe.digest, odd, right, replace=True)


def test_a_track_that_cannot_be_decoded_any_more_is_drift(home, monkeypatch):
    check(home, HERE)
    real = decoders.FFmpegDecoder.frames
    gone = {"vorbis"}

    def frames(self):
        if self._stream.codec_context.codec.canonical_name in gone:
            return iter(())
        return real(self)

    monkeypatch.setattr(decoders.FFmpegDecoder, "frames", frames)
    monkeypatch.setattr(decoders.SndfileDecoder, "read", lambda _: None)
    report = check(home, HERE)
    assert report.level is Level.ERROR
    assert names(report) == ["Album/2.ogg", "Album/5.ogg"]
    assert report.stage == "decoder"
    assert "rejected now" in report.comparisons[-1].note


def test_damaged_notes_cost_only_the_name_of_the_stage(home):
    check(home, HERE)
    file = Notes.beside(home.store).file(home.recipe.digest)
    for damage in ("", "{", "[]", '{"report": 1}'):
        file.write_text(damage)
        assert check(home, HERE).level is Level.OK
        assert json.loads(file.read_text())["report"]["level"] == "ok"


def test_other_dtypes_have_their_own_limits(home):
    """bfloat16 beside float32, as on another processor: what the check of engines allows."""
    mixed = tolerance("float32", "bfloat16")
    assert [level_of(d, mixed) for d in (4e-4, 6e-4, 6e-3)] == ["ok", "warn", "error"]
    alike = tolerance("float32", "float32")
    assert [level_of(d, alike) for d in (9e-5, 2e-4, 2e-3)] == ["ok", "warn", "error"]
