"""Decides which runs are needed, from the library and what is indexed. Pure values: no Dagster, no
files, no clock.

    FolderSnapshots, Known  --compare-->  Comparison  --plan_removals, plan_runs-->  RunRequests

Planning is level-triggered: each evaluation compares the whole library, so the next one finds again
what is not requested now. A `SensorCursor` keeps only what cannot be observed: since when a folder
is unchanged, how often a version was attempted, and where a long walk continues.
"""
