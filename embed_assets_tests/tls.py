"""TLS in front of a Milvus server, as a proxy or a cloud puts it there; its certificate is ours."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from embed_assets_tests.patience import PATIENCE


@contextmanager
def tls_in_front_of(address: str, folder: Path) -> Iterator[tuple[str, Path]]:
    """(https address, certificate that vouches for it) of a proxy that hands on to a server."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make a certificate with")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    command += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(["h2"])
    behind = urlsplit(address)
    ready, loop = threading.Event(), asyncio.new_event_loop()
    port: list[int] = []

    async def hand_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            inner = await asyncio.open_connection(behind.hostname, behind.port)
            await asyncio.gather(_copy(reader, inner[1]), _copy(inner[0], writer))

    async def serve() -> None:
        server = await asyncio.start_server(hand_on, "127.0.0.1", 0, ssl=context)
        port.append(server.sockets[0].getsockname()[1])
        ready.set()

    def run() -> None:
        asyncio.set_event_loop(loop)
        loop.create_task(serve())
        loop.run_forever()

    threading.Thread(target=run, daemon=True).start()
    assert ready.wait(PATIENCE)
    try:
        yield f"https://localhost:{port[0]}", certificate
    finally:
        loop.call_soon_threadsafe(loop.stop)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()
