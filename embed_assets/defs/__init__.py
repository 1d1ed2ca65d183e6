"""The Dagster code: assets, partitions, sensor, checks, jobs, and how they are executed."""
