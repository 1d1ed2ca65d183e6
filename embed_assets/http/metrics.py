"""The metrics for Prometheus at `/metrics`."""

from __future__ import annotations

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from embed_assets.errors import EmbedAssetsError
from embed_assets.http.context import Context
from embed_assets.http.state import counts_of

RUN_STATUSES = ("QUEUED", "STARTING", "STARTED", "CANCELING", "SUCCESS", "FAILURE", "CANCELED")
RUNS_QUERY = "\n".join(
    f"{s}: runsOrError(filter: {{statuses: [{s}]}}) {{ ... on Runs {{ count }} }}"
    for s in RUN_STATUSES
)
UI_SECONDS = 2.0

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """The metrics of one server, in a registry of their own."""

    def __init__(self, context: Context) -> None:
        self.registry = CollectorRegistry()
        self.queries = Counter(
            "embed_assets_queries",
            "Answered queries by kind and status code",
            ("kind", "status"),
            registry=self.registry,
        )
        self.seconds = Histogram(
            "embed_assets_query_seconds",
            "Seconds from a query to its answer",
            ("kind",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.registry.register(_State(context))

    def observe(self, kind: str, status: int, seconds: float) -> None:
        """Count an answered query."""
        self.queries.labels(kind, str(status)).inc()
        self.seconds.labels(kind).observe(seconds)


class _State(Collector):
    """Figures from the tables and of Dagster's runs, read when Prometheus asks."""

    def __init__(self, context: Context) -> None:
        self.context = context

    def collect(self) -> Iterator[Metric]:
        try:
            found = counts_of(self.context)
        except EmbedAssetsError:
            return  # Without tables there are no figures.
        figures = {
            "tracks": ("Tracks of the library", found.tracks),
            "tracks_embedded": ("Tracks with vectors", found.embedded),
            "tracks_rejected": ("Tracks that cannot be embedded", found.rejected),
            "tracks_pending": ("Tracks that are not embedded yet", found.pending),
            "folders": ("Music folders", found.folders),
            "folders_indexed": ("Folders that are indexed as they are now", found.folders_indexed),
            "folders_failed": ("Folders whose last run failed", found.folders_failed),
        }
        for name, (text, value) in figures.items():
            yield GaugeMetricFamily(f"embed_assets_{name}", text, value=value)
        if found.indexed_at is not None:
            age = max(0.0, time.time() - found.indexed_at)
            text = "Seconds since the index last changed"
            yield GaugeMetricFamily("embed_assets_index_age_seconds", text, value=age)
        if found.ui is not None:
            yield from _runs(found.ui)
        if not found.servers:
            return
        tracks = GaugeMetricFamily(
            "embed_assets_server_tracks",
            "Tracks of music servers, by whether they are known here",
            labels=("server", "state"),
        )
        for one in found.servers:
            tracks.add_metric((one.name, "mapped"), one.mapped)
            tracks.add_metric((one.name, "unmatched"), one.unmatched)
        yield tracks


def _runs(ui: str) -> Iterator[Metric]:
    """How many runs Dagster has in each status; nothing if its UI does not answer."""
    import httpx

    try:
        answer = httpx.post(
            f"{ui}/graphql",
            json={"query": f"{{ {RUNS_QUERY} }}"},
            timeout=UI_SECONDS,
            trust_env=False,
        )
        counts = {s: int(answer.json()["data"][s]["count"]) for s in RUN_STATUSES}
    except (httpx.HTTPError, ValueError, TypeError, KeyError):
        return
    text = "Runs in Dagster's history, by status"
    runs = GaugeMetricFamily("embed_assets_runs", text, labels=("status",))
    for status, count in counts.items():
        runs.add_metric((status,), count)
    yield runs
