"""A real Chromium for the tests of the page: where it is, and what goes wrong in a page.

    python -m embed_assets_tests.browser

installs one where there is none: Playwright's, or Debian's package if this is root.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
INSTALL_SECONDS = 180
WHY = (
    "no Chromium: install Debian's package `chromium`, run `playwright install chromium`, or name"
    " one in EMBED_TEST_BROWSER"
)


def executable() -> str | None:
    """Path of a Chromium: EMBED_TEST_BROWSER, a package of the system, or Playwright's own."""
    if named := os.environ.get("EMBED_TEST_BROWSER"):
        return named
    if found := next(filter(None, map(shutil.which, NAMES)), None):
        return found
    from playwright.sync_api import sync_playwright

    with suppress(Exception), sync_playwright() as playwright:
        own = playwright.chromium.executable_path
        return own if Path(own).exists() else None
    return None


@contextmanager
def chromium() -> Iterator[Any]:
    """A headless Chromium; the test is skipped where there is none."""
    from playwright.sync_api import sync_playwright

    path = executable()
    if path is None:
        pytest.skip(WHY)
    with sync_playwright() as playwright:
        # Containers offer neither user namespaces nor a large /dev/shm.
        flags = ["--no-sandbox", "--disable-dev-shm-usage", "--mute-audio"]
        browser = playwright.chromium.launch(executable_path=path, args=flags)
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Watched:
    """What went wrong in a page, and whom it asked. `expected`: parts of errors that must come."""

    hosts: set[str] = field(default_factory=set)
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def assert_clean(self, address: str, *expected: str) -> None:
        """No error on the console, no violation of its policy, no request to another host."""
        wrong = [e for e in self.errors if not any(part in e for part in expected)]
        assert not wrong, wrong
        assert self.hosts <= {urlsplit(address).netloc}, self.hosts


def watch(page: Any) -> Watched:
    """Note the faults of a page from now on."""
    seen = Watched()

    def requested(request: Any) -> None:
        seen.requests.append(request.url)
        where = urlsplit(request.url)
        if where.scheme in ("http", "https", "ws", "wss"):
            seen.hosts.add(where.netloc)

    def told(message: Any) -> None:
        if message.type in ("error", "warning"):
            seen.errors.append(f"{message.text} ({message.location.get('url', '')})")

    page.on("request", requested)
    page.on("console", told)
    page.on("pageerror", lambda error: seen.errors.append(str(error)))
    return seen


@contextmanager
def proxy(prefix: str, behind: str) -> Iterator[str]:
    """A reverse proxy as many have one: it takes a prefix off. The address of the page below it."""

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            if not self.path.startswith(f"{prefix}/"):
                self.send_error(404, "not below the prefix")
                return
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            url, headers = behind + self.path.removeprefix(prefix), dict(self.headers)
            with httpx.stream(self.command, url, headers=headers, content=body) as answer:
                self.send_response_only(answer.status_code)
                for name, value in answer.headers.multi_items():
                    if name not in ("transfer-encoding", "connection"):
                        self.send_header(name, value)
                self.send_header("Connection", "close")
                self.end_headers()
                with suppress(ConnectionError):
                    for piece in answer.iter_raw():
                        self.wfile.write(piece)
            self.close_connection = True

        do_GET = do_POST = do_HEAD = handle_any

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}{prefix}/"
        finally:
            server.shutdown()


def until(page: Any, expression: str, seconds: float = 120.0) -> None:
    """Wait until an expression is true in a page; Playwright's own way needs `unsafe-eval`."""
    end = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < end, expression
        page.wait_for_timeout(50)


def install() -> None:
    """Get a Chromium if there is none; where none can be had, the tests are skipped."""
    if executable() is not None:
        return
    ways = [[sys.executable, "-m", "playwright", "install", "chromium"]]
    if os.geteuid() == 0 and shutil.which("apt-get"):
        apt = ["apt-get", "-qq", "-o", "Dpkg::Use-Pty=0"]
        ways += [
            [*apt, "update"],
            [*apt, "install", "--yes", "--no-install-recommends", "chromium"],
        ]
    for way in ways:
        # Without a network they try again and again.
        with suppress(subprocess.TimeoutExpired):
            subprocess.run(
                way,
                env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                check=False,
                timeout=INSTALL_SECONDS,
            )
        if executable() is not None:
            return
    print(WHY)


if __name__ == "__main__":
    install()
