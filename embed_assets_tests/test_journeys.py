"""A person's days with a running `up`: real daemon, real runs, real audio, real Milvus Lite."""

import json
import os
import re
import shutil
import time

import dagster as dg
import pytest
from mutagen.oggvorbis import OggVorbis

from embed_assets.identity import display_path
from embed_assets.library.walk import is_audio
from embed_assets_tests.synth import write_track

STARTS = {
    "A to B": (23,),
    "Going": (17, 18),
    "Gone/Deep": (19,),
    "Mover/Old Name": (13, 14),
    "Replaced": (11,),
    "Swap": (15, 16),
    "Tagged": (10,),
}
"""Album -> the sounds of its tracks."""


@pytest.fixture(scope="module")
def running(running):
    """The shared world, with the albums that journeys begin with: indexed together."""
    for name, seeds in STARTS.items():
        running.album(name, *seeds)
    running.until(running.in_step, "what the journeys begin with is indexed")
    return running


def settled(world, what):
    world.until(world.in_step, what)
    world.assert_index_is_library()


def test_an_album_that_is_dropped_in_is_found_by_its_sound(running):
    running.album("Second Artist/Début...", 4, 5)
    running.put("Second Artist/Début.../03.mp3", 4)
    settled(running, "the album is indexed")
    found = running.run("similar", "Second Artist/Début.../01.ogg", "-n", "3", "--json")
    assert '"path": "Second Artist/Début.../03.mp3"' in found.stdout.split("}")[0], found.stderr


def test_a_retag_reaches_the_index_without_embedding_again(running):
    before = running.embedded_runs()
    tags = OggVorbis(running.library / "Tagged/01.ogg")
    tags["title"], tags["artist"] = "Blue Train", "John Coltrane"
    tags.save()
    settled(running, "the retag is indexed")
    assert running.embedded_runs() == before
    found = running.run("similar", "coltrane", "blue", "--json")
    assert found.returncode == 0, found.stderr
    assert "Sounds like Blue Train - John Coltrane" in running.run("similar", "coltrane").stdout


def test_other_audio_under_an_old_name_is_embedded(running):
    before = running.embedded_runs()
    running.put("Replaced/01.ogg", 12)
    settled(running, "the replacement is indexed")
    assert len(running.embedded_runs()) == len(before) + 1


def test_moved_renamed_and_copied_music_is_never_embedded_again(running):
    before = running.embedded_runs()
    running.move("Mover/Old Name", "Mover/New Name")
    running.move("Mover/New Name/01.ogg", "Mover/loose.ogg")
    shutil.copytree(running.library / "Mover/New Name", running.library / "Mover/Copy")
    running.tracks[b"Mover/Copy/02.ogg"] = 14
    settled(running, "the move is indexed")
    assert running.embedded_runs() == before
    running.move("Mover", "Moved")
    settled(running, "the whole artist has moved")
    assert running.embedded_runs() == before


def test_two_tracks_that_swap_their_names_swap_their_rows(running):
    one, two = "Swap/01.ogg", "Swap/02.ogg"
    running.move(one, "Swap/tmp.ogg")
    running.move(two, one)
    running.move("Swap/tmp.ogg", two)
    settled(running, "both are indexed under their new names")


def test_removed_tracks_and_folders_leave_the_index_and_their_partition_goes(running):
    running.remove("Going/01.ogg")
    running.remove("Gone")
    settled(running, "both are out of the index")
    with running.instance() as instance:
        assert "Gone/Deep" not in instance.get_dynamic_partitions("music_folders")


def test_names_in_any_bytes_arrive_and_leave(running):
    names = [b"caf\xe9/\xff\n.ogg", "q'uo\"te\\ … {x}/ü.ogg".encode(), b"%41/%2E.../a.ogg"]
    for i, name in enumerate(names):
        running.put(name, 20 + i)
    settled(running, "they are indexed")
    running.move(names[0], b"caf\xe9/\xfe.ogg")
    running.remove(names[2])
    settled(running, "the changes are indexed")
    assert display_path(b"caf\xe9/\xfe.ogg") in running.rows()


def test_there_and_back_again_ends_where_it_began(running):
    running.move("A to B", "B")
    settled(running, "B is indexed")
    running.move("B", "A to B")
    settled(running, "A is indexed again")


def test_a_file_that_is_still_being_copied_is_waited_for(running):
    running.put("Slow Copy/whole.ogg", 24)
    whole = (running.library / "Slow Copy/whole.ogg").read_bytes()
    target = running.library / "Slow Copy/growing.ogg"
    with open(target, "wb") as copy:
        for i in range(0, len(whole), len(whole) // 8 + 1):
            copy.write(whole[i : i + len(whole) // 8 + 1])
            copy.flush()
            time.sleep(0.4)
    running.tracks[b"Slow Copy/growing.ogg"] = 24
    settled(running, "the copy is indexed")
    errors = running.run("errors", "--json")
    assert "growing" not in errors.stdout


def test_a_folder_that_changes_while_its_run_goes_on_ends_as_it_is_last(running):
    for round_ in range(4):
        running.album("Restless", 25 + round_, 30 + round_)
        time.sleep(1.7)
    settled(running, "the last state is indexed")


def test_bad_files_hold_nothing_back_and_are_not_tried_again(running):
    running.album("Mixed", 40, 41)
    folder = running.library / "Mixed"
    (folder / "empty.mp3").touch()
    (folder / "text.flac").write_text("not music")
    (folder / "broken.mp3").write_bytes(os.urandom(5000))
    write_track(folder / "blip.wav", seconds=0.3)
    settled(running, "the good ones are indexed")
    rows = [r for r in json.loads(running.run("errors", "--json").stdout) if r["folder"] == "Mixed"]
    reasons = {r["path"].rpartition("/")[2]: r["reason"] for r in rows}
    assert set(reasons) == {"empty.mp3", "text.flac", "broken.mp3", "blip.wav"}
    assert reasons["empty.mp3"] == "empty"
    assert reasons["blip.wav"] == "too short"
    assert all(r["message"] and r["at"] for r in rows)
    with running.instance() as instance:
        runs = instance.get_runs_count()
        time.sleep(8)
        assert instance.get_runs_count() == runs
    running.put("Mixed/broken.mp3", 42)
    settled(running, "the mended file is indexed")
    assert "broken.mp3" not in running.run("errors", "--json").stdout


def test_up_prints_a_line_for_what_happens_to_an_album_and_none_of_dagsters(running):
    running.put_bad("Printed/broken.flac", b"not music")
    running.album("Printed", 45, 46)
    settled(running, "the album is indexed")

    def printed(line):
        return lambda: re.search(line, running.printed(), re.M)

    running.until(printed(r"^\S+ to do: Printed \(run "), "its run is announced")
    running.until(printed(r"^\S+ Printed: .*rejected \(broken.flac: not audio\)"), "a reason")
    running.until(printed(r"^\S+ Printed: [12] tracks? embedded"), "what was embedded")
    running.until(printed(r"^\S+ run \w{8} done: Printed$"), "the end of its run")
    running.until(printed(r"^\S+ \d+ folders?, \d+ files?"), "how much is in step")
    lines = running.printed().splitlines()
    assert all(re.match(r"(\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d ", line) for line in lines)
    assert "dagster.daemon" not in running.printed()
    assert "dagster.daemon" in (running.home / "dagster.log").read_text()


def test_sync_beside_up_and_again_does_nothing_more(running):
    running.album("Beside", 43, 44)
    running.sync()
    running.assert_index_is_library()
    again = running.sync()
    assert again["runs"] == []
    assert again["embedded"] == 0
    files = (p for p in running.library.rglob("*") if p.is_file())
    assert again["tracks"] == sum(is_audio(os.fsencode(p.name)) for p in files)


def test_a_second_up_says_so_and_ends(running):
    second = running.run("up", "--port", str(running.port))
    assert second.returncode == 0
    assert f"already up: http://127.0.0.1:{running.port}" in second.stderr


def test_a_library_that_is_unmounted_loses_nothing(running):
    rows = running.rows()
    away = running.root / "away"
    os.rename(running.library, away)
    try:
        time.sleep(8)
        done = running.run("sync", "--json")
        assert done.returncode == 2
        assert "mounted?" in done.stderr
        running.library.mkdir()
        time.sleep(8)
        assert running.run("sync").returncode == 2
    finally:
        running.library.rmdir()
        os.rename(away, running.library)
    assert running.rows().keys() == rows.keys()
    settled(running, "everything is as it was")
    running.until(lambda: "the library is there again" in running.printed(), "up says so")
    for why in ("No such file or directory; is the disk", "is empty: is the disk"):
        assert running.printed().count(why) <= 1, "once, however often the sensor looks"
    assert "is the disk or share mounted? Nothing is removed" in running.printed()
    assert "Traceback" not in running.printed()


def test_up_that_is_stopped_at_work_leaves_no_process_and_no_error(running):
    running.album("Stopped", *range(50, 62))
    with running.instance() as instance:
        started = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])
        running.until(lambda: instance.get_runs_count(started), "a run is at work")
    assert running.down() == 0
    assert running.processes() == []
    assert "stopping; finished work is kept" in running.printed().splitlines()[-1]
    assert "Stopped" not in running.run("errors").stdout
