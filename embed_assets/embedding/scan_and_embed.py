"""Scans folders and embeds their tracks in one pass, where no Dagster makes steps of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from embed_assets.embedding.canary.check import require_same_vectors
from embed_assets.embedding.decode_ahead import DecodeAhead
from embed_assets.embedding.embed_folders import EmbedContext, EmbedResult, embed_folders
from embed_assets.errors import LibraryUnavailable
from embed_assets.identity import folder_id
from embed_assets.library.manifest import scan_folder
from embed_assets.library.walk import Folder, library_in_a_run
from embed_assets.storage.records import Embedding
from embed_assets.workers import Pool

AHEAD = 16
"""Folders that are scanned while others are embedded, so that no worker waits for a scan."""


def scan_and_embed(
    context: EmbedContext,
    folders: Iterable[Folder],
    scanners: Pool,
    pool: Pool | DecodeAhead,
    on_track: Callable[[Embedding], None],
) -> Generator[tuple[bytes, EmbedResult | BaseException], None, None]:
    """Bring the manifests of folders up to date, and embed their tracks that have no vectors.

    Yields each folder with its outcome, as `embed_folders` does, with the same errors; those of
    `scan_folder` are outcomes, too. Before the first track is embedded, the canary checks that this
    machine makes the vectors that it made before.

    Raises:
        VectorsDrifted: it does not.
        LibraryUnavailable: the whole library is missing.
        TransientError: the workers were killed.
    """
    failed: deque[tuple[bytes, BaseException]] = deque()
    with _Scanning(context, scanners) as scanning:

        def scanned() -> Iterator[bytes]:
            for path, problem in scanning.ahead(folders):
                if problem is None:
                    yield path
                else:
                    failed.append((path, problem))

        outcomes = embed_folders(
            context,
            scanned(),
            pool,
            on_track,
            before_first=lambda: _require_same_vectors(context, pool),
        )
        for outcome in outcomes:
            yield from _drained(failed)
            yield outcome
        yield from _drained(failed)


class _Scanning:
    """A thread that scans folders ahead of those that are embedded."""

    def __init__(self, context: EmbedContext, pool: Pool) -> None:
        self.context, self.pool = context, pool
        self.thread = ThreadPoolExecutor(1)

    def __enter__(self) -> _Scanning:
        return self

    def __exit__(self, *_: object) -> None:
        self.thread.shutdown(cancel_futures=True)

    def ahead(self, folders: Iterable[Folder]) -> Iterator[tuple[bytes, BaseException | None]]:
        """Each folder in order, with what went wrong when it was scanned."""
        waiting: deque[tuple[bytes, Future[BaseException | None]]] = deque()
        for folder in folders:
            waiting.append((folder.path, self.thread.submit(self._scan, folder)))
            if len(waiting) > AHEAD:
                path, future = waiting.popleft()
                yield path, future.result()
        for path, future in waiting:
            yield path, future.result()

    def _scan(self, folder: Folder) -> BaseException | None:
        library, tables = self.context.library, self.context.tables
        if tables.digest(folder_id(library.name, folder.path)) == folder.digest:
            return None
        try:
            scan_folder(library, folder.path, tables, self.pool)
        except LibraryUnavailable as error:
            library_in_a_run(library.root)  # Otherwise each folder would fail for the same reason.
            return error
        except Exception as error:  # noqa: BLE001  # it is the folder's outcome
            return error
        return None


def _require_same_vectors(context: EmbedContext, pool: Pool | DecodeAhead) -> None:
    require_same_vectors(context, pool)


def _drained(
    failed: deque[tuple[bytes, BaseException]],
) -> Iterator[tuple[bytes, BaseException]]:
    while failed:
        yield failed.popleft()
