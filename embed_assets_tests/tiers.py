"""Which tests are fast: those that `make test-fast` runs at every edit."""

from __future__ import annotations

import pytest

SLOW_FIXTURES = frozenset(
    {
        *("world", "world_at", "two_collections", "running", "small", "small_mulan"),
        *("milvus_server", "postgres_server", "object_server", "disk"),
    }
)
"""Runs of Dagster, MuQ's weights, a server, a mounted disk: seconds for each test."""

SLOW = frozenset(
    {
        "test_a_better_map_is_drawn_beside_the_queries",
        "test_a_client_chooses_the_format_and_where_it_begins",
        "test_a_client_that_goes_away_ends_its_decoder",
        "test_a_device_that_dies_costs_what_was_under_way",
        "test_a_file_that_gives_no_audio_holds_no_place",
        "test_a_file_that_takes_a_decoder_for_ever_costs_its_own_worker_only",
        "test_a_lock_is_free_again_when_its_holder_is_killed",
        "test_killed_before_packed_vectors_are_deleted_it_packs_none_twice",
        "test_killed_while_it_embeds_it_continues",
        "test_a_lock_outlives_a_restart_of_the_server_and_is_never_held_twice",
        "test_a_look_makes_up_scan_though_scans_are_an_hour_apart",
        "test_a_pool_that_ends_while_workers_still_start_prints_nothing",
        "test_a_processor_with_other_instructions_gives_what_is_shipped",
        "test_a_port_in_use_is_said_once_and_tried_until_it_is_free",
        "test_a_port_that_is_taken_is_named",
        "test_a_reader_gets_its_turn_while_a_writer_is_busy",
        "test_a_real_subsonic_server",
        "test_a_request_that_never_ends_is_given_up",
        "test_a_searcher_never_fails_while_the_next_collection_is_filled_and_served",
        "test_a_sync_answers_looks",
        "test_a_task_that_never_ends_is_the_tracks_fault_and_one_that_waits_the_disks",
        "test_a_writer_killed_at_any_moment_leaves_nothing_that_a_repeat_does_not_mend",
        "test_an_index_of_an_encoder_without_words_names_the_setting",
        "test_behind_a_proxy_its_document_names_the_path_there",
        "test_behind_a_proxy_the_cookie_is_for_its_path_and_for_https",
        "test_commands_put_playlists_on_a_server_and_say_how_much_it_knows",
        "test_dagster_accepts_the_keys",
        "test_eight_threads_ask_while_runs_write_and_another_collection_is_served",
        "test_eight_threads_ask_while_the_library_changes",
        "test_it_answers_until_it_is_stopped_and_writes_down_nothing_of_it",
        "test_it_gives_the_vectors_and_rows_that_a_process_a_core_gives",
        "test_its_features_are_librosas",
        "test_no_query_fails_while_another_collection_is_served",
        "test_nobody_waits_beside_a_free_slot",
        "test_of_libraries_that_begin_at_once_one_has_the_place",
        "test_one_slot_is_given_to_one_step",
        "test_serve_alone_listens_where_the_setting_says_unless_an_option_says_otherwise",
        "test_serve_ends_though_a_music_server_hangs",
        "test_the_first_stage_that_differs_is_named",
        "test_the_numbers_are_the_same_with_every_version_of_torch_and_muq",
        "test_the_openapi_document_says_what_the_server_does",
        "test_the_server_stops_though_somebody_listens",
        "test_what_is_at_home_is_left_out",
        "test_what_arrives_in_the_library_later_is_matched_without_another_list",
        "test_what_browsers_cannot_play_is_converted",
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
        "test_sync_on_postgres",
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
    not_fast = ("stress", "bench", "browser", "cluster")
    if any(item.get_closest_marker(mark) for mark in not_fast) or name in SLOW:
        return False
    return name in FAST or SLOW_FIXTURES.isdisjoint(getattr(item, "fixturenames", ()))
