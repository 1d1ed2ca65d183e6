"""What is left out of a library is counted, with what to do."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from embed_assets.cli.command_line import app
from embed_assets.library.kinds import NOT_TAKEN, TAKEN
from embed_assets.library.left_out import LeftOut
from embed_assets.library.walk import walk
from embed_assets.operations.doctor import doctor
from embed_assets.operations.status import status
from embed_assets.settings import Settings
from embed_assets_tests.encoded import encode
from embed_assets_tests.synth import music
from embed_assets_tests.test_walk import put


@pytest.fixture
def library(tmp_path: Path) -> Path:
    made = tmp_path / "library"
    put(made, "real/x.mp3")
    return made


def left_out_of(library: Path, after: bytes | None = None) -> LeftOut:
    found = LeftOut()
    for _ in walk(library, after, found):
        pass
    return found


def settings_of(library: Path) -> Settings:
    home = library.parent / "home"
    return Settings(_env_file=None, library=library, home=home, encoder="acoustic")


def test_links_that_lead_out_of_the_library_or_nowhere_are_counted(library):
    outside = library.parent / "another disk"
    put(outside, "Album/1.mp3", "cover.jpg")
    links = {
        "Album": outside / "Album",
        "real/Album too": outside / "Album",
        "Vol.2": outside,
        "real/escape.mp3": outside / "Album/1.mp3",
        "unmounted": library.parent / "not there",
        "real/gone.mp3": library / "gone.mp3",
        "loop": "loop",
        "loop a": "loop b",
        "loop b": "loop a",
    }
    for name, target in links.items():
        (library / name).symlink_to(target)
    found = left_out_of(library)
    assert (found.linked_folders, found.linked_files, found.broken_links) == (3, 1, 5)
    assert found.links == len(links)
    assert "'Album'" in found.about_links()
    assert "mount" in found.about_links()


def test_links_that_leave_no_music_out_are_not_counted(library):
    outside = library.parent / "another disk"
    put(outside, "cover.jpg", "notes.txt", "x.mp3")
    (library / "favourite").symlink_to(library / "real")
    (library / "real/up").symlink_to(library)
    (library / "real/again.mp3").symlink_to(library / "real/x.mp3")
    (library / "real/cover.jpg").symlink_to(outside / "cover.jpg")
    (library / ".hidden").symlink_to(outside)
    (library / "@eaDir").symlink_to(outside)
    put(library, "ignored/.nomedia")
    (library / "ignored/link").symlink_to(outside)
    assert left_out_of(library).links == 0
    assert left_out_of(library).about_links() == ""
    library.rename(library.parent / "moved")
    library.symlink_to(library.parent / "moved")
    (library / "out").symlink_to(outside)
    assert left_out_of(library).links == 1, "the library itself may be a link"


def test_a_broken_link_counts_if_music_may_have_been_behind_it(library):
    for name in ("cover.jpg", "notes.txt", "gone.flac", "Disc 2"):
        (library / "real" / name).symlink_to("/nowhere at all")
    assert left_out_of(library).broken_links == 2


def test_entries_that_the_disk_says_nothing_of_keep_nothing_else_from_being_counted(library):
    class Failing:
        """As of a file system that is asked for each entry's kind, on a disk that fails."""

        def __init__(self, name: bytes, fails: bool) -> None:
            self.name, self.fails = name, fails

        def is_symlink(self) -> bool:
            if self.fails:
                raise PermissionError(13, "Permission denied")
            return False

        def is_file(self, follow_symlinks: bool) -> bool:
            if self.name.startswith(b"broken"):
                raise OSError(5, "Input/output error")
            return True

    found = LeftOut()
    entries = [Failing(b"a", True), Failing(b"broken.mp4", False), Failing(b"clip.mp4", False)]
    found.note(os.fsencode(library), b"", entries)
    assert (found.links, found.endings) == (0, {".mp4": 1})


def test_a_walk_in_segments_counts_each_link_once(library):
    outside = library.parent / "another disk"
    put(outside, "x.mp3")
    for folder in ("", "real", "a", "a/b", "z"):
        put(library, f"{folder}/x.mp3".lstrip("/"))
        (library / folder / "link").symlink_to(outside)
    (library / "only links").mkdir()
    (library / "only links/link").symlink_to(outside)
    paths = [f.path for f in walk(library)]
    for cut in paths[:-1]:
        found = LeftOut()
        for folder in walk(library, None, found):
            if folder.path == cut:
                break
        for _ in walk(library, cut, found):
            pass
        assert found.links == 6, cut


def test_status_sync_and_doctor_say_how_many_links_are_skipped(library, monkeypatch):
    outside = library.parent / "another disk"
    put(outside, "x.mp3")
    for i in range(3):
        (library / f"Artist {i}").symlink_to(outside)
    (library / "real/soft link.mp3").symlink_to(outside / "x.mp3")
    settings = settings_of(library)
    assert status(settings).as_json()["links_skipped"] == 4
    found = next(f for f in doctor(settings) if f.check == "left out")
    assert found.ok
    assert found.counts == {
        "links_to_folders": 3,
        "links_to_files": 1,
        "broken_links": 0,
        "endings": {},
        "cue_sheets": 0,
    }
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    told = CliRunner().invoke(app, ["status"]).stdout
    assert "4 symbolic links not followed" in told
    (library / "real/x.mp3").unlink()
    told = next(f for f in doctor(settings) if f.check == "library")
    assert not told.ok
    assert "contains no audio files" in told.message
    assert "symbolic links are not followed" in told.message


def test_sync_counts_links_too(world):
    world.album("Album", 1)
    (world.library / "link").symlink_to(world.root)
    assert world.sync()["links_skipped"] == 1
    assert "1 symbolic link not followed" in world.run("sync").stdout
    done = world.run("doctor", "--json")
    (found,) = (f for f in json.loads(done.stdout) if f["check"] == "left out")
    assert (done.returncode, found["counts"]["links_to_folders"]) == (0, 1)


def test_files_that_look_like_audio_and_are_not_taken_are_counted_by_ending(library):
    put(library, "a/clip.mp4", "a/CLIP.MP4", "a/b/tune.xm", "a/song.mid", "a/x.ogx", "a/cover.jpg")
    put(library, ".hidden/x.mp4", "a/.x.mp4", "list.m3u", "a/mp4")
    (library / "album.mp4").mkdir()
    found = left_out_of(library)
    assert found.endings == {".mp4": 2, ".xm": 1, ".mid": 1, ".ogx": 1}
    told = "; ".join(found.sentences())
    for words in ("2 .mp4, 1 .ogx not indexed", "ffmpeg -i", "1 .xm", "openmpt123", "1 .mid"):
        assert words in told


def test_an_album_in_one_file_with_a_cue_sheet_is_said_to_be_one_track(library):
    put(library, "image/Album.flac", "image/Album.cue")
    put(library, "other name/Album.ape", "other name/disc.CUE")
    put(library, "two discs/1.flac", "two discs/1.cue", "two discs/2.flac", "two discs/2.flac.cue")
    put(library, "ripped/01.flac", "ripped/02.flac", "ripped/Album.cue")
    put(library, "sheet alone/Album.cue")
    found = left_out_of(library)
    assert found.cue_sheets == 4
    assert "one track" in found.sentences()[-1]
    assert "image/Album.cue" in found.sentences()[-1]


def test_no_ending_is_both_taken_and_not():
    endings = [e for kind in (*TAKEN, *NOT_TAKEN) for e in kind.endings]
    assert len(endings) == len(set(endings))
    assert all(kind.why and kind.instead for kind in NOT_TAKEN)


ENCODED = {
    "mpga": ("mp3", "libmp3lame", "s16p", 44_100),
    "mpa": ("mp2", "mp2", "s16", 44_100),
    "m2a": ("mp2", "mp2", "s16", 44_100),
    "m4r": ("ipod", "aac", "fltp", 44_100),
    "f4a": ("f4v", "aac", "fltp", 44_100),
    "f4b": ("f4v", "aac", "fltp", 44_100),
    "3ga": ("3gp", "libopencore_amrnb", "s16", 8_000),
    "adts": ("adts", "aac", "fltp", 44_100),
    "rf64": ("wav", "pcm_s16le", "s16", 44_100),
    "weba": ("webm", "libopus", "s16", 48_000),
    "ec3": ("eac3", "eac3", "fltp", 48_000),
}


def layer_one(seconds: float) -> bytes:
    """MPEG-1 layer I, which FFmpeg decodes and cannot encode: noise in eight subbands."""
    rng = np.random.default_rng(1)
    frames = []
    for _ in range(round(seconds * 44_100 / 384)):
        bits = "".join(f"{7 if band < 8 else 0:04b}" for band in range(32))
        bits += "".join(f"{20:06b}" for _ in range(8))
        bits += "".join(f"{n:08b}" for n in rng.integers(60, 190, 12 * 8))
        body = int(bits, 2).to_bytes(len(bits) // 8, "big")
        frames.append((b"\xff\xff\xc0\xc0" + body).ljust(416, b"\0"))
    return b"".join(frames)


def open_mg(seconds: float) -> bytes:
    """Sony's container, which FFmpeg reads and writes for ATRAC alone: with PCM in it."""
    head = bytearray(96)
    head[:8] = b"EA3\x01\x00\x60\xff\xff"
    head[32] = 4
    samples = (music(seconds, 5).T * 32_767).astype(">i2")
    return bytes(head) + samples.tobytes()


MADE_BY_HAND = {"mp1": layer_one, "oma": open_mg, "aa3": open_mg}


@pytest.mark.parametrize("ending", [*ENCODED, *MADE_BY_HAND])
def test_a_real_file_of_each_ending_is_taken_and_read(tmp_path, ending):
    from embed_assets.audio.decode import read_windows
    from embed_assets.audio.windows import WindowPolicy
    from embed_assets.library.probe import probe

    rate = 44_100
    if ending in MADE_BY_HAND:
        raw = MADE_BY_HAND[ending](2.0)
    else:
        muxer, codec, fmt, rate = ENCODED[ending]
        raw = encode(music(2.0, 5, rate, 1), rate, muxer, codec, fmt)
    path = os.fsencode(tmp_path / f"x.{ending}")
    Path(os.fsdecode(path)).write_bytes(raw)
    assert [f.files for f in walk(tmp_path)] == [1]
    found = probe(path)
    assert found.duration == pytest.approx(2.0, rel=0.1)
    decoded = read_windows(path, found.duration, WindowPolicy(1.0, 1), 24_000)
    assert (decoded.damaged_packets, decoded.notes) == (0, "")
    assert np.abs(decoded.windows[0]).max() > 0.01
