"""The process that answers queries over HTTP below `up`: started, started again, stopped.

It is `embed-assets serve` with the settings of `up`. It prints into a file, as Dagster does, so
that a terminal that is stopped cannot block it.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from embed_assets.access import Address
from embed_assets.operations.dagster_output import DagsterOutput, bound
from embed_assets.settings import Settings

WELL_SECONDS = 60.0
"""After a longer run than this the next start is not delayed by earlier failures."""

LONGEST_PAUSE_SECONDS = 60.0

STOP_SECONDS = 15.0
"""How long it may take to stop by itself; `serve` gives answers in progress 10 s."""

LOOK_SECONDS = 0.2

ANSWER_SECONDS = 5.0

_OF_UVICORN = re.compile(r"(?:WARNING|ERROR|CRITICAL): +(.*)")


class HttpProcess:
    """Keeps `serve` running at EMBED_HTTP until its block is left; does nothing without EMBED_HTTP.

    Whatever happens to it, the caller goes on. A port that is in use is tried again, as the program
    that uses it may end.
    """

    def __init__(self, settings: Settings, info: Callable[[str], None]) -> None:
        self.settings = settings
        self.info = info
        self.log = settings.home / "serve.log"
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self._keep_running, daemon=True)
        self.output = DagsterOutput(self.log)
        self.why = ""
        self.printed = ""

    def __enter__(self) -> HttpProcess:
        if self.settings.http:
            self.thread.start()
        return self

    def begin_to_stop(self) -> None:
        """Have it stopped; returns at once."""
        self.stopping.set()

    def __exit__(self, *_: object) -> None:
        self.begin_to_stop()
        if self.settings.http:
            # A disk that hangs may hold it; `serve` ends with us all the same.
            self.thread.join(2 * STOP_SECONDS)

    def _keep_running(self) -> None:
        starts = 0
        while not self.stopping.is_set():
            started, self.why = time.monotonic(), ""
            try:
                self._run()
            except OSError as e:
                self.why = f"`serve` cannot be started ({e.strerror})"
            if self.stopping.is_set():
                return
            # A failure that repeats is printed once.
            if self.why != self.printed:
                self.printed = self.why
                self.info(f"HTTP: {self.why}; it is tried again until it works")
            starts = 1 if time.monotonic() - started > WELL_SECONDS else starts + 1
            self.stopping.wait(min(2.0 ** (starts - 1), LONGEST_PAUSE_SECONDS))

    def _run(self) -> None:
        """Run it until it ends or is to stop."""
        process = _start(self.settings, self.log)
        try:
            while process.poll() is None and not self.stopping.wait(LOOK_SECONDS):
                bound(self.log)
                self._show()
        finally:
            _stop(process)
        self._show()
        self.why = self.why or f"`serve` ended with exit code {process.returncode} (see {self.log})"

    def _show(self) -> None:
        """Show what it printed for people; tracebacks are in its file only."""
        for line in self.output.new().decode(errors="backslashreplace").splitlines():
            if line.startswith("embed-assets: "):
                self.why = line.removeprefix("embed-assets: ")
            elif line.startswith("a page to search "):
                self.printed = ""
                self.info(f"HTTP: {line}")
            elif found := _OF_UVICORN.match(line):
                self.info(f"HTTP: {found[1]} (more in {self.log})")


def is_answering(address: Address) -> bool:
    """Whether a `serve` of this machine answers there; not for port 0."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)  # noqa: S104
    connection = http.client.HTTPConnection(host, address.port, timeout=ANSWER_SECONDS)
    try:
        connection.request("GET", "/healthz")
        return json.loads(connection.getresponse().read(1024)) == {"status": "ok"}
    except (OSError, http.client.HTTPException, ValueError):
        return False
    finally:
        connection.close()


def _start(settings: Settings, log: Path) -> subprocess.Popen[bytes]:
    """Start `serve` in a session of its own: a Ctrl-C in the terminal reaches `up` alone.

    It has the tokens in its environment, where other users cannot read them, and ends with us, as
    the pipe to it ends then.

    Raises OSError.
    """
    command = [sys.executable, "-m", "embed_assets.cli", "serve", "--until-stdin-ends"]
    with open(log, "ab") as output:
        return subprocess.Popen(
            command,
            env=os.environ | settings.environment() | settings.http_environment(),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    process.kill()
    process.wait()
    if process.stdin is not None:
        process.stdin.close()
