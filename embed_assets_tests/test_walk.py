"""What one look at a library sees."""

import multiprocessing
import os
import shutil
import tempfile

import pytest

from embed_assets.errors import LibraryUnavailable
from embed_assets.library.walk import (
    folder_ctimes,
    folder_digest,
    list_audio,
    order,
    require_library,
    walk,
)


def put(root, *names, content=b"x"):
    for name in names:
        path = os.path.join(os.fsencode(root), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as f:
            f.write(content)


def digests(root):
    return {f.path: f.digest for f in walk(root)}


def test_folders_that_directly_hold_audio_are_found_whatever_their_names(tmp_path):
    names = [
        b"loose.mp3",
        b"Artist/Album/01.FLAC",
        b"Artist/Album/cover.jpg",
        b"Artist/notes.txt",
        b"quote'\" and\nnewline.../t.ogg",
        b"caf\xe9/\xff.opus",
        b"deep/er/est/x.m4a",
        b"...And Justice for All/...x.mp3",
    ]
    put(tmp_path, *names)
    found = {f.path: f.files for f in walk(tmp_path)}
    assert found == {
        b"": 1,
        b"Artist/Album": 1,
        b"quote'\" and\nnewline...": 1,
        b"caf\xe9": 1,
        b"deep/er/est": 1,
        b"...And Justice for All": 1,
    }


def test_what_nas_systems_and_players_leave_behind_is_no_music(tmp_path):
    put(
        tmp_path,
        "@eaDir/a.mp3",
        "#recycle/a.mp3",
        ".hidden/a.mp3",
        "Album/._01.mp3",
        "Album/.02.mp3",
        "Album/03.mp3.part",
        "Album/mp3",
        "Ignored/.nomedia",
        "Ignored/a.mp3",
        "Ignored/below/a.mp3",
        "Other/.ndignore",
        "Other/a.mp3",
    )
    (tmp_path / "flac").mkdir()
    put(tmp_path, "flac/real.flac")
    assert [f.path for f in walk(tmp_path)] == [b"flac"]
    assert list_audio(tmp_path, b"Ignored") == []


def test_any_change_of_a_file_changes_its_folders_digest_and_no_other(tmp_path):
    put(tmp_path, "a/1.mp3", "a/2.mp3", "b/1.mp3")
    before = digests(tmp_path)
    os.utime(tmp_path / "a/1.mp3", ns=(1, 1))
    touched = digests(tmp_path)
    assert touched[b"a"] != before[b"a"]
    assert touched[b"b"] == before[b"b"]
    os.rename(tmp_path / "a/1.mp3", tmp_path / "a/3.mp3")
    assert digests(tmp_path)[b"a"] not in (before[b"a"], touched[b"a"])
    os.rename(tmp_path / "a/3.mp3", tmp_path / "a/1.mp3")
    assert digests(tmp_path) == touched
    put(tmp_path, "a/cover.jpg")
    assert digests(tmp_path) == touched


def test_the_digest_of_a_listed_folder_is_that_of_the_walk(tmp_path):
    put(tmp_path, "x/b.mp3", "x/a.flac", "x/\n.ogg", "x/z.txt")
    listed = list_audio(tmp_path, b"x")
    (folder,) = walk(tmp_path)
    assert (folder_digest(listed), folder_ctimes(listed)) == (folder.digest, folder.ctimes)


def test_links_lead_nowhere_outside_the_library(tmp_path):
    library, outside = tmp_path / "library", tmp_path / "outside"
    put(outside, "secret.mp3")
    put(library, "in/real.mp3")
    (library / "linked").symlink_to(outside)
    (library / "in/escape.mp3").symlink_to(outside / "secret.mp3")
    (library / "in/again.mp3").symlink_to(library / "in/real.mp3")
    (library / "in/dangling.mp3").symlink_to(library / "nowhere.mp3")
    (library / "in/loop.mp3").symlink_to("loop.mp3")
    assert {f.path: f.files for f in walk(library)} == {b"in": 2}
    assert [f.name for f in list_audio(library, b"in")] == [b"again.mp3", b"real.mp3"]
    assert list_audio(library, b"linked") == []
    assert list_audio(library, b"../outside") == []


def test_pipes_and_folders_with_an_audio_name_are_no_tracks(tmp_path):
    put(tmp_path, "a/real.mp3", "a/live.mp3/inner.mp3")
    os.mkfifo(tmp_path / "a/pipe.mp3")
    assert {f.path: f.files for f in walk(tmp_path)} == {b"a": 1, b"a/live.mp3": 1}


def test_a_walk_can_go_on_after_any_folder(tmp_path):
    put(
        tmp_path,
        "x.mp3",
        "a/x.mp3",
        "a/b/x.mp3",
        "a b/x.mp3",
        "a-b/c/x.mp3",
        "z/y/x.mp3",
        "z/x.mp3",
    )
    whole = [f.path for f in walk(tmp_path)]
    assert sorted(whole, key=order) == whole
    for i, path in enumerate(whole):
        assert [f.path for f in walk(tmp_path, after=path)] == whole[i + 1 :]


def test_a_folder_that_cannot_be_read_is_unknown_and_the_others_are_seen():
    with tempfile.TemporaryDirectory() as root:
        os.chmod(root, 0o755)
        put(root, "closed/a.mp3", "open/a.mp3")
        os.chmod(os.path.join(root, "closed"), 0)
        found = as_nobody(lambda: {f.path: (f.digest is None, f.error) for f in walk(root)})
    assert found == {b"closed": (True, "Permission denied"), b"open": (False, "")}


def as_nobody(question):
    """Root reads everything, so the answer comes from a child that has given that up."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    if (child := os.fork()) == 0:
        if os.geteuid() == 0:
            os.seteuid(65534)
        sender.send(question())
        os._exit(0)
    os.waitpid(child, 0)
    return receiver.recv()


def test_a_folder_that_vanishes_meanwhile_is_not_there(tmp_path):
    put(tmp_path, "a/x.mp3", "b/x.mp3")
    seen = []
    for folder in walk(tmp_path):
        seen.append(folder.path)
        shutil.rmtree(tmp_path / "b", ignore_errors=True)
    assert seen == [b"a"]


def test_a_library_that_is_not_there_or_empty_is_named_with_what_to_do(tmp_path):
    with pytest.raises(LibraryUnavailable, match="EMBED_LIBRARY is not set"):
        require_library(None)
    with pytest.raises(LibraryUnavailable, match=r"No such file.*mounted\? Nothing is removed"):
        require_library(tmp_path / "gone")
    with pytest.raises(LibraryUnavailable, match="is empty"):
        require_library(tmp_path)
    put(tmp_path, "file")
    with pytest.raises(LibraryUnavailable, match="is not a folder: set it to your music folder"):
        require_library(tmp_path / "file")
    assert require_library(tmp_path) == tmp_path
