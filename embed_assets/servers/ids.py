"""The ids that music servers give to tracks, kept up to date while `serve` runs."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from embed_assets.errors import EmbedAssetsError, NotFound, NotIndexedYet, TransientError
from embed_assets.identity import TrackId
from embed_assets.servers.base import Item, MusicServer
from embed_assets.servers.config import ServerConfig
from embed_assets.servers.kinds import connect
from embed_assets.servers.matching import Ours
from embed_assets.servers.side_table import Listing, SideTable
from embed_assets.storage import looks, queries
from embed_assets.storage.tables import Tables

LOG = logging.getLogger(__name__)

POLL_SECONDS = 3.0
"""How often a server is asked whether a scan has ended, and the tables whether they changed."""

RETRY_SECONDS = 30.0
"""Pause after a failure."""

LIST_AGAIN_SECONDS = 6 * 3600.0
"""A server is listed again after this time, whatever it says of scans."""

STOP_SECONDS = 2.0
"""How long the threads may take to end before they are left to themselves."""

UNKNOWN_SECONDS = 60.0
"""How long an id that a server does not know is not asked for again."""

MATCHING_SHARE = 0.1
"""Most of its time that a thread spends on matching: an import changes the tables all the time."""

WAITING = 3
"""Queries that may wait for a server at the same time; others go on meanwhile."""

WAIT_SECONDS = 0.3
"""How long another one waits to be among them."""

MOST_ITEMS = 5_000_000
"""Tracks of a server."""


@dataclass
class ServerIds:
    """The ids of the tracks of one library at its music servers. Safe for threads."""

    servers: Mapping[str, MusicServer]
    tables: Tables
    table: SideTable
    _ours: Ours | None = None
    _seen: object = None
    _wanted: set[str] = field(default_factory=set)
    _listed: dict[str, tuple[str, float]] = field(default_factory=dict)
    """Scan state and `time.monotonic` of the last complete list, whether it was taken or not."""
    _wakes: dict[str, threading.Event] = field(default_factory=dict)
    _unknown: dict[tuple[str, str], float] = field(default_factory=dict)
    _threads: list[threading.Thread] = field(default_factory=list)
    _waiting: dict[str, threading.Semaphore] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stop: threading.Event = field(default_factory=threading.Event)

    @classmethod
    def of(cls, servers: Sequence[ServerConfig], tables: Tables, home: Path) -> ServerIds:
        """The ids at these servers; asks none of them yet."""
        return cls({one.name: connect(one) for one in servers}, tables, SideTable(home))

    def start(self) -> None:
        """Keep the ids up to date in threads of their own, until `stop`."""
        self._wakes = {name: threading.Event() for name in self.servers}
        for name in self.servers:
            # A server that does not answer holds up no end of ours.
            thread = threading.Thread(target=self._watch, args=(name,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """End the threads."""
        self._stop.set()
        for wake in self._wakes.values():
            wake.set()
        end = time.monotonic() + STOP_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    def list_soon(self, name: str) -> None:
        """Have a server listed at once by its thread. Raises NotFound: there is no such server."""
        self.server(name)
        self._wanted.add(name)
        if name in self._wakes:
            self._wakes[name].set()

    def refresh(self, name: str) -> Listing:
        """List a server now, and match its items; raises what `MusicServer` does."""
        server = self.servers[name]
        self._listed.pop(name, None)
        try:
            state = server.scan_state() or ""
            listing = self.table.replace(name, _not_too_many(name, server), self.ours(), state)
            self._listed[name] = state, time.monotonic()
            return listing
        except EmbedAssetsError as e:
            self.table.note(name, str(e))
            raise

    def listings(self) -> dict[str, Listing]:
        """What is known of each server, by name."""
        return {name: self._listing(name) for name in self.servers}

    def _listing(self, name: str) -> Listing:
        try:
            return self.table.listing(name)
        except TransientError as e:
            return Listing(problem=str(e))

    def track_of(self, name: str, item_id: str) -> TrackId:
        """The track that a server means by an id; it is asked if the id is not known yet.

        Raises:
            NotFound: there is no such server, or it has no such track.
            NotIndexedYet: the server has it, but the library does not.
        """
        server = self.server(name)
        item_id = server.normal_id(item_id)
        track = self.table.track_of(name, item_id)
        if track is None:
            track = self._ask(name, server, item_id)
        if not track:
            raise NotIndexedYet(
                f"the track {item_id!r} of {name} is none of the library yet, or fits several:"
                " `embed-assets doctor` lists such tracks"
            )
        return track

    def server(self, name: str) -> MusicServer:
        """The server of a name. Raises NotFound: there is none."""
        if name not in self.servers:
            there = f"it has {', '.join(self.servers)}" if self.servers else "it is not set"
            raise NotFound(f"EMBED_SERVERS has no music server {name!r}: {there}")
        return self.servers[name]

    @contextmanager
    def asking(self, name: str) -> Iterator[None]:
        """Ask a server in the thread of a query; one that hangs must not stop all queries.

        Raises:
            TransientError: several queries wait for it already.
        """
        with self._lock:
            waiting = self._waiting.setdefault(name, threading.Semaphore(WAITING))
        if not waiting.acquire(timeout=WAIT_SECONDS):
            raise TransientError(f"the music server {name} answers too slowly: ask again later")
        try:
            yield
        finally:
            waiting.release()

    def ids_of(self, track_ids: Iterable[str]) -> dict[str, dict[str, str]]:
        """Track id -> name of a server -> its id."""
        return self.table.ids_of(track_ids) if self.servers else {}

    def ours(self) -> Ours:
        """The tracks of the library as they are now, for matching."""
        state = queries.manifest_state(self.tables)
        with self._lock:
            if self._ours is None or self._seen != state:
                self._ours = Ours(queries.every_track(self.tables))
                self._seen = state
            return self._ours

    def _ask(self, name: str, server: MusicServer, item_id: str) -> TrackId | None:
        now = time.monotonic()
        if self._unknown.get((name, item_id), -UNKNOWN_SECONDS) > now - UNKNOWN_SECONDS:
            item = None
        else:
            # No lock is held: the server may be waiting for our answer.
            with self.asking(name):
                item = server.item(item_id)
        if item is None:
            with self._lock:
                old = [k for k, at in self._unknown.items() if at < now - UNKNOWN_SECONDS]
                for key in old:
                    del self._unknown[key]
                self._unknown.setdefault((name, item_id), now)
            raise NotFound(f"the music server {name} has no track {item_id!r}")
        return self.table.put(name, item, self.ours())

    def _watch(self, name: str) -> None:
        server, wake = self.servers[name], self._wakes[name]
        if server.has_events:
            threading.Thread(target=_listen, args=(server, wake, self._stop), daemon=True).start()
        first, failed, matched = True, "", None
        while not self._stop.is_set():
            pause = RETRY_SECONDS if server.has_events else POLL_SECONDS
            try:
                if self._is_due(name, server):
                    if not (first or failed):
                        looks.request(self.tables)
                    self.refresh(name)
                    matched = queries.manifest_state(self.tables)
                elif (state := queries.manifest_state(self.tables)) != matched:
                    began = time.monotonic()
                    self.table.match_again(name, self.ours())
                    matched = state
                    pause = max(pause, (time.monotonic() - began) / MATCHING_SHARE)
                first, failed = False, ""
            except EmbedAssetsError as e:
                pause = RETRY_SECONDS
                if str(e) != failed:
                    LOG.warning("%s", e)
                failed = str(e)
            except Exception:
                pause = RETRY_SECONDS
                LOG.exception("the ids of %s could not be brought up to date", name)
            if wake.wait(pause):
                wake.clear()

    def _is_due(self, name: str, server: MusicServer) -> bool:
        """Whether a server has to be listed: at first, after its scans, and now and then."""
        state = server.scan_state()
        if state is None:
            return False
        if name in self._wanted:
            self._wanted.discard(name)
            return True
        # The side table may be deleted at any time.
        if name not in self._listed or self.table.listing(name).listed_at is None:
            return True
        listed_state, at = self._listed[name]
        return state != listed_state or at < time.monotonic() - LIST_AGAIN_SECONDS


def _not_too_many(name: str, server: MusicServer) -> Iterator[Item]:
    for n, item in enumerate(server.items()):
        if n >= MOST_ITEMS:
            raise TransientError(f"the music server {name} lists more than {MOST_ITEMS:,} tracks")
        yield item


def _listen(server: MusicServer, wake: threading.Event, stop: threading.Event) -> None:
    """Wake the thread of a server at once when it says that a scan has ended."""
    while not stop.is_set():
        try:
            for _ in server.scan_ends():
                wake.set()
        except EmbedAssetsError:
            # The thread that is woken finds the same, and says it.
            pass
        if stop.wait(RETRY_SECONDS):
            return
