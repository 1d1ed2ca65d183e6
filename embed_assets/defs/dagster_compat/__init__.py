"""What Dagster does not offer, and this project needs: every private or undocumented call is here.

Nothing else in the package may import `dagster._...`, use an attribute that begins with an
underscore, or call what Dagster does not mark as public; ruff and test_dagster_compat.py see to it.
Each module says what Dagster lacks, why that is needed, and which upstream issue is about it:

- `pools`: slots of concurrency pools: claimed one process at a time, read, set and freed.
- `locks`: locks between processes, on one machine or on several.
- `batches`: events and metadata of many partitions, stored together.
- `runs`: system tags, a run's log, ending a run whose worker is gone, notes beside the runs.
- `processes`: what Dagster's processes import, and whether its code server still has its code.
- `events`: the SQL tables of runs and events, for pruning and for when a folder was indexed.
- `files`: the files of an instance, for pruning.

`events` and `files` take half a second to import and are imported where history is pruned only.
"""

WRITTEN_FOR = "1.13.27"
"""The version of Dagster that all of it was written against; another one needs its tests run."""
