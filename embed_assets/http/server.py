"""`serve`: runs the application until SIGINT or SIGTERM."""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable

import uvicorn
from threadpoolctl import threadpool_limits

from embed_assets.access import Address, require_token
from embed_assets.api import Library
from embed_assets.errors import EmbedAssetsError, ExitCode
from embed_assets.http.app import create_app
from embed_assets.http.connections import Connection
from embed_assets.operations.http_process import is_answering
from embed_assets.settings import Settings

LONGEST_HEAD = 1 << 16
"""Bytes of the headers of a request."""

STOP_SECONDS = 10
"""How long answers in progress may take when the server stops."""

SWITCH_SECONDS = 0.0005
"""How long a thread of a query may keep the interpreter. With Python's 5 ms, the thread that takes
requests and sends answers waits for the queries."""

LEAVE_SECONDS = 1
"""How long threads may take after that. What they do at that time only reads."""


def serve(
    settings: Settings,
    address: Address,
    root_path: str,
    progress: Callable[[str], None],
    *,
    named: str,
    until_stdin_ends: bool = False,
) -> None:
    """Serve queries until SIGINT or SIGTERM.

    `named`: the option or setting that the host comes from, as the user wrote it.
    `until_stdin_ends`: also stop when standard input ends, as it does when `up` is killed.

    Raises:
        ConfigurationError: another address than loopback without a token, or a wrong token.
        EmbedAssetsError: the port is taken, or cannot be used.
    """
    tokens = settings.http_tokens()
    require_token(address, tokens, named)
    # uvicorn raises the signal again once it has stopped.
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, _done)
    if until_stdin_ends:
        threading.Thread(target=_stop_with_stdin, daemon=True).start()
    sys.setswitchinterval(SWITCH_SECONDS)
    app = create_app(Library(settings), tokens)
    prefix = f"/{root_path.strip('/')}".rstrip("/")
    # Queries run in parallel, and BLAS threads of each would slow down the others (3 radios a
    # second with 8 clients instead of 37, on two cores).
    with _listening(address, of_up=until_stdin_ends) as listener, threadpool_limits(1):
        shown = Address(*listener.getsockname()[:2])
        how = "" if until_stdin_ends else " (stop: Ctrl-C)"
        progress(f"a page to search and listen, and queries, at http://{shown}{prefix}/{how}")
        for one in settings.music_servers():
            progress(f"music server {one.name}: {one.kind} at {one.url}")
        config = uvicorn.Config(
            app,
            http=Connection,
            h11_max_incomplete_event_size=LONGEST_HEAD,
            ws="none",
            # Queries name music, which is private.
            access_log=False,
            root_path=prefix,
            log_level="warning",
            server_header=False,
            timeout_graceful_shutdown=STOP_SECONDS,
            forwarded_allow_ips="127.0.0.1",
        )
        server = uvicorn.Server(config)
        app.state.is_stopping = lambda: server.should_exit
        try:
            server.run(sockets=[listener])
        finally:
            _leave_soon()


def _leave_soon() -> None:
    """End the process even if a query still waits for a disk or a music server that hangs."""
    timer = threading.Timer(LEAVE_SECONDS, os._exit, (ExitCode.DONE,))
    timer.daemon = True
    timer.start()


def _done(*_: object) -> None:
    raise SystemExit(ExitCode.DONE)


def _stop_with_stdin() -> None:
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _listening(address: Address, *, of_up: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        return socket.create_server((address.host, address.port), family=family)
    except (OSError, UnicodeError) as e:
        why = str(getattr(e, "strerror", None) or e)
        if isinstance(e, OSError) and e.errno == errno.EADDRINUSE:
            why = "another program uses this port"
            # `up` tries again and again: a silent program would cost seconds each time.
            if not of_up and is_answering(address):
                why = "`serve`, or `up` with EMBED_HTTP, is running and answers queries there"
        other = "another EMBED_HTTP" if of_up else "another with --host and --port"
        raise EmbedAssetsError(f"cannot serve at {address}: {why}; choose {other}") from e
