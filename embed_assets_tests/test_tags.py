"""What a tagger wrote is what is found, in every container and every dialect of tags."""

from __future__ import annotations

import contextlib
import os
import random
from pathlib import Path

import pytest

from embed_assets.errors import TrackRejected
from embed_assets.library.probe import Probe, probe
from embed_assets_tests import synth, tagged
from embed_assets_tests.tagged import ape, bare_mp3, id3, id3v1, latin, utf8, utf16

RECORDING = "11111111-2222-3333-4444-555555555555"
RELEASE = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"
ARTIST = "cccccccc-bbbb-cccc-dddd-eeeeeeeeeeee"
OTHER = "dddddddd-bbbb-cccc-dddd-eeeeeeeeeeee"


def look(path: Path) -> Probe:
    return probe(os.fsencode(path))


def vorbis(path: Path) -> None:
    import mutagen

    tags = mutagen.File(path)
    if tags.tags is None:
        tags.add_tags()
    tags.update(
        title="T",
        artist=["One", "Two"],
        album="Album",
        albumartist="Band",
        genre=["Rock", "Pop"],
        date="1999-12-31",
        tracknumber="3",
        tracktotal="12",
        discnumber="2",
        musicbrainz_trackid=RECORDING,
        musicbrainz_albumid=RELEASE,
        musicbrainz_artistid=[ARTIST, OTHER],
    )
    tags.save()


def mp4(path: Path) -> None:
    from mutagen.mp4 import MP4, MP4FreeForm

    tags = MP4(path)
    tags["\xa9nam"], tags["\xa9ART"], tags["\xa9alb"] = "T", ["One", "Two"], "Album"
    tags["aART"], tags["\xa9gen"], tags["\xa9day"] = "Band", ["Rock", "Pop"], "1999-12-31"
    tags["trkn"], tags["disk"] = [(3, 12)], [(2, 2)]
    for name, value in (("Track", RECORDING), ("Album", RELEASE), ("Artist", ARTIST)):
        free = f"----:com.apple.iTunes:MusicBrainz {name} Id"
        tags[free] = [MP4FreeForm(value.encode())]
    tags.save()


def id3_frames(path: Path) -> None:
    import mutagen
    from mutagen import id3 as frames

    tags = mutagen.File(path)
    if tags is None:
        from mutagen.dsf import DSF

        tags = DSF(path)
    if tags.tags is None:
        tags.add_tags()
    for frame in (
        frames.TIT2(text="T"),
        frames.TPE1(text=["One", "Two"]),
        frames.TALB(text="Album"),
        frames.TPE2(text="Band"),
        frames.TCON(text=["Rock", "Pop"]),
        frames.TDRC(text="1999-12-31"),
        frames.TRCK(text="3/12"),
        frames.TPOS(text="2/2"),
        frames.UFID(owner="http://musicbrainz.org", data=RECORDING.encode()),
        frames.TXXX(desc="MusicBrainz Album Id", text=RELEASE),
        frames.TXXX(desc="MusicBrainz Artist Id", text=[ARTIST, OTHER]),
    ):
        tags.tags.add(frame)
    tags.save()


def ape_items(path: Path) -> None:
    from mutagen.apev2 import APEv2

    tags = APEv2()
    tags["Title"], tags["Artist"], tags["Album"] = "T", ["One", "Two"], "Album"
    tags["Album Artist"], tags["Genre"], tags["Year"] = "Band", ["Rock", "Pop"], "1999"
    tags["Track"], tags["Disc"] = "3/12", "2/2"
    tags["MUSICBRAINZ_TRACKID"], tags["MUSICBRAINZ_ALBUMID"] = RECORDING, RELEASE
    tags["MUSICBRAINZ_ARTISTID"] = [ARTIST, OTHER]
    tags.save(path)


def asf(path: Path) -> None:
    from mutagen.asf import ASF

    tags = ASF(path)
    tags["Title"], tags["Author"], tags["WM/AlbumTitle"] = ["T"], ["One", "Two"], ["Album"]
    tags["WM/AlbumArtist"], tags["WM/Genre"], tags["WM/Year"] = ["Band"], ["Rock", "Pop"], ["1999"]
    tags["WM/TrackNumber"], tags["WM/PartOfSet"] = ["3/12"], ["2/2"]
    tags["MusicBrainz/Track Id"], tags["MusicBrainz/Album Id"] = [RECORDING], [RELEASE]
    tags["MusicBrainz/Artist Id"] = [ARTIST, OTHER]
    tags.save()


def matroska(path: Path) -> None:
    two = tagged.matroska_tag(30, GENRE="Pop", ARTIST="Two")
    tagged.with_matroska_tags(
        path,
        tagged.matroska_tag(
            50, TITLE="Album", ARTIST="Band", DATE_RELEASED="1999", MUSICBRAINZ_ALBUMID=RELEASE
        ),
        tagged.matroska_tag(40, PART_NUMBER="2"),
        tagged.matroska_tag(
            30,
            TITLE="T",
            ARTIST="One",
            GENRE="Rock",
            PART_NUMBER="3",
            MUSICBRAINZ_TRACKID=RECORDING,
            MUSICBRAINZ_ARTISTID=ARTIST,
        ),
        two,
    )


CONTAINERS = {
    "flac": ("a.flac", None, vorbis),
    "ogg vorbis": ("a.ogg", None, vorbis),
    "opus": ("a.opus", None, vorbis),
    "ogg flac": ("a.oga", tagged.ogg_flac, vorbis),
    "mp3": ("a.mp3", None, id3_frames),
    "mp3 with ape": ("b.mp3", None, ape_items),
    "m4a": ("a.m4a", None, mp4),
    "alac": ("b.m4a", ("ipod", "alac", "s16p"), mp4),
    "wav": ("a.wav", None, id3_frames),
    "aiff": ("a.aiff", None, id3_frames),
    "dsf": ("a.dsf", tagged.dsf, id3_frames),
    "tta": ("a.tta", ("tta", "tta", "s16"), id3_frames),
    "tta with ape": ("b.tta", ("tta", "tta", "s16"), ape_items),
    "wavpack": ("a.wv", ("wv", "wavpack", "s16p"), ape_items),
    "aac with ape": ("a.aac", None, ape_items),
    "ac3 with ape": ("a.ac3", ("ac3", "ac3", "fltp"), ape_items),
    "wma": ("a.wma", ("asf", "wmav2", "fltp"), asf),
    "matroska": ("a.mka", None, matroska),
}


@pytest.mark.parametrize("container", list(CONTAINERS))
def test_the_same_tags_give_the_same_row_in_every_container(tmp_path, container):
    name, encoder, write = CONTAINERS[container]
    path = tmp_path / name
    if encoder is None:
        synth.write_track(path, seconds=2)
    elif callable(encoder):
        encoder(path)
    else:
        tagged.encode(path, *encoder)
    write(path)
    found = look(path)
    assert (found.title, found.artist, found.album) == ("T", "One; Two", "Album")
    assert (found.album_artist, found.genre, found.year) == ("Band", "Rock; Pop", 1999)
    assert (found.track_number, found.disc_number) == (3, 2)
    assert (found.recording_id, found.release_id, found.artist_id) == (RECORDING, RELEASE, ARTIST)


def mp3(folder: Path, *parts: bytes, behind: bytes = b"") -> Probe:
    path = folder / "x.mp3"
    path.write_bytes(b"".join(parts) + bare_mp3(folder) + behind)
    return look(path)


@pytest.mark.parametrize(
    ("text", "genre"),
    [
        ("80s", "80s"),
        ("2 Tone", "2 Tone"),
        ("8-bit", "8-bit"),
        ("1980s", "1980s"),
        ("20er Jahre", "20er Jahre"),
        ("(80s)", "(80s)"),
        ("Rock", "Rock"),
        ("-1", "-1"),
        ("17", "Rock"),
        ("(17)", "Rock"),
        ("0", "Blues"),
        ("(RX)", "Remix"),
        ("(155)", "Downtempo"),
        ("(255)", ""),
        ("808", "808"),
        ("9" * 5000, "9" * 1000),
        ("(51)(39)", "Techno-Industrial; Noise"),
        ("(4)Eurodisco", "Disco; Eurodisco"),
        ("(17)Rock", "Rock"),
        ("((I think) Pop", "(I think) Pop"),
        ("17\x00(18)\x0080s\x00Pop", "Rock; Techno; 80s; Pop"),
    ],
)
@pytest.mark.parametrize("version", [2, 3, 4])
def test_a_genre_is_its_text_unless_it_is_a_reference(tmp_path, version, text, genre):
    frame = ("TCO" if version == 2 else "TCON", latin(text))
    assert mp3(tmp_path, id3(version, frame)).genre == genre


def test_a_genre_means_the_same_in_other_containers(tmp_path):
    from mutagen.flac import FLAC

    path = synth.write_track(tmp_path / "a.flac", 2)
    tags = FLAC(path)
    tags["genre"] = ["80s", "(17)", "Pop"]
    tags.save()
    assert look(path).genre == "80s; Rock; Pop"


@pytest.mark.parametrize(
    ("text", "year"),
    [
        ("2006", 2006),
        ("20060203", 2006),
        ("200602", 2006),
        ("2006-02-03", 2006),
        ("02/28/2022", 2022),
        ("28.02.2022", 2022),
        ("1993- 2-22", 1993),
        ("2014-11-18T15:05:00Z", 2014),
        ("c1974", 1974),
        ("1974/2004", 1974),
        ("1974\u5e74", 1974),
        ("(P) 1999", 1999),
        ("\uff11\uff19\uff19\uff19", 1999),
        ("0000", None),
        ("99", None),
        ("19991", None),
        ("12345678", None),
    ],
)
def test_a_year_is_found_in_a_date_of_any_form(tmp_path, text, year):
    from mutagen.flac import FLAC

    path = synth.write_track(tmp_path / "a.flac", 2)
    tags = FLAC(path)
    tags["date"] = text
    tags.save()
    assert look(path).year == year
    frames = [("TDRC", utf8(text))], [("TYER", utf16(text))]
    assert mp3(tmp_path, id3(4, *frames[0])).year == year
    assert mp3(tmp_path, id3(3, *frames[1])).year == year


@pytest.mark.parametrize(
    ("frames", "year"),
    [
        ([("TDRC", "1973"), ("TDRL", "2011")], 1973),
        ([("TDRL", "2011"), ("TDRC", "1973")], 1973),
        ([("TDRL", "2011")], 2011),
        ([("TDOR", "1971"), ("TDRC", "2011")], 2011),
        ([("TDOR", "1971")], 1971),
        ([("TORY", "1971")], 1971),
        ([("TYER", "1973"), ("TDAT", "0302")], 1973),
        ([("TXXX", "originalyear\x001971")], 1971),
    ],
)
def test_a_recording_goes_before_a_release_and_that_before_the_original(tmp_path, frames, year):
    tag = id3(4, *((name, utf8(text)) for name, text in frames))
    assert mp3(tmp_path, tag).year == year


@pytest.mark.parametrize("name", ["RELEASEDATE", "ORIGINALDATE", "ORIGINALYEAR", "YEAR"])
def test_other_names_of_a_date_are_known_in_every_dialect(tmp_path, name):
    import mutagen
    from mutagen.mp4 import MP4, MP4FreeForm

    flac = synth.write_track(tmp_path / "a.flac", 2)
    tags = mutagen.File(flac)
    tags[name] = "1971"
    tags.save()
    m4a = synth.write_track(tmp_path / "a.m4a", 2)
    atoms = MP4(m4a)
    atoms[f"----:com.apple.iTunes:{name}"] = [MP4FreeForm(b"1971")]
    atoms.save()
    assert look(flac).year == look(m4a).year == 1971
    assert mp3(tmp_path, behind=ape(**{name: "1971"})).year == 1971


def test_what_one_tag_of_an_mp3_lacks_the_others_say(tmp_path):
    full = ape(Title="Ape title", Artist="Ape", Album="Ape album", Genre="Dub", Year="1999")
    old = id3v1(b"V1 title", b"V1 artist", b"V1 album", b"1988", 5, 8)
    found = mp3(tmp_path, id3(3, ("TIT2", latin("V2 title"))), behind=full + old)
    assert (found.title, found.artist, found.genre) == ("V2 title", "Ape", "Dub")
    assert (found.year, found.track_number) == (1999, 5)
    gain = ape(REPLAYGAIN_TRACK_GAIN="-3.1 dB")
    found = mp3(tmp_path, id3(4, ("TSSE", utf8("Lavf60"))), behind=gain + old)
    assert (found.title, found.artist, found.album) == ("V1 title", "V1 artist", "V1 album")
    assert (found.genre, found.year, found.track_number) == ("Jazz", 1988, 5)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
def test_old_tags_keep_their_accents(tmp_path, encoding):
    old = id3v1("Café".encode(encoding), "Björk".encode(encoding))
    found = mp3(tmp_path, behind=old)
    assert (found.title, found.artist) == ("Café", "Björk")


def test_windows_letters_in_a_latin_frame_are_read_as_windows_wrote_them(tmp_path):
    frame = ("TIT2", b"\0Don\x92t \x93Panic\x94 \x80")
    assert mp3(tmp_path, id3(3, frame)).title == "Don\u2019t \u201cPanic\u201d \u20ac"


@pytest.mark.parametrize("text", ["Plain", "Жар-птица", "月亮代表我的心", "Łódź"])
@pytest.mark.parametrize("order", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_byte_order_mark_is_read_in_either_order(tmp_path, order, text):
    assert mp3(tmp_path, id3(3, ("TIT2", b"\1" + text.encode(order)))).title == text
    marked = b"\1" + ("\ufeff" + text + "\0\ufeffB").encode(order)
    assert mp3(tmp_path, id3(4, ("TPE1", marked))).artist == f"{text}; B"


def test_a_text_without_a_byte_for_its_encoding_is_read(tmp_path):
    assert mp3(tmp_path, id3(3, ("TIT2", b"Title"))).title == "Title"


def test_an_ape_item_that_is_no_utf_8_hides_none_of_the_others(tmp_path):
    item = tagged.ape(Title="Good", Artist="Bj#rk", Genre=["80s", "Pop"]).replace(b"#", b"\xf6")
    assert mp3(tmp_path, behind=item).artist == "Björk"
    path = tagged.encode(tmp_path / "a.wv", "wv", "wavpack", "s16p")
    path.write_bytes(path.read_bytes() + item)
    found = look(path)
    assert (found.title, found.artist, found.genre) == ("Good", "Björk", "80s; Pop")


def test_version_2_2_is_read(tmp_path):
    frames = [("TT2", latin("T")), ("TP1", latin("A\0B")), ("TYE", latin("1971"))]
    frames += [("TRK", latin("3/9")), ("TPA", latin("1/2")), ("TCO", latin("(17)"))]
    frames += [("UFI", b"http://musicbrainz.org\0" + RECORDING.encode())]
    frames += [("TXX", latin(f"MusicBrainz Album Id\0{RELEASE}"))]
    found = mp3(tmp_path, id3(2, *frames))
    assert (found.title, found.artist, found.year, found.genre) == ("T", "A; B", 1971, "Rock")
    assert (found.track_number, found.disc_number) == (3, 1)
    assert (found.recording_id, found.release_id) == (RECORDING, RELEASE)


def test_a_tag_of_an_unknown_version_hides_nothing(tmp_path):
    odd, good = id3(7, ("TIT2", latin("Odd"))), id3(4, ("TIT2", utf8("Good")))
    assert mp3(tmp_path, odd, good).title == "Good"
    assert mp3(tmp_path, odd, behind=ape(Title="Ape")).title == "Ape"
    assert mp3(tmp_path, odd, behind=id3v1(b"Old")).title == "Old"


def test_a_recording_id_behind_a_large_cover_is_found(tmp_path):
    cover = ("APIC", b"\0image/png\0\3\0" + os.urandom(600_000))
    ufid = ("UFID", b"http://musicbrainz.org\0" + RECORDING.encode())
    assert mp3(tmp_path, id3(3, cover, ufid)).recording_id == RECORDING
    path = synth.write_track(tmp_path / "a.wav", 2)
    from mutagen.id3 import APIC, UFID
    from mutagen.wave import WAVE

    tags = WAVE(path)
    tags.add_tags()
    tags.tags.add(APIC(mime="image/png", type=3, data=os.urandom(600_000)))
    tags.tags.add(UFID(owner="http://musicbrainz.org", data=RECORDING.encode()))
    tags.save()
    assert look(path).recording_id == RECORDING


def test_frames_that_come_twice_are_all_kept(tmp_path):
    frames = [
        ("TPE1", utf8("One")),
        ("TPE1", utf8("Two")),
        ("TCON", utf8("A")),
        ("TCON", utf8("A")),
    ]
    found = mp3(tmp_path, id3(4, *frames))
    assert (found.artist, found.genre) == ("One; Two", "A")


def test_several_atoms_of_one_name_are_all_kept(tmp_path):
    from mutagen.mp4 import MP4

    def atom(name: bytes, data: bytes) -> bytes:
        return (len(data) + 8).to_bytes(4, "big") + name + data

    def text(value: str) -> bytes:
        return atom(b"\xa9gen", atom(b"data", b"\0\0\0\1\0\0\0\0" + value.encode()))

    two = text("Rock") + text("Pop")
    path = synth.write_track(tmp_path / "a.m4a", 2)
    tags = MP4(path)
    tags["\xa9gen"] = "R" * (len(two) - 24)
    tags.save()
    raw = path.read_bytes()
    at = raw.find(b"\xa9gen") - 4
    path.write_bytes(raw[:at] + two + raw[at + len(two) :])
    assert look(path).genre == "Rock; Pop"


def test_riff_texts_are_read_where_a_wav_has_no_id3(tmp_path):
    def chunk(name: bytes, data: bytes) -> bytes:
        return name + len(data).to_bytes(4, "little") + data + b"\0" * (len(data) % 2)

    raw = synth.write_track(tmp_path / "a.wav", 2).read_bytes()
    texts = chunk(b"INAM", b"Caf\xe9\0") + chunk(b"IART", b"Bj\xf6rk\0") + chunk(b"ICRD", b"1997\0")
    texts += chunk(b"IGNR", b"80s\0") + chunk(b"IPRD", b"Album\0")
    raw += chunk(b"LIST", b"INFO" + texts)
    (tmp_path / "a.wav").write_bytes(raw[:4] + (len(raw) - 8).to_bytes(4, "little") + raw[8:])
    found = look(tmp_path / "a.wav")
    assert (found.title, found.artist, found.album) == ("Café", "Björk", "Album")
    assert (found.genre, found.year) == ("80s", 1997)


def test_an_album_of_matroska_is_no_title(tmp_path):
    path = synth.write_track(tmp_path / "a.mka", 2)
    tagged.with_matroska_tags(
        path,
        tagged.matroska_tag(30, TITLE="Song", ARTIST="Singer"),
        tagged.matroska_tag(50, TITLE="Album", ARTIST="Band"),
    )
    found = look(path)
    assert (found.title, found.album) == ("Song", "Album")
    assert (found.artist, found.album_artist) == ("Singer", "Band")
    plain = synth.write_track(tmp_path / "b.mka", 2, tags={"title": "Song", "album": "Album"})
    assert (look(plain).title, look(plain).album) == ("Song", "Album")


@pytest.mark.parametrize("suffix", [".mp3", ".flac", ".m4a", ".wav", ".mka", ".aiff"])
def test_tags_cut_or_overwritten_anywhere_stop_nothing(tmp_path, suffix):
    """The audio decides whether a track is embedded; a broken tag is one that is not read."""
    tags = {"title": "MARK" * 40, "date": "1999"}
    raw = synth.write_track(tmp_path / f"a{suffix}", 2, tags=tags).read_bytes()
    rng, at = random.Random(7), raw.find(b"MARKMARK")
    titles = set()
    for _ in range(40):
        broken = bytearray(raw)
        for _ in range(3):
            broken[max(0, at + rng.randrange(-24, 200))] = rng.randrange(256)
        (tmp_path / f"a{suffix}").write_bytes(broken)
        with contextlib.suppress(TrackRejected):  # where the audio's own header was hit
            titles.add(look(tmp_path / f"a{suffix}").title)
    assert len(titles) > 20
