"""From what is in the library and what is indexed to the runs that are needed. Pure values: no
Dagster, no files, no clock.

    FolderSnapshots, Known  --compare-->  Comparison  --plan_removals, plan_runs-->  RunRequests

Planning is level-triggered: each evaluation compares the whole library, so what is not requested
now is found again by the next one. A `SensorCursor` carries over only what cannot be observed:
since when a folder is unchanged, how often a version was attempted, where a long walk continues.
"""
