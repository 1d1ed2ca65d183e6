"""A track is rejected only where neither FFmpeg nor libsndfile can read it."""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest

from embed_assets.audio.container import LIBSNDFILE, open_audio
from embed_assets.audio.decode import read_windows
from embed_assets.audio.windows import WindowPolicy
from embed_assets.errors import Reason, TrackRejected
from embed_assets.library.probe import probe
from embed_assets_tests import synth

RATE = 24000


def for_libsndfile(path: Path, seconds: float = 12, seed: int = 0) -> Path:
    """Write Ogg Vorbis whose three headers come twice, as in tracks that a game published.

    FFmpeg says `Header processing failed` to it.
    """
    from mutagen.ogg import OggPage
    from mutagen.oggvorbis import OggVorbis

    synth.write_track(path, seconds, seed)
    tags = OggVorbis(path)
    tags["title"], tags["artist"], tags["date"] = "Ocean", "Will", "2018"
    tags.save()
    raw = path.read_bytes()
    file, pages = BytesIO(raw), []
    while file.tell() < len(raw):
        pages.append(OggPage(file))
    headers = next(n for n, page in enumerate(pages) if page.position > 0)
    again = OggPage.from_packets(OggPage.to_packets(pages[:headers]), sequence=headers)
    for page in again:
        page.serial, page.position = pages[0].serial, 0
    pages[headers:headers] = again
    for number, page in enumerate(pages):
        page.sequence = number
    path.write_bytes(b"".join(page.write() for page in pages))
    return path


def test_what_ffmpeg_cannot_read_is_read_by_libsndfile(tmp_path):
    path = for_libsndfile(tmp_path / "a.ogg")
    with pytest.raises(av.FFmpegError):
        av.open(str(path))
    found = probe(os.fsencode(path))
    assert found.decoder == "libsndfile"
    assert found.duration == pytest.approx(12, abs=0.1)
    assert (found.title, found.artist, found.year) == ("Ocean", "Will", 2018)
    assert (found.codec, found.sample_rate, found.channels) == ("vorbis", 44100, 2)
    policy = WindowPolicy(2, 3)
    decoded = read_windows(os.fsencode(path), found.duration, policy, RATE)
    assert decoded.starts == pytest.approx([1, 5, 9], abs=0.05)
    assert "libsndfile" in decoded.notes
    twin = os.fsencode(synth.write_track(tmp_path / "twin.ogg", 12))
    for window, other in zip(
        decoded.windows, read_windows(twin, 12.0, policy, RATE).windows, strict=True
    ):
        assert float(np.std(window)) == pytest.approx(float(np.std(other)), rel=0.2)


def test_the_windows_of_libsndfile_are_those_of_the_whole_track(tmp_path):
    path = os.fsencode(for_libsndfile(tmp_path / "a.ogg"))
    seconds = probe(path).duration
    whole = read_windows(path, seconds, WindowPolicy(seconds, 1), RATE).windows[0]
    sparse = read_windows(path, seconds, WindowPolicy(2, 3), RATE)
    for start, window in zip(sparse.starts, sparse.windows, strict=True):
        at = round(start * RATE)
        assert np.abs(window - whole[at : at + len(window)]).max() < 1e-2


def test_a_retag_leaves_the_hash_of_what_libsndfile_reads(tmp_path):
    from mutagen.oggvorbis import OggVorbis

    path = for_libsndfile(tmp_path / "a.ogg")
    before = probe(os.fsencode(path))
    tags = OggVorbis(path)
    tags["title"] = "Another" * 300
    tags.save()
    after = probe(os.fsencode(path))
    assert after.title.startswith("Another")
    assert after.audio_hash == before.audio_hash
    other = for_libsndfile(tmp_path / "b.ogg", seed=1)
    assert probe(os.fsencode(other)).audio_hash != before.audio_hash


def test_such_files_joined_to_one_are_heard_from_end_to_end(tmp_path):
    parts = [for_libsndfile(tmp_path / f"{n}.ogg", 6, n).read_bytes() for n in (1, 2)]
    good = synth.write_track(tmp_path / "3.ogg", 6, 3).read_bytes()
    path = tmp_path / "joined.ogg"
    path.write_bytes(b"".join([*parts, good]))
    found = probe(os.fsencode(path))
    assert found.duration == pytest.approx(18, abs=0.2)
    decoded = read_windows(os.fsencode(path), found.duration, WindowPolicy(2, 3), RATE)
    assert decoded.starts == pytest.approx([2, 8, 14], abs=0.1)


def test_a_worker_asks_libsndfile_where_ffmpeg_decodes_nothing(tmp_path):
    """FFmpeg may open a file, list its packets, and decode none of them."""
    path = synth.write_track(tmp_path / "a.flac", 6)
    expected = read_windows(os.fsencode(path), 6.0, WindowPolicy(2, 2), RATE)
    raw = bytearray(path.read_bytes())
    raw[21] ^= 0x80  # bits per sample, in a header of which each frame has a copy
    path.write_bytes(raw)
    found = probe(os.fsencode(path))
    assert found.decoder == "ffmpeg"
    decoded = read_windows(os.fsencode(path), found.duration, WindowPolicy(2, 2), RATE)
    assert "libsndfile" in decoded.notes
    assert decoded.starts == expected.starts
    for window, other in zip(decoded.windows, expected.windows, strict=True):
        assert float(window @ other / np.linalg.norm(window) / np.linalg.norm(other)) > 0.999


def test_what_neither_can_read_is_rejected_with_the_first_reason(tmp_path):
    path = tmp_path / "a.ogg"
    path.write_bytes(b"OggS" + bytes(99))
    with pytest.raises(TrackRejected, match="damaged") as caught:
        probe(os.fsencode(path))
    assert caught.value.reason is Reason.CORRUPT
    with (
        pytest.raises(TrackRejected, match="libsndfile"),
        open_audio(os.fsencode(path), 0.0, LIBSNDFILE),
    ):
        pass


@pytest.mark.parametrize("head", [b"\1\4", b"Creative Voice File\x1a", b"2BIT"])
def test_formats_that_a_few_bytes_make_are_no_audio(tmp_path, head):
    (tmp_path / "a.mp3").write_bytes(head + np.random.default_rng(2).bytes(100_000))
    with pytest.raises(TrackRejected):
        probe(os.fsencode(tmp_path / "a.mp3"))


def test_damaged_mp3s_write_nothing_to_the_terminal(tmp_path, capfd):
    raw = synth.write_track(tmp_path / "a.mp3", 3).read_bytes()
    (tmp_path / "a.mp3").write_bytes(raw[:300] + np.random.default_rng(1).bytes(9000))
    with pytest.raises(TrackRejected):
        probe(os.fsencode(tmp_path / "a.mp3"))
    assert capfd.readouterr().err == ""
