"""An answer of audio: sent piece by piece, and over when its client goes away."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator
from contextlib import ExitStack
from http import HTTPStatus

import anyio
from anyio import to_thread
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

STALLED_SECONDS = 600.0
"""A client that takes nothing for so long, e.g. a paused player, is left; it may ask again."""

STOP_SECONDS = 0.3
"""How often a stream looks whether the server is to stop: players may keep one open for hours."""


class Stream(Response):
    """An answer that is sent piece by piece; whatever it holds is given back when it ends."""

    def __init__(
        self,
        chunks: AsyncIterator[bytes],
        status: HTTPStatus,
        headers: dict[str, str],
        threads: anyio.CapacityLimiter,
        process: subprocess.Popen[bytes] | None = None,
    ) -> None:
        super().__init__(status_code=status, headers=headers)
        self.raw_headers = [h for h in self.raw_headers if h != (b"content-length", b"0")]
        self.chunks, self.threads, self.process = chunks, threads, process
        self.first = b""
        self.held = ExitStack()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, until it ends, the client goes away or the server stops."""
        is_stopping = getattr(scope["app"].state, "is_stopping", lambda: False)
        try:
            async with anyio.create_task_group() as tasks:

                def leave() -> None:
                    if self.process:
                        self.process.kill()  # Ends the read that a thread may be in.
                    tasks.cancel_scope.cancel()

                async def leave_with_client() -> None:
                    while (await receive())["type"] != "http.disconnect":
                        pass
                    leave()

                async def leave_with_server() -> None:
                    while not is_stopping():
                        await anyio.sleep(STOP_SECONDS)
                    leave()

                tasks.start_soon(leave_with_client)
                tasks.start_soon(leave_with_server)
                with anyio.move_on_after(STALLED_SECONDS) as patience:
                    await self._send(send, patience)
                tasks.cancel_scope.cancel()
        finally:
            await self.end()

    async def _send(self, send: Send, patience: anyio.CancelScope) -> None:
        start = {"type": "http.response.start", "status": self.status_code}
        await send({**start, "headers": self.raw_headers})
        if self.first:
            await send({"type": "http.response.body", "body": self.first, "more_body": True})
        async for data in self.chunks:
            await send({"type": "http.response.body", "body": data, "more_body": True})
            patience.deadline = anyio.current_time() + STALLED_SECONDS
        await send({"type": "http.response.body", "body": b""})

    async def end(self) -> None:
        """Give everything back."""
        with anyio.CancelScope(shield=True):
            if self.process:
                await to_thread.run_sync(_ended, self.process, limiter=self.threads)
            self.held.close()


def _ended(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    if process.stdout:
        process.stdout.close()
