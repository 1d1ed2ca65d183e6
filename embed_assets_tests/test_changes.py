"""What runs a library needs, by what was walked and what is known of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embed_assets.errors import LibraryUnavailable
from embed_assets.planning.compare import BACKOFF, compare, plan_removals
from embed_assets.planning.runs import plan_of, plan_runs, record_attempts, split_imports
from embed_assets.planning.values import FolderSnapshot, Known, Policy, SensorCursor
from embed_assets.storage.records import EMPTY

NOW = 1_000_000.0
OLD = NOW - 10_000


def look(
    seen,
    partitions=(),
    indexed=None,
    running=(),
    cursor=None,
    now=NOW,
    policy=None,
    failed=None,
    complete=True,
    missing=None,
    embedded=None,
    unlisted=(),
):
    """One evaluation; folders that are known and were not seen are missing, unless it is said."""
    walked = [s if isinstance(s, FolderSnapshot) else FolderSnapshot(*s, 10, OLD) for s in seen]
    policy, cursor = policy or Policy(), SensorCursor() if cursor is None else cursor
    known = Known(tuple(partitions), indexed or {}, running, failed or {}, unlisted)
    found = compare(walked, known, cursor, policy, now)
    if missing is None:
        missing = [k for k in (*partitions, *unlisted) if k not in found.found]
    removals = plan_removals(missing, found, known, cursor, policy, now, complete=complete)
    requests = split_imports(
        plan_runs(found, removals, known, policy), found, embedded or {}, policy
    )
    record_attempts(cursor, requests, found, removals, now)
    return plan_of(requests, found, removals)


def keys(plan):
    return [r.keys for r in plan.requests]


def test_a_library_in_step_calls_for_nothing():
    plan = look([("a", "1"), ("b", "2")], ["a", "b"], {"a": "1", "b": "2"})
    assert plan.requests == ()
    assert plan.retire == ()
    assert plan.in_step == 2


def test_new_and_changed_folders_are_asked_for_once_in_runs_of_the_chunk_size():
    names = [f"f{i:03}" for i in range(150)]
    cursor = SensorCursor()
    plan = look([(n, "1") for n in names], cursor=cursor, policy=Policy(folders_per_run=64))
    assert [len(k) for k in keys(plan)] == [64, 64]
    assert all(r.is_import and not r.remove for r in plan.requests)
    again = look([(n, "1") for n in names], names[:128], cursor=cursor, running=names[:128])
    assert keys(again) == [tuple(names[128:])]


def test_a_folder_that_a_run_holds_is_waited_for():
    plan = look([("a", "2")], ["a"], {"a": "1"}, running={"a"})
    assert plan.requests == ()
    assert plan.running == 1


def test_going_back_to_an_earlier_state_is_a_change_like_any_other():
    cursor = SensorCursor()
    assert keys(look([("a", "A")], ["a"], {}, cursor=cursor)) == [("a",)]
    assert keys(look([("a", "B")], ["a"], {"a": "A"}, cursor=cursor)) == [("a",)]
    assert keys(look([("a", "A")], ["a"], {"a": "B"}, cursor=cursor)) == [("a",)]


def test_a_folder_that_is_being_copied_is_left_alone_until_it_holds_still():
    cursor, policy = SensorCursor(), Policy(settle_seconds=5)
    for step in range(4):
        now = NOW + step
        plan = look(
            [FolderSnapshot("a", f"v{step}", 1, now)], cursor=cursor, now=now, policy=policy
        )
        assert plan.requests == ()
        assert plan.debounced_in == pytest.approx(5)
    done = look(
        [FolderSnapshot("a", "v3", 1, NOW + 3)], cursor=cursor, now=NOW + 8.1, policy=policy
    )
    assert keys(done) == [("a",)]


def test_a_file_dated_in_the_future_does_not_keep_a_folder_waiting_for_ever():
    cursor, policy = SensorCursor(), Policy(settle_seconds=5)
    future = FolderSnapshot("a", "v", 1, NOW + 1e6)
    assert look([future], cursor=cursor, policy=policy).requests == ()
    assert keys(look([future], cursor=cursor, now=NOW + 6, policy=policy)) == [("a",)]


def test_what_failed_is_tried_again_later_and_later_but_at_once_when_it_changed():
    cursor, known = SensorCursor(), ["a"]
    now = NOW
    assert keys(look([("a", "1")], known, cursor=cursor, now=now)) == [("a",)]
    for rest in BACKOFF:
        early = look([("a", "1")], known, cursor=cursor, now=now + rest - 1, failed={"a": True})
        assert early.requests == ()
        assert early.backing_off == 1
        now += rest + 1
        assert keys(look([("a", "1")], known, cursor=cursor, now=now, failed={"a": True})) == [
            ("a",)
        ]
    assert keys(look([("a", "2")], known, cursor=cursor, now=now + 1, failed={"a": True})) == [
        ("a",)
    ]


def test_one_poisonous_folder_is_tried_alone_and_its_neighbours_soon():
    names = [f"f{i:02}" for i in range(64)]
    cursor = SensorCursor()
    seen = [(n, "1") for n in names]
    look(seen, cursor=cursor)
    again = look(
        seen,
        names,
        cursor=cursor,
        now=NOW + 10,
        failed={"f33": True},
        policy=Policy(max_new_runs=99, max_import_runs=99),
    )
    asked = [k for ks in keys(again) for k in ks]
    assert "f33" not in asked
    assert sorted(asked) == sorted(set(names) - {"f33"})
    assert max(len(k) for k in keys(again)) <= 8
    later = look(
        seen,
        names,
        {n: "1" for n in names if n != "f33"},
        cursor=cursor,
        now=NOW + 70,
        failed={"f33": True},
    )
    assert keys(later) == [("f33",)]


def test_an_album_that_was_just_dropped_goes_before_an_import():
    names = [f"f{i:04}" for i in range(1000)]
    seen = [(n, "1") for n in names] + [FolderSnapshot("new album", "1", 12, NOW - 6)]
    plan = look(seen, policy=Policy(max_new_runs=3, max_import_runs=2))
    assert keys(plan)[0] == ("new album",)
    assert [r.is_import for r in plan.requests] == [False, True, True]


def test_an_import_of_files_that_were_just_copied_is_full_runs_where_nobody_waits_for_an_album():
    seen = [FolderSnapshot(f"f{i:03}", "1", 1, NOW - 10 - i) for i in range(100)]
    policy = Policy(folders_per_run=64, max_new_runs=1, max_import_runs=1, interactive=False)
    assert [len(k) for k in keys(look(seen, policy=policy))] == [64]


def test_no_more_is_asked_for_than_there_is_room():
    names = [f"f{i:04}" for i in range(1000)]
    cursor = SensorCursor()
    plan = look(
        [(n, "1") for n in names], cursor=cursor, policy=Policy(max_new_runs=0, max_import_runs=0)
    )
    assert plan.requests == ()
    assert plan.due == 1000
    assert len(cursor.dump()) < 200


def test_an_import_is_shared_out_among_the_gpus():
    seen = [FolderSnapshot(f"f{i:03}", "1", 10, OLD) for i in range(20)]
    for gpus, sizes in ((1, [20]), (4, [5, 5, 5, 5]), (40, [1] * 20)):
        policy = Policy(folders_per_run=1024, max_new_runs=50, max_import_runs=50, encoders=gpus)
        assert [len(k) for k in keys(look(seen, policy=policy))] == sizes


def test_a_run_of_an_import_embeds_no_more_tracks_than_take_its_time():
    names = [f"f{i:03}" for i in range(20)]
    seen = [FolderSnapshot(n, "1", 50 if n == "f005" else 10, OLD) for n in names]
    policy = Policy(files_per_run=35, max_new_runs=20, max_import_runs=20)
    sizes = [len(k) for k in keys(look(seen, policy=policy))]
    assert sizes == [3, 2, 1, 3, 3, 3, 3, 2]  # f005 holds more than a run: it is never cut
    plan = look(seen, names, policy=policy, embedded=dict.fromkeys(names, 9))
    assert [len(k) for k in keys(plan)] == [5, 1, 14]


def test_changed_folders_close_together_share_a_run_and_distant_ones_do_not():
    names = [f"f{i:02}" for i in range(40)]
    have = dict.fromkeys(names, "1")
    seen = [(n, "2" if n in ("f00", "f03", "f30") else "1") for n in names]
    plan = look(seen, names, have)
    assert keys(plan) == [("f00", "f01", "f02", "f03"), ("f30",)]


def test_a_run_never_bridges_over_a_folder_that_another_run_holds_or_that_is_gone():
    names = ["a", "b", "c"]
    have = {"a": "1", "b": "1", "c": "1"}
    seen = [("a", "2"), ("b", "2"), ("c", "2")]
    assert keys(look(seen, names, have, running={"b"})) == [("a",), ("c",)]
    gone = look([seen[0], seen[2]], names, have)
    assert sorted(keys(gone)) == [("a",), ("b",), ("c",)]
    assert [r.keys for r in gone.requests if r.remove] == [("b",)]


def test_a_removed_folder_is_removed_and_then_retired():
    names = ["a", "b"]
    cursor = SensorCursor()
    plan = look([("a", "1")], names, {"a": "1", "b": "1"}, cursor=cursor)
    assert [(r.keys, r.remove) for r in plan.requests] == [(("b",), True)]
    held = look([("a", "1")], names, {"a": "1", "b": EMPTY}, running={"b"}, cursor=cursor)
    assert held.retire == ()
    done = look([("a", "1")], names, {"a": "1", "b": EMPTY}, cursor=cursor)
    assert done.retire == ("b",)
    assert cursor.attempts == {}


def test_an_emptied_library_removes_nothing():
    with pytest.raises(LibraryUnavailable, match="1 of 1 indexed folders are gone"):
        look([], ["a"], {"a": "1"})


@given(st.integers(1, 300), st.data())
def test_removals_of_more_than_three_folders_and_half_of_the_library_wait_for_a_person(n, data):
    gone = data.draw(st.integers(0, n - 1))
    names = [f"f{i:03}" for i in range(n)]
    have = dict.fromkeys(names, "1")
    seen = [(k, "1") for k in names[gone:]]
    if gone > 3 and gone >= n / 2:
        with pytest.raises(LibraryUnavailable, match="--confirm-removals"):
            look(seen, names, have)
    else:
        plan = look(seen, names, have, policy=Policy(max_new_runs=99))
        assert sum(len(r.keys) for r in plan.requests) == gone
    confirmed = look(seen, names, have, policy=Policy(max_new_runs=99, removals_confirmed=True))
    assert sum(len(r.keys) for r in confirmed.requests if r.remove) == gone


def test_folders_that_only_moved_are_no_mass_removal():
    names = [f"old/{i}" for i in range(10)]
    have = {k: f"version {i}" for i, k in enumerate(names)}
    seen = [(f"new/{i}", f"version {i}") for i in range(10)]
    plan = look(seen, names, have, policy=Policy(max_new_runs=99, max_import_runs=99))
    assert sum(len(r.keys) for r in plan.requests if r.remove) == 10
    others = [(f"new/{i}", f"other {i}") for i in range(10)]
    with pytest.raises(LibraryUnavailable, match="10 of 10"):
        look(others, names, have)


def test_removals_wait_for_a_walk_that_reached_the_end():
    names = ["a", "b", "c", "d"]
    have = dict.fromkeys(names, "1")
    cursor = SensorCursor()
    first = look([("a", "1")], names, have, cursor=cursor, complete=False, missing=["b"])
    assert first.requests == ()
    cursor = SensorCursor.load(cursor.dump())
    last = look([("d", "1")], names, have, cursor=cursor, missing=["c"])
    assert [(r.keys, r.remove) for r in last.requests] == [(("b", "c"), True)]


def test_nothing_below_an_unreadable_folder_is_gone():
    plan = look([FolderSnapshot("a", None)], ["a/x"], {"a/x": "1"}, missing=[])
    assert plan.requests == ()
    assert plan.unreadable == 1


def test_the_memory_survives_its_text_and_rubbish_is_an_empty_one():
    cursor = SensorCursor({"a": ("v", 1.5)}, {"b": ("w", 2, 3.5)}, "c", ["d"])
    assert SensorCursor.load(cursor.dump()) == cursor
    for text in (None, "", "{", "[]", '"x"', '{"attempts": 3}', '{"debouncing": {"a": 1}}'):
        assert SensorCursor.load(text) == SensorCursor()


@st.composite
def worlds(draw):
    names = [f"f{i}" for i in range(draw(st.integers(1, 12)))]
    version = st.sampled_from(["1", "2", "3"])
    want = {n: draw(version) for n in names if draw(st.booleans())}
    known = [n for n in draw(st.permutations(names)) if draw(st.booleans())]
    have = {
        n: draw(st.sampled_from(["1", "2", EMPTY, "dirty"])) for n in known if draw(st.booleans())
    }
    return want, known, have


@given(worlds())
def test_doing_what_is_asked_for_always_ends_with_index_and_library_in_step(world):
    want, known, have = world
    cursor, now = SensorCursor(), NOW
    for _ in range(40):
        policy = Policy(removals_confirmed=True, folders_per_run=3)
        plan = look(sorted(want.items()), known, have, cursor=cursor, now=now, policy=policy)
        for key in plan.retire:
            known.remove(key)
            have.pop(key, None)
        for request in plan.requests:
            known += [k for k in request.keys if k not in known]
            start, end = known.index(request.keys[0]), known.index(request.keys[-1])
            assert tuple(known[start : end + 1]) == request.keys
            for key in request.keys:
                assert key in want or request.remove
                have[key] = want.get(key, EMPTY)
        now += 10
    assert {k: have[k] for k in known} == want


def test_what_failed_together_because_milvus_was_away_is_tried_again_together():
    names = [f"f{i:02}" for i in range(64)]
    cursor = SensorCursor()
    seen = [(n, "1") for n in names]
    look(seen, cursor=cursor)
    failed = dict.fromkeys(names, False)
    assert look(seen, names, cursor=cursor, now=NOW + 30, failed=failed).requests == ()
    assert keys(look(seen, names, cursor=cursor, now=NOW + 61, failed=failed)) == [tuple(names)]


def test_after_the_dagster_home_was_lost_nothing_is_run_and_partitions_come_back():
    indexed = {"a": "1", "b": "1", "c": "1"}
    plan = look([("a", "1"), ("c", "1")], [], indexed, unlisted=("a", "b", "c"))
    assert plan.adopt == ("a", "c")
    assert [(r.keys, r.remove) for r in plan.requests] == [(("b",), True)]


def test_a_long_walk_whose_last_part_has_no_folder_left_is_not_taken_for_an_unmounted_library():
    names = [f"f{i:03}" for i in range(100)]
    cursor = SensorCursor(resume="f098")
    plan = look([], names, dict.fromkeys(names, "1"), cursor=cursor, missing=["f099"])
    assert [(r.keys, r.remove) for r in plan.requests] == [(("f099",), True)]
