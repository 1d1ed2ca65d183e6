"""How steps run: executor, pools, retries, and which error becomes which kind of failure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from embed_assets.errors import ConfigurationError

GPU_POOL = "gpu"
"""Steps that use the encoder: one at a time across runs, for each uses the whole machine."""

MILVUS_POOL = "milvus"
"""Steps that write to the index: Milvus Lite has one writer."""

RETRIES = dg.RetryPolicy(
    max_retries=3, delay=2, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS
)
"""For what is bad for a moment: after about 2, 4 and 8 seconds, then the sensor's longer waits."""

PRELOADED = [
    "embed_assets.definitions",
    # What opening the instance imports: .6 s that each step would pay after it was forked.
    "dagster._core.storage.sqlite_storage",
    "dagster._core.instance.factory",
    "upath",
]

EXECUTOR = dg.multiprocess_executor.configured(
    # Spawn would import dagster and the definitions anew for each step: 8 s a run instead of 3.
    {"start_method": {"forkserver": {"preload_modules": PRELOADED}}},
    name="forkserver",
)


@contextmanager
def wrong_settings_fail_at_once(stage: str) -> Iterator[None]:
    """Turn a ConfigurationError into a failure without retries."""
    try:
        yield
    except ConfigurationError as e:
        raise failure_of(e, stage) from e


def failure_of(error: BaseException, stage: str) -> BaseException:
    """What a step raises for an error: a wrong configuration is not tried again."""
    if isinstance(error, ConfigurationError):
        return dg.Failure(description=f"{stage}: {error}", allow_retries=False)
    return error
