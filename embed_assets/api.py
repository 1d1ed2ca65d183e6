"""The Python API: `embed_assets.open()` returns a `Library`, which the commands use, too."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embed_assets.errors import NotFound
from embed_assets.identity import TRACKS, WORDS, IndexSpec, display_path
from embed_assets.index.nearest import Match
from embed_assets.index.track_rows import row_of
from embed_assets.project import Project, for_reading
from embed_assets.search.evaluate import BEST
from embed_assets.search.evaluation import Evaluation
from embed_assets.search.filters import FIELDS
from embed_assets.search.local import LocalAnswers, local_answers
from embed_assets.search.milvus import MilvusAnswers
from embed_assets.search.names import Found, find, name_of, not_indexed
from embed_assets.search.parts import has_parts
from embed_assets.search.questions import Questions
from embed_assets.search.searcher import Searcher
from embed_assets.search.served import (
    known_spec,
    require_spec,
    served_name,
    served_names,
    spec_of,
    wanted_spec,
)
from embed_assets.search.snapshot import Snapshot as IndexSnapshot
from embed_assets.settings import Settings
from embed_assets.storage import find_tracks, queries
from embed_assets.storage.records import Track

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from embed_assets.operations.errors import ErrorRow
    from embed_assets.operations.status import Status
    from embed_assets.operations.sync import SyncResult


def open_library(
    library: str | Path | None = None, home: str | Path | None = None, **settings: Any
) -> Library:
    """The library of the settings in the environment and `.env`; arguments override them.

    Any setting may be given by its name in docs/settings.md without `EMBED_`, in lower case:
    `open(library="~/Music", windows=0)`. Opens no file yet.

    Raises:
        ConfigurationError: a setting is wrong or unknown. What takes a look at files, at weights
            or at a server is checked by the first call that needs them.
    """
    given = settings | {"library": library, "home": home}
    return Library(Settings.load(**{k: v for k, v in given.items() if v is not None}))


class Library(Questions):
    """A music library and its index; safe for any number of threads.

    Each query sees everything that was indexed more than a second ago. With Milvus Lite, queries
    read the tables and a file of vectors, so they never wait for a run. With a server, Milvus
    answers `similar` and `parts`.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._lock = threading.Lock()
        self._searchers: dict[str, Searcher] = {}

    def __repr__(self) -> str:
        return f"Library({str(self.settings.library)!r}, home={str(self.settings.home)!r})"

    def snapshot(self, collection: str = "") -> Snapshot:
        """What is indexed now, immutable: for several queries about one state of the library.

        `collection`: another one than the served, by its name.

        Raises:
            NotFound: the tables know no such collection.
            ConfigurationError: nothing is indexed yet.
        """
        if collection:
            project = self._project
            return Snapshot(local_answers(project, known_spec(project, collection)))
        project = self._project
        names = served_names(project)
        answers = self._tracks(project, names.tracks, parts=True)
        if names.words not in (None, names.tracks):
            answers = replace(answers, words=self._words(project, names.words))
        return Snapshot(answers)

    def tracks(self) -> pd.DataFrame:
        """One row per track: path, tags, and how it was embedded or why it was rejected."""
        project = self._project
        spec = wanted_spec(project) or self._local().spec
        return queries.tracks_frame(project.tables, spec.recipe.digest)

    def errors(self) -> list[ErrorRow]:
        """Each rejected track and each folder that is not done, with the reason."""
        from embed_assets.operations.errors import errors

        return errors(self.settings)

    def status(self) -> Status:
        """Counts of tracks and folders by state, live runs, and the rate."""
        from embed_assets.operations.status import status

        return status(self.settings)

    def sync(
        self,
        *,
        confirm_removals: bool = False,
        progress: Callable[[str], None] = lambda _: None,
    ) -> SyncResult:
        """Bring the index up to date, and wait for it; `progress` is called with lines for people.

        Starts processes: in a script, call it below `if __name__ == "__main__":`.

        Raises:
            LibraryUnavailable: the library is missing, or so much of it is gone that it must be
                confirmed with `confirm_removals`.
            ConfigurationError: encoder, weights or index cannot work as configured, or a script
                calls this without the line above.
        """
        from embed_assets.workers import require_main_guard

        require_main_guard()
        from embed_assets.operations.ready import ready
        from embed_assets.operations.sync import sync

        settings = ready(self.settings, progress, may_be_empty=confirm_removals)
        result = sync(settings, confirm_removals=confirm_removals, progress=progress)
        self._refresh()
        return result

    def choose_ranking(self, method: str = BEST, sample: int = 0) -> Evaluation:
        """As in `Questions`; the next query ranks by it."""
        found = super().choose_ranking(method, sample)
        self._refresh()
        return found

    def embed(self, file: str | Path) -> np.ndarray:
        """The vector of any audio file, float32 `[dim]` of length 1; nothing is stored.

        The index would contain the same vector. Starts a process: in a script, call it below
        `if __name__ == "__main__":`.

        Raises:
            TrackRejected: the file cannot be embedded; says why.
            ConfigurationError: the encoder cannot work as configured, or a script calls this
                without the line above.
            OSError: the file cannot be read.
        """
        from embed_assets.workers import require_main_guard

        require_main_guard()
        from embed_assets.embedding.embed_file import embed_file

        project = self._project
        return embed_file(Path(file).expanduser(), project.vectors.tracks, project.spec())

    def _refresh(self) -> None:
        for searcher in list(self._searchers.values()):
            searcher.refresh(at_once=True)

    @property
    def _project(self) -> Project:
        # Made for each call, as a `sync` may have created EMBED_HOME since the last one.
        return for_reading(self.settings)

    def _answers(self, *, parts: bool = False) -> LocalAnswers | MilvusAnswers:
        project = self._project
        name = served_name(project)
        spec = self._spec(project, name) if project.backend.exclusive else None
        if spec is None:
            return MilvusAnswers(project, name)
        return self._snapshots(project, spec, parts=parts)

    def _local(self) -> LocalAnswers:
        project = self._project
        return self._tracks(project, served_name(project))

    def _tracks(self, project: Project, name: str, *, parts: bool = False) -> LocalAnswers:
        spec = self._spec(project, name) or require_spec(project, name)
        return self._snapshots(project, spec, parts=parts)

    def _by_words(self) -> LocalAnswers:
        project = self._project
        names = served_names(project)
        if names.words in (None, names.tracks):
            return self._tracks(project, names.tracks)
        return LocalAnswers(project, self._words(project, names.words))

    def _words(self, project: Project, name: str) -> IndexSnapshot:
        spec = self._spec(project, name, WORDS) or require_spec(project, name)
        return self._newest(project, spec.collection_specs[0], WORDS)

    def _spec(self, project: Project, name: str, role: str = TRACKS) -> IndexSpec | None:
        held = self._searchers.get(role)
        return held.spec if held and held.spec.collection == name else spec_of(project, name)

    def _snapshots(self, project: Project, spec: IndexSpec, *, parts: bool) -> LocalAnswers:
        tracks = self._newest(project, spec)
        if parts and has_parts(project, spec):
            return LocalAnswers(project, tracks, self._newest(project, spec.segment_spec))
        return LocalAnswers(project, tracks)

    def _newest(self, project: Project, spec: IndexSpec, role: str = "") -> IndexSnapshot:
        """The newest snapshot of a collection; `role`: what it is for, if not for its rows."""
        role = role or spec.rows
        with self._lock:
            held = self._searchers.get(role)
            if held is None or held.spec.collection != spec.collection:
                key = spec.collection_key(project.uri)
                held = Searcher(project.tables, project.store, spec, key)
                self._searchers[role] = held
        held.refresh()
        return held.snapshot()


class Snapshot(Questions):
    """What was indexed at one moment; immutable, so it is safe for any number of threads."""

    def __init__(self, answers: LocalAnswers) -> None:
        """Made by `Library.snapshot`."""
        self._held = answers

    def __len__(self) -> int:
        return len(self._held.tracks)

    def __repr__(self) -> str:
        return f"Snapshot({len(self)} tracks, encoder={self.encoder!r})"

    @property
    def encoder(self) -> str:
        """Name of the encoder that made the vectors."""
        return self._held.spec.recipe.encoder

    @property
    def collection(self) -> str:
        """Name of the collection that the vectors are in."""
        return self._held.spec.collection

    def named(self, name: str) -> Found:
        """The indexed tracks that a name means: a library-relative path, a track id, or words.

        Unlike in a query, paths relative to the current directory do not count, so the name may
        come from a client.

        Raises:
            NotFound: there is no such track.
            NotIndexedYet: none of them is indexed.
        """
        found = find(self._held.names, name, here=False)
        there = tuple(t for t in found.tracks if self._held.tracks.find([t.track_id]))
        if not there:
            raise not_indexed(found)
        return replace(found, tracks=there)

    def track(self, track_id: str) -> Track:
        """The manifest row of an indexed track. Raises NotFound: none has this id."""
        positions = self._held.tracks.find([track_id])
        if not positions:
            raise NotFound(f"no indexed track has the id {track_id!r}")
        return self._held.tracks.track(positions[0])

    def has(self, track_id: str) -> bool:
        """Whether a track with this id is indexed."""
        return bool(self._held.tracks.find([track_id]))

    def matches(self, track_ids: Sequence[str]) -> list[Match]:
        """The indexed ones of these tracks, with score 1."""
        held = self._held.tracks
        return [held.match_with_copies(i, 1.0) for i in held.find(track_ids)]

    def farthest(self, track_id: str) -> Match | None:
        """The track that sounds least like an indexed track; None if there is no other."""
        held = self._held.tracks
        own = held.find([track_id])
        scores = held.scores(held.vectors(own)[0])
        others = held.live_mask & ~held.of_same_audio(own)
        if not others.any():
            return None
        scores[~others] = 2.0
        last = int(scores.argmin())
        return held.match_with_copies(last, float(scores[last]))

    def with_audio(self, audio_hash: str) -> Found:
        """The first indexed track with this audio, by path. Raises NotFound: there is none."""
        held = self._held.tracks
        there = [held.track(i) for i in held.of_audio([audio_hash]).nonzero()[0].tolist()]
        if not there:
            raise NotFound(f"no indexed track has the audio hash {audio_hash!r}")
        first = min(there, key=lambda track: track.path)
        return Found((first,), name_of(first))

    def listed(self, words: str = "", after: str = "") -> Iterator[dict[str, Any]]:
        """The indexed tracks after a path, ordered by path, with the fields of a row.

        `words`: only tracks whose title, artist, album or path contains all of these.
        """
        held = self._held.tracks
        if words.strip():
            tracks = [track for _, track in held.tracks()]
            found = find_tracks.best_by_words(tracks, words, len(tracks))
            by_path = sorted(((display_path(t.path), t) for t in found), key=itemgetter(0))
            return (vars(row_of(t)) for path, t in by_path if path > after)
        ordered = held.once(
            "by path", lambda: sorted((display_path(t.path), i) for i, t in held.tracks())
        )
        first = bisect_right(ordered, after, key=itemgetter(0))
        return (vars(row_of(held.track(i))) for _, i in islice(ordered, first, None))

    def vectors(self, track_ids: Sequence[str]) -> dict[str, np.ndarray]:
        """Track id -> its vector, float32 `[dim]` of length 1; only indexed tracks."""
        return self._held.vectors_of(track_ids)

    @property
    def state(self) -> object:
        """Equal for two snapshots of one state of the index."""
        return self._held.tracks.once("state", object)

    def tracks(self) -> pd.DataFrame:
        """One row per indexed track, ordered by path, with the fields of the index as columns."""
        import pandas as pd

        held = self._held.tracks
        columns = {}
        for name in FIELDS:
            codes, values = held.column(name)
            columns[name] = [values[code] for code in codes[held.live_mask]]
        return pd.DataFrame(columns).sort_values("path", ignore_index=True)

    def _answers(self, *, parts: bool = False) -> LocalAnswers:  # noqa: ARG002  # has both
        return self._held

    def _local(self) -> LocalAnswers:
        return self._held

    def _by_words(self) -> LocalAnswers:
        return self._held.by_words
