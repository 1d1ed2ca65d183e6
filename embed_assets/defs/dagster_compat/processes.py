"""Processes of Dagster: what they import first, and whether the code server still has its code.

What Dagster 1.13 lacks:

- A forkserver that has imported what opening an instance imports: each step would pay .6 s for it.
  The modules are named here. Upstream: no issue found.
- A code server that survives its child. The code server of `dagster dev` is a proxy that holds the
  code in a child process. A proxy that ends is started again, but one whose child was killed
  answers every call with an error until somebody presses "Reload": no sensor ticks, no run starts.
  Processes are told apart by their command lines. Upstream: issue #24050, open.
"""

from __future__ import annotations

import time
from contextlib import suppress

PRELOADED_MODULES = (
    "dagster._core.storage.sqlite_storage",
    "dagster._core.instance.factory",
    "upath",
)
"""What opening an instance imports."""

LOOK_SECONDS = 2.0


class CodeServerWatch:
    """Looks every few seconds whether the code server of a `dagster dev` still has its code."""

    def __init__(self, dagster_dev: int) -> None:
        self.dagster_dev = dagster_dev
        self.looked = 0.0
        self.had_code: set[int] = set()
        self.missed: set[int] = set()

    def is_lost(self) -> bool:
        """Whether a proxy had been without its child twice in a row; it is ended then."""
        import psutil

        if time.monotonic() - self.looked < LOOK_SECONDS:
            return False
        self.looked = time.monotonic()
        lost, self.missed = self.missed, set()
        with suppress(psutil.Error, OSError):
            for proxy in psutil.Process(self.dagster_dev).children():
                if "code-server" not in proxy.cmdline():
                    continue
                if any("grpc" in child.cmdline() for child in proxy.children()):
                    self.had_code.add(proxy.pid)
                elif proxy.pid in lost:
                    proxy.kill()
                    return True
                elif proxy.pid in self.had_code:
                    self.missed.add(proxy.pid)
        return False
