"""Which track an item of a music server is: unique, or none."""

from __future__ import annotations

import unicodedata

import pytest

from embed_assets.identity import AudioHash, FolderId, TrackId
from embed_assets.servers.base import Item
from embed_assets.servers.matching import PATH, RECORDING, TAGS, TAIL, Ours, Prefix
from embed_assets.storage.records import Track


def track(number, path, size=0, **more):
    return Track(
        TrackId(f"t{number}"),
        FolderId("f"),
        path.encode() if isinstance(path, str) else path,
        size or 1000 + number,
        0,
        0,
        AudioHash(f"a{number}"),
        **{"duration": 100.0 + 10 * number} | more,
    )


def mapped(tracks, items):
    """Id of each item -> the track that it is, and how that is known."""
    ours = Ours(tracks)
    prefixes = ours.prefixes(items)
    return {item.id: ours.find(item, prefixes) for item in items}


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("", ""), ("/data/media/music/", ""), ("music/", ""), ("", "Music/"), ("/mnt/x/", "a/b/")],
)
def test_the_prefixes_of_both_sides_are_learnt(theirs, ours):
    names = [f"Artist {i}/Album/{i:02}.flac" for i in range(20)]
    tracks = [track(i, ours + name) for i, name in enumerate(names)]
    items = [Item(str(i), theirs + name, 1000 + i) for i, name in enumerate(names)]
    # Retagged at one side since the other looked: only the path says which it is.
    items[7] = Item("7", items[7].path, 5)
    assert mapped(tracks, items) == {str(i): (f"t{i}", PATH) for i in range(20)}


def test_two_libraries_of_a_server_have_prefixes_of_their_own():
    tracks = [track(i, f"a/X/{i}/1.mp3") for i in range(5)]
    tracks += [track(i, f"b/Y/{i}/1.mp3") for i in range(5, 10)]
    items = [Item(str(i), f"/one/X/{i}/1.mp3", 1000 + i) for i in range(5)]
    items += [Item(str(i), f"/two/Y/{i}/1.mp3", 1000 + i) for i in range(5, 10)]
    assert mapped(tracks, items) == {str(i): (f"t{i}", PATH) for i in range(10)}


def test_an_equal_path_in_two_libraries_of_a_server_is_told_apart():
    tracks = [
        track(0, "a/X/1.mp3"),
        track(1, "b/X/1.mp3"),
        track(2, "a/Z/2.mp3"),
        track(3, "b/Y/3.mp3"),
    ]
    items = [
        Item("a", "/one/X/1.mp3", 1000),
        Item("b", "/two/X/1.mp3", 1001),
        Item("c", "/one/Z/2.mp3", 1002),
        Item("d", "/two/Y/3.mp3", 1003),
    ]
    assert [found[0] for found in mapped(tracks, items).values()] == ["t0", "t1", "t2", "t3"]


def test_spelling_of_paths_does_not_matter_unless_two_differ_by_it():
    name = "Björk/Début/01 - Venus.flac"
    tracks = [
        track(0, unicodedata.normalize("NFD", name)),
        track(1, "X/Y/A.mp3"),
        track(2, "X/Y/a.mp3"),
    ]
    items = [
        Item("0", f"/m/{unicodedata.normalize('NFC', name).upper()}", 1000),
        Item("1", "/m/X/Y/A.mp3", 1001),
        Item("2", "/m/X/Y/a.mp3", 1002),
        Item("3", "/m/x/y/a.MP3", 9),
    ]
    found = mapped(tracks, items)
    assert [found[i] and found[i][0] for i in "0123"] == ["t0", "t1", "t2", None]


def test_without_a_path_that_fits_its_end_and_size_decide():
    tracks = [
        track(0, "Other/Shelf/Artist/Album/1.mp3"),
        *(track(i, f"A/B/{i}.mp3") for i in range(1, 300)),
    ]
    items = [Item("0", "/x/y/Artist/Album/1.mp3", 1000)]
    items += [Item(str(i), f"/m/A/B/{i}.mp3", 1000 + i) for i in range(1, 300)]
    assert mapped(tracks, items)["0"] == ("t0", TAIL)
    items[0] = Item("0", "/x/y/Artist/Album/1.mp3", 7)
    assert mapped(tracks, items)["0"] is None


def test_a_server_that_says_no_size_is_matched_by_duration():
    tracks = [track(i, f"A/B/{i}.mp3") for i in range(3)]
    items = [Item(str(i), f"/m/A/B/{i}.mp3", duration=100.4 + 10 * i) for i in range(3)]
    assert mapped(tracks, items) == {str(i): (f"t{i}", PATH) for i in range(3)}


def test_recording_ids_and_tags_decide_where_there_is_no_path():
    tracks = [
        track(0, "a.mp3", recording_id="ABC"),
        track(1, "b.mp3", recording_id="twice", duration=60.0),
        track(2, "c.mp3", recording_id="twice", duration=60.5),
        track(3, "d.mp3", title="Déjà Vu", artist="Beyoncé", album="B'Day"),
        track(4, "e.mp3", title="Same", artist="Artist", album="Album"),
        track(5, "f.mp3", title="Same", artist="Artist", album="Album", duration=140.0),
    ]

    def item(name, **more):
        return Item(name, **more)

    items = [
        item("by id", recording_id="abc", duration=100.9),
        item("another length", recording_id="abc", duration=109.0),
        item("two recordings", recording_id="twice", duration=60.2),
        item("by tags", title="Deja vu", artist="BEYONCE", album="b'day", duration=131.0),
        item("two alike", title="Same", artist="Artist", album="Album", duration=140.0),
        item("no artist", title="Same", album="Album", duration=140.0),
        item("nothing"),
    ]
    found = mapped(tracks, items)
    assert found["by id"] == ("t0", RECORDING)
    assert found["by tags"] == ("t3", TAGS)
    assert [name for name, one in found.items() if one is None] == [
        "another length",
        "two recordings",
        "two alike",
        "no artist",
        "nothing",
    ]


def test_several_items_may_be_one_track():
    """A CUE sheet is several tracks of a server in one file."""
    tracks = [track(i, f"A/B/{i}.flac") for i in range(3)]
    items = [Item(f"cue{i}", "/m/A/B/1.flac", 1001, duration=5.0 * i) for i in range(4)]
    assert {found[0] for found in mapped(tracks, items).values()} == {"t1"}


def test_names_that_are_no_text_and_odd_paths_break_nothing():
    tracks = [track(0, b"A/\xff/1.mp3"), track(1, "x.mp3")]
    items = [
        Item("0", "../../x.mp3", 1001),
        Item("1", "/", 1),
        Item("2", "\0", 1),
        Item("3", "A/\udcff/1.mp3", 1000),
    ]
    ours = Ours(tracks)
    assert ours.prefixes(items[:3]) in ([], [Prefix("../..", "")])
    for item in items[:3]:
        ours.find(item, [])
