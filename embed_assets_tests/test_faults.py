"""The library's disk fails: errors in the middle of a read, stale mounts, calls that hang.

The world is bad then, and no track and no folder: nothing is rejected, nothing is removed, what
failed is tried again, and all arrives once the disk is well.
"""

import errno
import json
import os
import subprocess
import sys
import time

import dagster as dg
import pytest

from embed_assets.identity import display_path
from embed_assets_tests.assertions import assert_rejected_are_bad, assert_store_is_true, slots_held
from embed_assets_tests.faults import DEAD, HANGS, preloaded
from embed_assets_tests.patience import PATIENCE
from embed_assets_tests.synth import CODECS, write_track
from embed_assets_tests.test_failures import events

SEEDS = [int(s) for s in os.environ.get("EMBED_TEST_FAULT_SEEDS", "1 2 3 4").split()]

READ_ALL = """
import hashlib, os, sys
from pathlib import Path
from embed_assets.audio.decode import read_windows
from embed_assets.audio.windows import WindowPolicy
from embed_assets.errors import TrackRejected
from embed_assets.library.probe import probe

def read(path):
    found = probe(path)
    heard = read_windows(path, found.duration, WindowPolicy(1.0, 3), 24_000)
    words = f"{found} {heard.starts} {heard.decoded_seconds} {heard.notes}".encode()
    return hashlib.sha256(words + b"".join(w.tobytes() for w in heard.windows)).hexdigest()

rules, folder, times = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
files = [os.fsencode(f) for f in sorted(folder.iterdir())]
well = {path: read(path) for path in files}
failed = same = 0
for n in range(times):
    for error in sys.argv[4:]:
        rules.write_text(f"read {error} {0.02 if n % 2 else 0.3} {folder}")
        for path in files:
            try:
                assert read(path) == well[path], f"{path}: other sound than there is"
                same += 1
            except TrackRejected as e:
                raise SystemExit(f"{path}: {e}, though it was the disk that failed")
            except OSError as e:
                assert e.errno == int(error), e
                failed += 1
print(f"{failed} readings ended with the disk's error, {same} with the file's own sound")
assert failed > times and same > times
"""


def test_a_read_that_fails_is_the_disks_fault_in_every_container(tmp_path):
    folder = tmp_path / "music"
    for i, suffix in enumerate(CODECS):
        write_track(folder / f"{i}{suffix}", seconds=6, seed=i, rate=22_050)
    faults = preloaded(tmp_path, folder, seed=1)
    done = subprocess.run(
        [sys.executable, "-c", READ_ALL, faults.rules, folder, "4", *map(str, DEAD)],
        env=os.environ | faults.environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    print(f"\nseed 1: {done.stdout.strip()}")


WALK_ALL = """
import os, random, sys
from pathlib import Path
from embed_assets.errors import LibraryUnavailable
from embed_assets.library.walk import folder_digest, list_audio, require_library, walk

rules, root, under, times = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
rules.write_text("")
well = {f.path: f.digest for f in walk(root)}
chance = random.Random(0)
whole = unknown = 0
for n in range(times):
    for error in sys.argv[5:]:
        rules.write_text(f"any {error} {chance.choice((0.002, 0.02, 0.2))} {under}")
        try:
            require_library(root)
            seen = {f.path: f.digest for f in walk(root)}
        except LibraryUnavailable:
            unknown += 1
            continue
        dark = [path for path, digest in seen.items() if digest is None]
        for path, digest in well.items():
            if path in seen and seen[path] is not None:
                assert seen[path] == digest, f"{path} looks changed"
            else:
                above = any(not d or path == d or path.startswith(d + b"/") for d in dark)
                assert above, f"{path} looks gone"
            try:
                assert folder_digest(list_audio(root, path)) == digest, f"{path} looks changed"
            except OSError as e:
                assert e.errno == int(error), e
        whole, unknown = whole + (not dark), unknown + bool(dark)
print(f"{whole} walks saw all folders as they are, {unknown} knew what they could not read")
assert whole > times and unknown > times
"""


def test_a_walk_over_a_failing_disk_sees_folders_as_they_are_or_knows_that_it_does_not(tmp_path):
    disk = tmp_path / "disk"
    for name in ("", "A", "A/B", "A/B/C", "D", "E/F", "E/G"):
        for i in range(5):
            (disk / "music" / name).mkdir(parents=True, exist_ok=True)
            (disk / "music" / name / f"{i}.mp3").write_bytes(bytes(i))
    (disk / "music/D/link.mp3").symlink_to("../A/1.mp3")
    (disk / "library").symlink_to("music")
    faults = preloaded(tmp_path, disk, seed=1)
    done = subprocess.run(
        [sys.executable, "-c", WALK_ALL, faults.rules, disk / "library", disk, "60"]
        + [str(error) for error in DEAD],
        env=os.environ | faults.environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    print(f"\nseed 1: {done.stdout.strip()}")


def fill(world, seed):
    for i in range(5):
        world.album(f"Artist {i}/Album", *range(10 * i + seed % 10, 10 * i + seed % 10 + 3))
    world.put_bad("Artist 0/Album/bad.mp3", b"this is no music at all\n" * 50)


def rejected(world):
    listed = json.loads(world.run("errors", "--json").stdout)
    return [r for r in listed if r["path"] != r["folder"]]


@pytest.mark.stress
@pytest.mark.parametrize("seed", SEEDS)
def test_a_disk_that_fails_at_random_has_nothing_rejected_and_nothing_removed(world, seed):
    faults = preloaded(world.root, world.library, seed)
    world.settings |= faults.environment
    fill(world, seed)
    chances = (0.002, 0.01, 0.05, 0.2)
    codes, rows = [], set()
    for round_number in range(6):
        error = DEAD[(seed + round_number) % len(DEAD)]
        chance = chances[(seed * 3 + round_number) % len(chances)]
        faults.begin(("any", error, chance, world.library))
        if round_number == 2:
            world.album("Later", 55, 56)
        done = world.run("sync", "--json")
        codes.append(done.returncode)
        assert done.returncode in (0, 1, 2), done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        faults.end()
        bad = {display_path(p) for p in world.bad}
        assert {r["path"] for r in rejected(world)} <= bad
        assert rows <= set(world.indexed()), "a row was lost"
        rows = set(world.indexed())
    world.sync()
    print(f"\nseed {seed}: {dict(faults.told())}, exit codes {codes}", flush=True)
    assert world.in_step()
    world.assert_index_is_library()
    assert_rejected_are_bad(world)
    assert_store_is_true(world)


@pytest.mark.stress
def test_a_folder_on_a_failing_disk_is_tried_again_and_holds_no_other_back(world):
    faults = preloaded(world.root, world.library)
    world.settings |= faults.environment | {"EMBED_SCAN_SECONDS": "2"}
    world.album("Anchor", 9)
    world.up()
    faults.begin(("read", errno.EIO, 1.0, world.library / "Failing"))
    world.album("Failing", 1, 2)
    world.album("Well", 3)
    world.until(lambda: "Well/01.ogg" in world.indexed(), "the other album is indexed")
    world.until(lambda: json.loads(world.run("errors", "--json").stdout), "the failure is told")
    (told,) = json.loads(world.run("errors", "--json").stdout)
    assert told["path"] == told["folder"] == "Failing"
    assert "Input/output error" in told["message"]
    assert "retried" in told["message"]
    retried = {step for step, _ in events(world, dg.DagsterEventType.STEP_UP_FOR_RETRY)}
    assert retried == {"track_manifest"}
    faults.end()
    started = time.monotonic()
    world.until(world.in_step, "it comes by itself")
    print(f"\nin step {time.monotonic() - started:.0f} s after the disk was well again")
    world.assert_index_is_library()
    assert json.loads(world.run("errors", "--json").stdout) == []


@pytest.mark.stress
@pytest.mark.parametrize("error", DEAD)
def test_a_mount_that_died_removes_nothing_and_says_so(world, error):
    faults = preloaded(world.root, world.library)
    world.settings |= faults.environment | {"EMBED_SCAN_SECONDS": "2"}
    world.album("Before", 1, 2)
    world.album("Other", 3)
    world.up()
    world.until(world.in_step, "all is indexed")
    rows = set(world.indexed())
    faults.begin(("any", error, 1.0, world.library))
    world.album("Meanwhile", 4)
    done = world.run("sync")
    assert done.returncode == 2
    assert "mounted?" in done.stderr
    assert "Traceback" not in done.stderr
    doctor = {f["check"]: f for f in json.loads(world.run("doctor", "--json").stdout)}
    assert doctor["library"]["ok"] is False
    assert "mounted?" in doctor["library"]["message"]
    world.until(lambda: red_tick(world), "the sensor's tick says so")
    assert set(world.indexed()) == rows
    assert rejected(world) == []
    faults.end()
    world.until(world.in_step, "the new album is indexed by itself")
    world.assert_index_is_library()


def red_tick(world):
    with world.instance() as instance:
        (sensor,) = [s for s in instance.all_instigator_state() if s.name == "library_sensor"]
        ticks = instance.get_ticks(sensor.instigator_origin_id, sensor.selector_id, limit=1)
        return any(t.error and "mounted?" in str(t.error.to_string()) for t in ticks)


@pytest.mark.stress
def test_a_read_that_hangs_goes_on_when_the_disk_answers(world):
    faults = preloaded(world.root, world.library)
    world.settings |= faults.environment
    world.album("Hangs", 1, 2)
    world.album("Well", 3)
    faults.begin(("read", HANGS, 1.0, world.library / "Hangs/01.ogg"))
    command = [sys.executable, "-m", "embed_assets.cli", "sync", "--json"]
    sync = subprocess.Popen(command, env=world.environment, cwd=world.root, stdout=subprocess.PIPE)
    world.until(lambda: faults.told()["read hangs"], "a read hangs")
    time.sleep(3)
    assert sync.poll() is None, "it waits"
    faults.end()
    out, _ = sync.communicate(timeout=PATIENCE)
    assert sync.returncode == 0
    assert json.loads(out)["embedded"] == 3
    assert events(world, dg.DagsterEventType.STEP_UP_FOR_RETRY) == []
    assert not slots_held(world)
    world.assert_index_is_library()


@pytest.mark.stress
def test_a_mount_that_hangs_altogether_is_waited_for_and_up_can_be_stopped_meanwhile(world):
    faults = preloaded(world.root, world.library)
    world.settings |= faults.environment | {"EMBED_SCAN_SECONDS": "2"}
    world.album("Before", 1)
    world.up()
    world.until(world.in_step, "the first album is in")
    faults.begin(("any", HANGS, 1.0, world.library))
    world.album("Meanwhile", 2)
    # A tick has 60 s before the daemon gives it up.
    time.sleep(100)
    assert world.answers(), "the UI lives"
    assert set(world.indexed()) == {"Before/01.ogg"}
    faults.end()
    started = time.monotonic()
    world.until(world.in_step, "the new album comes by itself")
    print(f"\nin step {time.monotonic() - started:.0f} s after the mount answered again")
    world.assert_index_is_library()
    faults.begin(("any", HANGS, 1.0, world.library))
    time.sleep(5)
    assert world.down() == 0
    assert world.processes() == []


PARTS = {"vectors": 0.1, "tables.sqlite": 0.01, "milvus.db": 0.01, "dagster": 0.0002, "search": 0.1}
"""Parts of EMBED_HOME, and how often a call on them fails."""


@pytest.mark.stress
@pytest.mark.parametrize("part", PARTS)
def test_a_home_whose_disk_fails_loses_nothing_and_says_so(world, part):
    faults = preloaded(world.root, world.home)
    world.settings |= faults.environment
    fill(world, 0)
    codes = []
    for seed in range(4):
        world.settings["FAULTS_SEED"] = str(seed)
        faults.begin(("any", DEAD[seed], PARTS[part], world.home / part))
        done = world.run("sync")
        codes.append(done.returncode)
        assert done.returncode in (0, 1), done.stderr
        if done.returncode:
            assert "embed-assets: " in done.stderr or "0 folders failed" not in done.stdout, (
                done.stderr
            )
        faults.end()
        assert {r["path"] for r in rejected(world)} <= {display_path(p) for p in world.bad}
    world.sync()
    print(f"\n{part}: {dict(faults.told())}, exit codes {codes}", flush=True)
    assert world.in_step()
    world.assert_index_is_library()
    assert_rejected_are_bad(world)
    assert_store_is_true(world)
