"""Bad files of every kind: embedded, or rejected with a reason; never tried twice."""

import json
import os
import time
from collections import Counter

import dagster as dg
import pytest

from embed_assets.errors import Reason, TrackRejected
from embed_assets.identity import display_path
from embed_assets.workers import open_pool
from embed_assets_tests.corpus import BAD, GOOD, corpus, whole
from embed_assets_tests.encoded import with_comments

SEED = 1

EVERY = 12
"""`make test` takes one file of so many, and `make stress` all."""


def put(world, files):
    """Each container's files in a folder of their own; path -> what it is."""
    placed = {}
    for made in files:
        folder = world.library / made.name.rpartition(".")[2]
        folder.mkdir(exist_ok=True)
        (folder / made.name).write_bytes(made.content)
        placed[f"{folder.name}/{made.name}"] = made
    return placed


def become(world):
    """path -> (reason, message, note) of every track of the tables."""
    recipe = world.project().spec().recipe.digest
    with world.project().tables.connect() as db:
        rows = db.execute(
            "SELECT t.path, coalesce(t.reason, e.reason), coalesce(t.message, e.message), e.note,"
            " e.windows FROM tracks t LEFT JOIN embeddings e ON e.recipe = ?"
            " AND e.audio_hash = t.audio_hash",
            (recipe,),
        )
        return {display_path(p): rest for p, *rest in rows}


def through_sync(world, files):
    placed = put(world, files)
    result = world.sync()
    ended = become(world)
    assert ended.keys() == placed.keys()
    wrong = []
    for path, (reason, message, _, windows) in ended.items():
        made = placed[path]
        if (reason is None) == (not windows) or (made.may == GOOD and reason):
            wrong.append((path, reason, message))
        if made.may == BAD and not reason:
            wrong.append((path, "embedded"))
        if reason and (len(message) < 15 or "rrno" in message or "Traceback" in message):
            wrong.append((path, reason, message))
    assert wrong == []
    good = [p for p, (reason, *_) in ended.items() if reason is None]
    assert sorted(world.rows()) == sorted(good)
    assert result["rejected"] == len(ended) - len(good)
    assert result["failed_folders"] == 0
    listed = json.loads(world.run("errors", "--json").stdout)
    assert sorted(r["path"] for r in listed) == sorted(ended.keys() - set(good))
    assert all(r["run_id"] in result["runs"] for r in listed)

    with world.instance() as instance:
        retried = [
            e
            for run in instance.get_runs()
            for e in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_UP_FOR_RETRY)
        ]
    assert retried == [], "a bad file is no reason to try a folder twice"
    assert world.sync()["runs"] == [], "no file is tried again while it is the same"
    return ended, placed, result


def test_a_sample_of_bad_files_ends_embedded_or_rejected_in_words(world):
    files = [m for i, m in enumerate(corpus(SEED)) if i % EVERY == SEED and "hour" not in m.name]
    ended, _, _ = through_sync(world, files)
    reasons = Counter(reason or "embedded" for reason, *_ in ended.values())
    assert {"embedded", "corrupt", "not audio"} <= reasons.keys()


def look(path):
    from embed_assets.library.probe import probe

    return probe(path).codec


def test_a_file_that_takes_a_decoder_for_ever_costs_its_own_worker_only(tmp_path):
    paths = []
    for name, content in (
        ("good 1.flac", whole("flac", 1)),
        # FFmpeg goes through all comments for each comment: minutes for these.
        ("endless.flac", with_comments(whole("flac", 2), 70_000)),
        ("good 2.mp3", whole("mp3", 3)),
        ("good 3.m4a", whole("m4a", 4)),
    ):
        (tmp_path / name).write_bytes(content)
        paths.append(os.fsencode(tmp_path / name))
    with open_pool(2, seconds_a_task=2, patience=100) as pool:
        ended = dict(pool.run(look, paths))
    assert isinstance(stopped := ended.pop(paths[1]), TrackRejected)
    assert stopped.reason is Reason.DECODER_TIMED_OUT
    assert list(ended.values()) == ["flac", "mp3", "aac"]


@pytest.mark.stress
def test_more_than_a_thousand_bad_files_end_embedded_or_rejected_in_words(world):
    started = time.monotonic()
    ended, placed, result = through_sync(world, corpus(SEED))
    assert len(ended) >= 1_000
    print(f"\nseed {SEED}: {len(ended)} files, sync took {result['seconds']:.0f} s of")
    print(f"{time.monotonic() - started:.0f} s; done to the file | files | what happened")
    kinds = {}
    for path, (reason, _, note, _) in ended.items():
        outcome = reason or ("embedded with a note" if note else "embedded")
        kinds.setdefault(placed[path].done, Counter())[outcome] += 1
    for done, outcomes in sorted(kinds.items()):
        told = ", ".join(f"{n} {what}" for what, n in outcomes.most_common())
        print(f"| {done} | {outcomes.total()} | {told} |")


@pytest.mark.stress
def test_a_cut_off_file_is_embedded_with_a_note_of_how_much_was_decoded(world):
    files = [m for m in corpus(SEED) if m.done == "truncated" and " 0.5 " in m.name]
    ended, placed, _ = through_sync(world, files)
    told = {
        placed[p].name.rpartition(".")[2]: note for p, (r, _, note, _) in ended.items() if not r
    }
    for suffix in ("flac", "wav", "aiff", "w64", "tta", "mka"):
        assert "of 2" in told[suffix], (suffix, told)
        assert "could be decoded" in told[suffix], (suffix, told)
