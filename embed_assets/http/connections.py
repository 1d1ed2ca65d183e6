"""Connections of `serve`: how long a client may take to ask and to listen, and how many there are.

uvicorn waits for ever for a request that never ends, and for a client that never reads.
"""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_SECONDS = 60.0
"""How long a client may take from its first byte, or from connecting, to the end of a request."""

STALLED_SECONDS = 660.0
"""A client that takes nothing for so long is disconnected. Longer than streams wait for players."""

MOST_CONNECTIONS = 400
"""With more, the one that has waited longest without a whole request is closed. Far below the 1,024
files that a process may usually have open."""


class Connection(H11Protocol):
    """A connection that is closed if its client asks or reads too slowly.

    h11 and not httptools, which takes headers of any size, in a time that grows with its square.
    """

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._too_slow: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None
        self._unsent = 0
        self.free_since = self.loop.time()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Make room for it, and wait for its first request."""
        super().connection_made(transport)
        self._too_slow = self.loop.call_later(REQUEST_SECONDS, transport.abort)
        if len(self.connections) > MOST_CONNECTIONS:
            free = [c for c in self.connections if isinstance(c, Connection) and not c.is_busy]
            oldest = min(free, key=lambda c: c.free_since, default=self)
            self.connections.discard(oldest)
            oldest.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """End its timers."""
        super().connection_lost(exc)
        for timer in (self._too_slow, self._stalled):
            if timer:
                timer.cancel()

    def data_received(self, data: bytes) -> None:
        """Take bytes of a request, and see whether it is whole."""
        super().data_received(data)
        state = self.conn.their_state
        is_partial = state is h11.SEND_BODY or (state is h11.IDLE and self.conn.trailing_data[0])
        if not is_partial and self._too_slow:
            self._too_slow.cancel()
            self._too_slow = None
        elif is_partial and self._too_slow is None:
            self._too_slow = self.loop.call_later(REQUEST_SECONDS, self.transport.abort)

    def on_response_complete(self) -> None:
        """Note since when it waits."""
        self.free_since = self.loop.time()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """See to it that the client goes on reading."""
        super().pause_writing()
        self._unsent = self.transport.get_write_buffer_size()
        self._stalled = self.loop.call_later(STALLED_SECONDS, self._reads_nothing)

    def resume_writing(self) -> None:
        """The client has read."""
        super().resume_writing()
        if self._stalled:
            self._stalled.cancel()

    @property
    def is_busy(self) -> bool:
        """Whether a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def _reads_nothing(self) -> None:
        left = self.transport.get_write_buffer_size()
        if left >= self._unsent:
            self.transport.abort()
            return
        self._unsent = left
        self._stalled = self.loop.call_later(STALLED_SECONDS, self._reads_nothing)
