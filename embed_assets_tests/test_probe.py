"""What a file is recognised by: its audio, whatever tags, name or cover it carries."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest

from embed_assets.errors import Reason, TrackRejected
from embed_assets.library.probe import probe
from embed_assets_tests import synth

TAGS = {
    "title": "Träumerei",
    "artist": "Clara",
    "album": "Night",
    "album_artist": "Various",
    "genre": "Piano",
    "date": "1838-05-01",
    "track": "7/13",
    "disc": "2/2",
}


def look(path):
    return probe(os.fsencode(path))


@pytest.mark.parametrize("suffix", [".mp3", ".flac", ".ogg", ".opus", ".m4a"])
def test_tags_are_read_from_every_container(tmp_path, suffix):
    found = look(synth.write_track(tmp_path / f"a{suffix}", seconds=3, tags=TAGS))
    assert (found.title, found.artist, found.album) == ("Träumerei", "Clara", "Night")
    assert (found.album_artist, found.genre, found.year) == ("Various", "Piano", 1838)
    assert (found.track_number, found.disc_number) == (7, 2)
    assert found.duration == pytest.approx(3, abs=0.09)
    assert found.channels == 2
    assert found.sample_rate == (48000 if suffix == ".opus" else 44100)


@pytest.mark.parametrize("suffix", list(synth.CODECS))
def test_duration_is_that_of_the_audio_and_equal_audio_has_an_equal_hash(tmp_path, suffix):
    a = look(synth.write_track(tmp_path / f"a{suffix}", seconds=3, seed=1))
    b = look(synth.write_track(tmp_path / f"b{suffix}", seconds=3, seed=2))
    shutil.copy(tmp_path / f"a{suffix}", tmp_path / f"c{suffix}")
    assert a.duration == pytest.approx(3, abs=0.11)
    assert a.audio_hash != b.audio_hash
    assert look(tmp_path / f"c{suffix}") == a
    assert len(a.audio_hash) == 32


@pytest.mark.parametrize("suffix", [".wav", ".mp3", ".ogg", ".aac"])
def test_a_truncated_file_has_the_duration_of_what_is_there(tmp_path, suffix):
    raw = synth.write_track(tmp_path / f"a{suffix}", seconds=8).read_bytes()
    (tmp_path / f"b{suffix}").write_bytes(raw[: len(raw) // 2])
    assert look(tmp_path / f"b{suffix}").duration == pytest.approx(4, abs=1.1)


def id3(path, text):
    from mutagen.id3 import APIC, ID3, TIT2, TXXX

    tags = ID3()
    tags.add(TIT2(text=[text]))
    tags.add(TXXX(desc="Comment", text=[text * 10]))
    tags.add(APIC(mime="image/png", data=os.urandom(len(text) * 100), type=3))
    tags.save(path, v1=2)


def apev2(path, text):
    from mutagen.apev2 import APEv2

    tags = APEv2()
    tags["Title"] = text
    tags["Comment"] = text * 10
    tags.save(path)


def id3v1_and_apev2(path, text):
    apev2(path, text)
    id3(path, text)
    apev2(path, text + "2")


def vorbis_comments(path, text):
    import mutagen

    tags = mutagen.File(path)
    tags["title"] = text
    tags["comment"] = text * 10
    tags.save()


def flac_picture(path, text):
    from mutagen.flac import FLAC, Picture

    tags = FLAC(path)
    tags["title"] = text
    picture = Picture()
    picture.data, picture.mime = os.urandom(len(text) * 100), "image/png"
    tags.add_picture(picture)
    tags.save()


def mp4_atoms(path, text):
    from mutagen.mp4 import MP4, MP4Cover

    tags = MP4(path)
    tags["\xa9nam"] = text
    tags["\xa9cmt"] = text * 10
    tags["covr"] = [MP4Cover(os.urandom(len(text) * 100), MP4Cover.FORMAT_PNG)]
    tags.save()


def wave_id3(path, text):
    from mutagen.wave import WAVE

    tags = WAVE(path)
    if tags.tags is None:
        tags.add_tags()
    from mutagen.id3 import TIT2

    tags.tags.add(TIT2(text=[text]))
    tags.save()


@pytest.mark.parametrize(
    ("suffix", "retag"),
    [
        (".mp3", id3),
        (".mp3", apev2),
        (".mp3", id3v1_and_apev2),
        (".flac", vorbis_comments),
        (".flac", flac_picture),
        (".ogg", vorbis_comments),
        (".opus", vorbis_comments),
        (".m4a", mp4_atoms),
        (".wav", wave_id3),
        (".aac", apev2),
    ],
)
@pytest.mark.parametrize("length", [5, 20_000], ids=["small", "large"])
def test_a_retag_or_a_new_cover_leaves_the_hash_and_the_duration(tmp_path, suffix, retag, length):
    path = synth.write_track(tmp_path / f"a{suffix}", seconds=3, tags=TAGS)
    before, content = look(path), path.read_bytes()
    retag(path, "n" * length)
    assert path.read_bytes() != content
    after = look(path)
    assert after.audio_hash == before.audio_hash
    assert after.duration == before.duration
    if retag is not apev2:
        assert after.title == ("n" * length)[:1000]


def test_an_mp4_with_its_index_moved_to_the_front_is_the_same_audio(tmp_path):
    import av

    path = synth.write_track(tmp_path / "a.m4a", seconds=3)
    with (
        av.open(str(path)) as source,
        av.open(
            str(tmp_path / "b.m4a"), "w", format="ipod", options={"movflags": "faststart"}
        ) as out,
    ):
        stream = out.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(source.streams.audio[0]):
            if packet.size:
                packet.stream = stream
                out.mux(packet)
    raw = (tmp_path / "b.m4a").read_bytes()
    assert raw.index(b"moov") < raw.index(b"mdat")
    assert look(tmp_path / "b.m4a").audio_hash == look(path).audio_hash


def test_a_musicbrainz_recording_id_is_found(tmp_path):
    from mutagen.flac import FLAC
    from mutagen.id3 import ID3, UFID

    mbid = "b1a9c0e9-d987-4042-ae91-78d6a3267d69"
    mp3 = synth.write_track(tmp_path / "a.mp3", seconds=2)
    tags = ID3(mp3)
    tags.add(UFID(owner="http://musicbrainz.org", data=mbid.encode()))
    tags.save(mp3)
    flac = synth.write_track(tmp_path / "a.flac", seconds=2)
    tags = FLAC(flac)
    tags["musicbrainz_trackid"] = mbid
    tags.save()
    assert look(mp3).recording_id == mbid
    assert look(flac).recording_id == mbid
    assert look(synth.write_track(tmp_path / "b.mp3", seconds=2)).recording_id == ""


def test_tags_of_any_bytes_and_any_length_are_made_harmless(tmp_path):
    path = synth.write_track(tmp_path / "a.flac", seconds=2, tags={"title": "MARKMARK"})
    path.write_bytes(path.read_bytes().replace(b"MARKMARK", b"M\xff\xfe\xf0MARK"))
    assert look(path).title.startswith("M\ufffd")
    path = synth.write_track(tmp_path / "b.flac", 2, tags={"title": "x" * 5000, "date": "n/a"})
    assert look(path).title == "x" * 1000
    assert look(path).year is None


@pytest.mark.parametrize(
    ("name", "content", "reason", "words"),
    [
        ("empty.mp3", b"", Reason.EMPTY, "0 bytes"),
        ("cover.mp3", b"\xff\xd8\xff\xe0\0\x10JFIF" + bytes(999), Reason.NOT_AUDIO, "JPEG"),
        ("cover.flac", b"\x89PNG\r\n\x1a\n" + bytes(99), Reason.NOT_AUDIO, "PNG picture"),
        ("notes.mp3", b"Remember the milk.\n" * 99, Reason.NOT_AUDIO, "text file"),
        ("page.ogg", b"<!doctype html><p>404", Reason.NOT_AUDIO, "web page"),
        ("zeros.mp3", bytes(99_999), Reason.CORRUPT, "zero bytes"),
        ("head.ogg", b"OggS" + bytes(99), Reason.CORRUPT, "damaged"),
        ("head.m4a", b"\0\0\0\x20ftypM4A " + bytes(99), Reason.CORRUPT, "damaged"),
        ("noise.mp3", np.random.default_rng(1).bytes(50_000), None, "audio"),
    ],
)
def test_what_is_no_audio_is_rejected_in_words(tmp_path, name, content, reason, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TrackRejected, match=words) as caught:
        look(tmp_path / name)
    assert reason is None or caught.value.reason is reason


def test_a_video_without_sound_is_not_audio(tmp_path):
    import av

    with av.open(str(tmp_path / "a.m4a"), "w", format="mp4") as out:
        stream = out.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            out.mux(packet)
    with pytest.raises(TrackRejected, match="video only") as caught:
        look(tmp_path / "a.m4a")
    assert caught.value.reason is Reason.NOT_AUDIO


@pytest.mark.parametrize("entry", [b"drms", b"enca"])
def test_a_protected_track_is_said_to_be_protected(tmp_path, entry):
    path = synth.write_track(tmp_path / "a.m4p.m4a", seconds=2)
    path.write_bytes(path.read_bytes().replace(b"mp4a", entry))
    with pytest.raises(TrackRejected, match="DRM") as caught:
        look(path)
    assert caught.value.reason is Reason.PROTECTED


@pytest.mark.parametrize(
    "content",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:3,\n{secret}\n#EXT-X-ENDLIST\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:3,\nfile://{secret}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile '{secret}'\n",
        "ffconcat version 1.0\nfile secret.mp3\n",
    ],
)
def test_a_playlist_dressed_as_a_track_opens_nothing_else(tmp_path, monkeypatch, content):
    secret = synth.write_track(tmp_path / "secret.mp3", seconds=3)
    monkeypatch.chdir(tmp_path)
    before = os.stat(secret).st_atime_ns
    os.utime(secret, ns=(0, os.stat(secret).st_mtime_ns))
    (tmp_path / "a.mp3").write_text(content.format(secret=secret))
    with pytest.raises(TrackRejected, match="playlist") as caught:
        look(tmp_path / "a.mp3")
    assert caught.value.reason is Reason.NOT_AUDIO
    assert before
    assert os.stat(secret).st_atime_ns == 0


def test_a_pipe_in_the_library_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "a.mp3")
    with pytest.raises(TrackRejected, match="not a regular file"):
        look(tmp_path / "a.mp3")


def test_a_missing_file_is_not_blamed_on_the_track(tmp_path):
    with pytest.raises(FileNotFoundError):
        look(tmp_path / "gone.mp3")


def test_names_of_any_bytes_can_be_opened(tmp_path):
    source = synth.write_track(tmp_path / "a.mp3", seconds=2)
    for name in (b"\xff\xfe.mp3", b"a\nb'\".mp3", b"http:||x.mp3", b"concat:a.mp3|b.mp3"):
        target = os.path.join(os.fsencode(tmp_path), name)
        shutil.copy(source, target)
        assert probe(target).codec == "mp3"
