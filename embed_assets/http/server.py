"""`serve`: runs the application until SIGINT or SIGTERM."""

from __future__ import annotations

import errno
import ipaddress
import signal
import socket
from collections.abc import Callable

import uvicorn
from threadpoolctl import threadpool_limits

from embed_assets.api import Library
from embed_assets.errors import ConfigurationError, EmbedAssetsError, ExitCode
from embed_assets.http.app import create_app
from embed_assets.settings import Settings

STOP_SECONDS = 10
"""How long answers in progress may take when the server stops."""


def serve(
    settings: Settings, host: str, port: int, root_path: str, progress: Callable[[str], None]
) -> None:
    """Serve queries until SIGINT or SIGTERM.

    Raises:
        ConfigurationError: another address than loopback without a token.
        EmbedAssetsError: the port is taken, or cannot be used.
    """
    if not settings.http_token and not _is_loopback(host):
        raise ConfigurationError(
            f"--host {host}: without a token only this machine may ask. Set EMBED_HTTP_TOKEN, or"
            " use --host 127.0.0.1"
        )
    # uvicorn raises the signal again once it has stopped.
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, _done)
    app = create_app(Library(settings), settings.http_token)
    prefix = f"/{root_path.strip('/')}".rstrip("/")
    # Queries run in parallel, and BLAS threads of each would slow down the others (3 radios a
    # second with 8 clients instead of 37, on two cores).
    with _listening(host, port) as listener, threadpool_limits(1):
        address, number = listener.getsockname()[:2]
        shown = f"[{address}]" if ":" in address else address
        progress(f"serving {settings.library} at http://{shown}:{number}{prefix} (stop: Ctrl-C)")
        config = uvicorn.Config(
            app,
            # Queries name music, which is private.
            access_log=False,
            root_path=prefix,
            log_level="warning",
            server_header=False,
            timeout_graceful_shutdown=STOP_SECONDS,
            forwarded_allow_ips="127.0.0.1",
        )
        uvicorn.Server(config).run(sockets=[listener])


def _done(*_: object) -> None:
    raise SystemExit(ExitCode.DONE)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listening(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        )
    except (OSError, UnicodeError) as e:
        taken = isinstance(e, OSError) and e.errno == errno.EADDRINUSE
        why = "another program uses this port" if taken else getattr(e, "strerror", None) or e
        raise EmbedAssetsError(
            f"cannot serve at {host}:{port}: {why}; choose another with --host and --port"
        ) from e
