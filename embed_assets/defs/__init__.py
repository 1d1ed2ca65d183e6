"""The only place that knows Dagster: assets, partitions, sensor, checks, jobs and how they run."""
