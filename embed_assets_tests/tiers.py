"""Which tests are fast: those that `make test-fast` runs at every edit."""

from __future__ import annotations

import pytest

SLOW_FIXTURES = frozenset(
    {"world", "world_at", "two_collections", "running", "small", "milvus_server", "disk"}
)
"""Runs of Dagster, MuQ's weights, a Milvus server, a mounted disk: seconds for each test."""

SLOW = frozenset(
    {
        "test_a_file_that_takes_a_decoder_for_ever_costs_its_own_worker_only",
        "test_a_reader_gets_its_turn_while_a_writer_is_busy",
        "test_a_searcher_never_fails_while_the_next_collection_is_filled_and_served",
        "test_a_task_that_never_ends_is_the_tracks_fault_and_one_that_waits_the_disks",
        "test_a_writer_killed_at_any_moment_leaves_nothing_that_a_repeat_does_not_mend",
        "test_eight_threads_ask_while_runs_write_and_another_collection_is_served",
        "test_its_features_are_librosas",
    }
)
"""Slow for another reason."""

FAST = frozenset(
    {
        # What is said of wrong settings, before any work.
        "test_a_home_that_cannot_be_one_is_said_to_be_so",
        "test_a_mistyped_setting_is_named_with_what_was_meant",
        "test_commands_that_only_look_make_nothing",
        "test_it_needs_a_library",
        "test_neither_a_login_nor_a_traceback_comes_of_wrong_settings",
        "test_settings_that_mean_nothing_are_refused_by_every_command",
        "test_without_a_library_that_is_what_is_said_and_nothing_of_weights",
        "test_wrong_settings_end_with_exit_code_2_and_name_the_variable",
        # What the sensor asks for, and what it leaves to others.
        "test_a_run_that_sync_had_not_begun_when_it_was_killed_holds_nothing",
        "test_a_run_that_was_launched_just_now_may_have_no_worker_yet",
        "test_an_import_has_a_run_for_each_gpu_and_one_that_reads_ahead",
        "test_what_another_look_asked_for_meanwhile_is_left_out",
        # One library from the files to the index.
        "test_doctor_says_what_is_wrong_and_what_to_do",
    }
)
"""Fast all the same, though they have such a fixture."""

LONG_FILES = frozenset(
    {
        "test_failures",
        "test_journeys",
        "test_power_loss",
        "test_retry",
        "test_stress",
        "test_ui",
    }
)
"""A minute or more each."""


def longest_first(items: list[pytest.Item]) -> list[pytest.Item]:
    """The tests in the order in which their files begin: a worker of xdist takes a whole file."""
    slow = {item.path for item in items if not is_fast(item)}
    return sorted(items, key=lambda i: (i.path.stem not in LONG_FILES, i.path not in slow))


def is_fast(item: pytest.Item) -> bool:
    """Whether a test belongs to the fast tier; a new one does unless it has a slow fixture."""
    name = getattr(item, "originalname", item.name)
    if any(item.get_closest_marker(mark) for mark in ("stress", "bench")) or name in SLOW:
        return False
    return name in FAST or SLOW_FIXTURES.isdisjoint(getattr(item, "fixturenames", ()))
