"""Audio is the same audio whatever lies behind it, and files joined to one are heard to the end."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from embed_assets.audio.decode import read_windows
from embed_assets.audio.windows import WindowPolicy
from embed_assets.library.probe import probe
from embed_assets_tests import synth, tagged

RATE = 24000

OLD = tagged.id3v1(b"Title", b"Artist", year=b"1999", genre=17)
APE = tagged.ape(Title="Hello", Artist="X" * 300)
FOOTER = b"3DI\4\0\x10" + tagged.syncsafe(17)
BEHIND = {
    "id3v1": OLD,
    "ape": APE,
    "ape and id3v1": APE + OLD,
    "id3v1 and ape": OLD + APE,
    "two id3v1": OLD + OLD,
    "lyrics and id3v1": tagged.lyrics3() + OLD,
    "ape, lyrics and id3v1": APE + tagged.lyrics3() + OLD,
    "id3v2": tagged.id3(4, ("TIT2", tagged.utf8("Hello!"))) + bytes(200),
    "id3v2 with a footer": tagged.id3(4, ("TIT2", tagged.utf8("Hello!"))) + FOOTER,
    "zeros": bytes(5000),
    "id3v1 and zeros": OLD + bytes(3000),
    "text": b"some text behind it " * 40,
    "noise": np.random.default_rng(5).bytes(3000),
    "a picture": b"\xff\xd8\xff\xe0\0\x10JFIF\0" + np.random.default_rng(6).bytes(20_000),
}


@pytest.mark.parametrize("behind", list(BEHIND))
@pytest.mark.parametrize("suffix", [".mp3", ".mp2", ".flac", ".aac", ".ac3", ".wv", ".tta", ".ogg"])
def test_what_lies_behind_the_audio_is_no_audio(tmp_path, suffix, behind):
    path = tmp_path / f"a{suffix}"
    made = {
        ".mp2": ("mp2", "mp2", "s16"),
        ".ac3": ("ac3", "ac3", "fltp"),
        ".wv": ("wv", "wavpack", "s16p"),
        ".tta": ("tta", "tta", "s16"),
    }
    if suffix in made:
        tagged.encode(path, *made[suffix], seconds=3)
    else:
        synth.write_track(path, seconds=3)
    before = probe(os.fsencode(path))
    whole = read_windows(os.fsencode(path), before.duration, WindowPolicy(1, 0), RATE)
    with open(path, "ab") as file:
        file.write(BEHIND[behind])
    after = probe(os.fsencode(path))
    assert after.audio_hash == before.audio_hash
    assert after.duration == before.duration
    again = read_windows(os.fsencode(path), after.duration, WindowPolicy(1, 0), RATE)
    assert np.array_equal(np.stack(again.windows[:2]), np.stack(whole.windows[:2]))


def test_a_flac_with_other_audio_at_its_end_is_other_audio(tmp_path):
    hashes = set()
    for seed in (1, 2):
        samples = synth.music(3, 1).copy()
        samples[:, -100:] = synth.music(3, seed)[:, -100:]
        path = synth.write_audio(tmp_path / "a.flac", samples)
        hashes.add(probe(os.fsencode(path)).audio_hash)
        path.write_bytes(path.read_bytes() + OLD)
        hashes.add(probe(os.fsencode(path)).audio_hash)
    assert len(hashes) == 2


def ogg(folder: Path, suffix: str, seconds: float, seed: int) -> bytes:
    path = folder / f"part{seed}{suffix}"
    if suffix == ".oga":
        return tagged.ogg_flac(path, seconds, seed).read_bytes()
    return synth.write_track(path, seconds, seed).read_bytes()


@pytest.mark.parametrize("suffix", [".ogg", ".opus", ".oga", ".mp3", ".aac"])
def test_files_that_are_joined_to_one_are_heard_from_end_to_end(tmp_path, suffix):
    """Windows lie where they would in one recording of both, and hold what is played there."""
    parts = [ogg(tmp_path, suffix, 12, seed) for seed in (1, 2)]
    path = tmp_path / f"joined{suffix}"
    path.write_bytes(b"".join(parts))
    found = probe(os.fsencode(path))
    assert found.duration == pytest.approx(24, abs=0.15)
    decoded = read_windows(os.fsencode(path), found.duration, WindowPolicy(2, 3), RATE)
    assert decoded.starts == pytest.approx([3, 11, 19], abs=0.1)
    assert decoded.notes == ""
    alone = tmp_path / f"alone{suffix}"
    for number, start, window in ((0, 3, 0), (1, 7, 2)):
        alone.write_bytes(parts[number])
        truth = read_windows(os.fsencode(alone), 12.0, WindowPolicy(12, 1), RATE).windows[0]
        assert _same_sound(decoded.windows[window], truth, start), number


def _same_sound(window: np.ndarray, truth: np.ndarray, start: float) -> bool:
    """Whether a window is what is heard at about `start`; places differ by a frame of a codec."""
    spread = 2400
    begin = round(start * RATE) - spread
    around = truth[begin : begin + len(window) + 2 * spread]
    size = 1 << (len(window) + len(around)).bit_length()
    products = np.fft.irfft(np.fft.rfft(around, size) * np.conj(np.fft.rfft(window, size)), size)
    energy = np.cumsum(np.concatenate([[0.0], around.astype(np.float64) ** 2]))
    at = np.arange(2 * spread)
    norms = np.sqrt(energy[at + len(window)] - energy[at]) * np.linalg.norm(window)
    return float((products[: 2 * spread] / norms).max()) > 0.9


def test_a_window_over_a_joint_has_the_end_of_one_file_and_the_beginning_of_the_next(tmp_path):
    parts = [ogg(tmp_path, ".oga", 5, seed) for seed in (1, 2)]
    path = tmp_path / "joined.oga"
    path.write_bytes(b"".join(parts))
    window = read_windows(os.fsencode(path), 10.0, WindowPolicy(4, 1), RATE).windows[0]
    import soxr

    both = np.concatenate([synth.music(5, seed).mean(axis=0) for seed in (1, 2)])
    truth = soxr.resample(both, 44100, RATE)[3 * RATE : 7 * RATE]
    assert float(window @ truth / np.linalg.norm(window) / np.linalg.norm(truth)) > 0.999


def test_links_of_other_rates_and_codecs_are_heard_as_well(tmp_path):
    low = synth.write_audio(tmp_path / "low.ogg", synth.music(6, 2, rate=22050), rate=22050)
    parts = [ogg(tmp_path, ".ogg", 6, 1), low.read_bytes(), ogg(tmp_path, ".opus", 6, 3)]
    path = tmp_path / "stream.ogg"
    path.write_bytes(b"".join(parts))
    found = probe(os.fsencode(path))
    assert found.duration == pytest.approx(18, abs=0.1)
    decoded = read_windows(os.fsencode(path), found.duration, WindowPolicy(2, 3), RATE)
    assert decoded.starts == pytest.approx([2, 8, 14], abs=0.1)
    truth = read_windows(os.fsencode(low), 6.0, WindowPolicy(6, 1), RATE).windows[0]
    assert _same_sound(decoded.windows[1], truth, 2)


def test_a_joint_of_two_rates_costs_no_time(tmp_path):
    """Each part is resampled as a whole: nothing drifts."""
    high = synth.write_audio(tmp_path / "high.opus", synth.music(8, 2, rate=48000), rate=48000)
    first = ogg(tmp_path, ".ogg", 8, 1)
    path = tmp_path / "joined.ogg"
    path.write_bytes(first + high.read_bytes())
    found = probe(os.fsencode(path))
    window = read_windows(os.fsencode(path), found.duration, WindowPolicy(16, 1), RATE).windows[0]
    truth = read_windows(os.fsencode(high), 8.0, WindowPolicy(8, 1), RATE).windows[0]
    for start in (1, 6):  # seconds into the second part
        part = window[round((8 + start) * RATE) :][:RATE]
        around = truth[start * RATE - 480 : (start + 1) * RATE + 480]
        lags = [float(around[i : i + RATE] @ part) for i in range(0, 960, 4)]
        best = int(np.argmax(lags)) * 4 - 480
        assert abs(best) < 240, "10 ms, at its beginning as at its end"


def test_a_file_of_thousands_of_parts_is_read_with_few_open(tmp_path):
    import resource

    part = ogg(tmp_path, ".ogg", 1, 1)
    path = tmp_path / "stream.ogg"
    path.write_bytes(part * 300)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 20, hard))
    try:
        found = probe(os.fsencode(path))
        decoded = read_windows(os.fsencode(path), found.duration, WindowPolicy(2, 3), RATE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert found.duration == pytest.approx(300, abs=3)
    assert len(decoded.windows) == 3


def test_a_joined_file_is_another_audio_than_each_of_its_parts(tmp_path):
    parts = [ogg(tmp_path, ".ogg", 3, seed) for seed in (1, 2)]
    hashes = set()
    for content in (*parts, parts[0] + parts[1], parts[1] + parts[0]):
        (tmp_path / "a.ogg").write_bytes(content)
        hashes.add(probe(os.fsencode(tmp_path / "a.ogg")).audio_hash)
    assert len(hashes) == 4


def test_a_part_that_is_damaged_is_left_out_and_said(tmp_path):
    good, bad = ogg(tmp_path, ".ogg", 6, 1), bytearray(ogg(tmp_path, ".ogg", 6, 2))
    # The setup header of the second file: no decoder can do without.
    bad[60:3000] = os.urandom(2940)
    path = tmp_path / "a.ogg"
    path.write_bytes(good + bytes(bad))
    found = probe(os.fsencode(path))
    decoded = read_windows(os.fsencode(path), found.duration, WindowPolicy(2, 0), RATE)
    assert decoded.windows
    assert 5.9 < found.duration < 12.1
