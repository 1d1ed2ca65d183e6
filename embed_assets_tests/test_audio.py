"""What a listener's track becomes before an encoder sees it: its windows, sound and undamaged."""

from __future__ import annotations

import itertools
import os
import re

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from embed_assets.audio import decode
from embed_assets.audio.decode import iter_windows, read_windows
from embed_assets.audio.windows import SHORTEST_TAIL, WindowPolicy, plan
from embed_assets.errors import Reason, TrackRejected
from embed_assets.library.probe import probe
from embed_assets_tests import synth

RATE = 24000


@given(duration=st.floats(0.01, 20_000), seconds=st.floats(0.5, 60), count=st.integers(0, 40))
@example(duration=0.6, seconds=0.5, count=0)
@settings(max_examples=300, deadline=None)
def test_windows_have_one_length_and_lie_inside_the_track(duration, seconds, count):
    policy = WindowPolicy(seconds, count)
    windows = plan(duration, policy)
    assert len({length for _, length in windows}) == 1
    assert windows[0][1] == min(seconds, duration)
    starts = [start for start, _ in windows]
    assert starts == sorted(set(starts))
    assert starts[0] >= 0
    assert starts[-1] + windows[0][1] <= duration + 1e-6
    if policy.covers(duration):
        assert starts[0] == 0
        assert duration - (starts[-1] + windows[0][1]) < SHORTEST_TAIL
        assert all(b - a <= seconds + 1e-6 for a, b in itertools.pairwise(starts))
    else:
        assert len(windows) == count


def test_windows_are_spread_evenly_over_the_track():
    assert plan(100, WindowPolicy(10, 2)) == [(20.0, 10), (70.0, 10)]
    assert plan(25, WindowPolicy(10, 0)) == [(0, 10), (10, 10), (15, 10)]
    assert plan(25, WindowPolicy(10, 3)) == plan(25, WindowPolicy(10, 0))
    assert plan(4, WindowPolicy(10, 3)) == [(0.0, 4)]


@pytest.mark.parametrize("bad", [(0, 1), (-1, 1), (float("nan"), 1), (10, -1)])
def test_a_policy_that_makes_no_windows_is_refused(bad):
    with pytest.raises(ValueError, match="must be"):
        WindowPolicy(*bad)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".mp3", ".ogg", ".opus", ".aiff", ".mka"])
@pytest.mark.parametrize("policy", [WindowPolicy(1.5, 2), WindowPolicy(1.5, 0)])
def test_every_container_gives_the_music_at_the_planned_times(tmp_path, suffix, policy):
    import soxr

    path = os.fsencode(synth.write_track(tmp_path / f"a{suffix}", seconds=8, seed=3))
    truth = soxr.resample(synth.music(8, 3).mean(axis=0), 44100, RATE)
    decoded = read_windows(path, 8.0, policy, RATE)
    assert decoded.notes == ""
    assert decoded.damaged_packets == 0
    for start, window in zip(decoded.starts, decoded.windows, strict=True):
        assert window.dtype == np.float32
        assert window.shape == (round(1.5 * RATE),)
        # Ogg may land up to 10 ms beside the place after a seek.
        best = max(_cosine(window, truth, round(start * RATE) + lag) for lag in range(-240, 241, 4))
        assert best > (0.9999 if suffix in (".wav", ".flac", ".aiff", ".mka") else 0.93), start


def _cosine(window: np.ndarray, truth: np.ndarray, at: int) -> float:
    at = max(at, 0)
    n = min(len(window), len(truth) - at)
    a, b = window[:n], truth[at : at + n]
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


@pytest.mark.parametrize("suffix", [".m4a", ".aac"])
def test_aac_gives_windows_of_the_planned_length_and_loudness(tmp_path, suffix):
    path = os.fsencode(synth.write_track(tmp_path / f"a{suffix}", seconds=8, seed=3))
    decoded = read_windows(path, 8.0, WindowPolicy(1.5, 2), RATE)
    truth = float(np.std(synth.music(8, 3).mean(axis=0)))
    assert [len(w) for w in decoded.windows] == [36000, 36000]
    assert float(np.std(decoded.windows[0])) == pytest.approx(truth, rel=0.2)


def test_seeking_to_a_window_gives_the_same_sound_as_decoding_up_to_it(tmp_path):
    path = os.fsencode(synth.write_track(tmp_path / "a.mp3", seconds=12, seed=5))
    sparse = read_windows(path, 12.0, WindowPolicy(2, 2), RATE)
    whole = read_windows(path, 12.0, WindowPolicy(12, 1), RATE).windows[0]
    for start, window in zip(sparse.starts, sparse.windows, strict=True):
        at = round(start * RATE)
        assert np.abs(window - whole[at : at + len(window)]).max() < 1e-2


def test_mono_is_the_mean_of_the_channels_and_no_louder(tmp_path):
    tone = np.sin(np.arange(3 * 44100, dtype=np.float32) * np.float32(0.05)) / 2
    path = os.fsencode(synth.write_audio(tmp_path / "a.wav", np.stack([tone, tone])))
    window = read_windows(path, 3.0, WindowPolicy(2, 1), RATE).windows[0]
    assert float(np.abs(window).max()) == pytest.approx(0.5, abs=0.01)
    surround = np.stack([tone, *[np.zeros_like(tone)] * 5])
    path = os.fsencode(synth.write_audio(tmp_path / "b.wav", surround))
    window = read_windows(path, 3.0, WindowPolicy(2, 1), RATE).windows[0]
    assert float(np.abs(window).max()) == pytest.approx(0.5 / 6, abs=0.01)


@pytest.mark.parametrize("channels", [9, 16])
def test_more_than_eight_channels_are_averaged_like_fewer(tmp_path, channels):
    import soundfile

    tone = np.sin(np.arange(3 * 44100, dtype=np.float32) * np.float32(0.05)) / 2
    samples = np.zeros((len(tone), channels), np.float32)
    samples[:, 0] = samples[:, -1] = tone
    path = tmp_path / "a.ogg"
    with soundfile.SoundFile(path, "w", 44100, channels, format="OGG", subtype="VORBIS") as file:
        for begin in range(0, len(samples), 1 << 14):
            file.write(samples[begin : begin + (1 << 14)])
    window = read_windows(os.fsencode(path), 3.0, WindowPolicy(2, 1), RATE).windows[0]
    assert float(np.abs(window).max()) == pytest.approx(2 * 0.5 / channels, rel=0.1)


def test_a_length_that_is_made_up_ends_in_an_answer(tmp_path):
    from embed_assets_tests import tagged

    path = tagged.encode(tmp_path / "a.caf", "caf", "pcm_s16be", "s16", seconds=2)
    for seconds in (1e7, 1e9):
        try:
            decoded = read_windows(os.fsencode(path), seconds, WindowPolicy(10, 3), RATE)
        except TrackRejected:
            continue
        assert "could be decoded" in decoded.notes


@pytest.mark.parametrize("suffix", [".mp3", ".ogg", ".opus", ".flac", ".wav"])
def test_a_truncated_file_is_heard_as_far_as_it_goes_and_a_note_says_how_far(tmp_path, suffix):
    whole = synth.write_track(tmp_path / f"whole{suffix}", seconds=12, seed=1).read_bytes()
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(whole[: len(whole) // 2])
    for policy in (WindowPolicy(2, 3), WindowPolicy(2, 0)):
        decoded = read_windows(os.fsencode(cut), 12.0, policy, RATE)
        assert {len(w) for w in decoded.windows} == {2 * RATE}
        assert decoded.starts[-1] + 2 < 8.5
        assert "of 12 s" in decoded.notes


@pytest.mark.parametrize("suffix", [".mp3", ".flac", ".wav", ".aiff"])
def test_a_file_that_is_shorter_than_its_header_says_gets_a_note(tmp_path, suffix):
    whole = synth.write_track(tmp_path / f"whole{suffix}", seconds=12, seed=1)
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    for path, words in ((whole, ""), (cut, "of 12 s could be decoded")):
        duration = probe(os.fsencode(path)).duration
        notes = read_windows(os.fsencode(path), duration, WindowPolicy(2, 2), RATE).notes
        assert (words in notes) if words else notes == ""


def test_damage_in_the_middle_costs_packets_and_not_the_track(tmp_path):
    path = synth.write_track(tmp_path / "a.flac", seconds=10, seed=1)
    raw = bytearray(path.read_bytes())
    third = len(raw) // 3
    raw[third : third + 40_000] = np.random.default_rng(0).bytes(40_000)
    path.write_bytes(raw)
    decoded = read_windows(os.fsencode(path), 10.0, WindowPolicy(2, 0), RATE)
    assert {len(w) for w in decoded.windows} == {2 * RATE}
    assert "of 10 s" in decoded.notes
    assert 8 < decoded.decoded_seconds < 9.9


def test_packets_that_do_not_decode_are_counted_and_left_out(tmp_path):
    path = synth.write_track(tmp_path / "a.m4a", seconds=10, seed=1)
    raw = bytearray(path.read_bytes())
    third = len(raw) // 3
    raw[third : third + 20_000] = b"\xff" * 20_000
    path.write_bytes(raw)
    decoded = read_windows(os.fsencode(path), 10.0, WindowPolicy(2, 0), RATE)
    assert decoded.damaged_packets > 0
    assert re.search(r"\d+ damaged packets? w", decoded.notes)
    assert {len(w) for w in decoded.windows} == {2 * RATE}


def test_a_whole_long_track_is_streamed_and_not_held(tmp_path):
    path = os.fsencode(synth.write_track(tmp_path / "a.wav", seconds=60, seed=1, channels=1))
    stream = iter_windows(path, 60.0, WindowPolicy(1, 0), RATE)
    reader_holds = []
    for _ in stream.windows:
        frame = stream.windows.gi_yieldfrom.gi_frame
        reader_holds.append(sum(len(c) for c in frame.f_locals["reader"]._chunks))
    assert len(stream.starts) == 60
    assert stream.decoded_seconds == pytest.approx(60)
    assert max(reader_holds) < 4 * 44100


def test_a_track_under_a_second_is_too_short(tmp_path):
    path = os.fsencode(synth.write_track(tmp_path / "a.wav", seconds=0.7))
    for claimed in (0.7, 30.0):
        with pytest.raises(TrackRejected) as caught:
            read_windows(path, claimed, WindowPolicy(10, 3), RATE)
        assert caught.value.reason is Reason.TOO_SHORT


def test_audio_of_which_nothing_decodes_is_corrupt(tmp_path):
    path = synth.write_track(tmp_path / "a.m4a", seconds=4)
    raw = bytearray(path.read_bytes())
    begin = raw.index(b"mdat") + 4
    end = raw.index(b"moov") - 4
    raw[begin:end] = b"\xff" * (end - begin)
    path.write_bytes(raw)
    with pytest.raises(TrackRejected) as caught:
        read_windows(os.fsencode(path), 4.0, WindowPolicy(2, 1), RATE)
    assert caught.value.reason is Reason.CORRUPT


def test_infinities_in_a_float_file_do_not_reach_the_encoder(tmp_path):
    import soundfile

    samples = synth.music(3, 0)[0].copy()
    samples[1000:1010] = np.inf
    samples[2000:2010] = np.nan
    soundfile.write(tmp_path / "a.wav", samples, 44100, subtype="FLOAT")
    window = read_windows(os.fsencode(tmp_path / "a.wav"), 3.0, WindowPolicy(3, 1), 44100).windows[
        0
    ]
    assert np.isfinite(window).all()


def test_a_disk_that_fails_is_not_blamed_on_the_track(tmp_path):
    path = os.fsencode(synth.write_track(tmp_path / "a.mp3", seconds=4))
    with pytest.raises(FileNotFoundError):
        read_windows(path + b".gone", 4.0, WindowPolicy(2, 1), RATE)
    # Reading a process's memory at address 0 is an I/O error that any machine can produce.
    from embed_assets.audio.source import Source

    source = Source(b"/proc/self/mem")
    assert source.read(10) == b""
    with pytest.raises(OSError, match="Input/output"):
        source.check()
    source.close()


def test_names_cannot_be_taken_for_urls(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (b"concat:a.wav|b.wav", b"data:audio.wav", b"a\n\xff'\".wav", b"-i.wav", b"pipe:0"):
        (tmp_path / "x.wav").write_bytes(synth.write_track(tmp_path / "y.wav", 2).read_bytes())
        os.rename(b"x.wav", name)
        assert len(decode.read_windows(name, 2.0, WindowPolicy(2, 1), RATE).windows) == 1
