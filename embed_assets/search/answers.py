"""Queries and their results, as values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, overload

from embed_assets.identity import IndexSpec
from embed_assets.index.nearest import Match
from embed_assets.library.manifest import MusicFolder
from embed_assets.search.filters import Condition
from embed_assets.search.playlist import write_m3u

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Filters:
    """Which tracks may be in a result.

    `where`: conditions that must all hold. `per_artist`: maximum number of tracks of a known
    artist; 0: no limit. `one_recording`: of tracks that `duplicates` suggests as one recording only
    the best, and none that may be the same recording as the query.
    """

    where: tuple[Condition, ...] = ()
    per_artist: int = 0
    one_recording: bool = False


@dataclass(frozen=True)
class Query:
    """A query: names of its tracks, and of those to avoid; `n`: the requested number of results."""

    seeds: tuple[str, ...]
    n: int | None
    filters: Filters = Filters()
    avoid: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The names of its tracks, for people."""
        name = " and ".join(self.seeds)
        return f"{name}, not {' or '.join(self.avoid)}" if self.avoid else name


@dataclass(frozen=True)
class Result(Sequence[Match]):
    """The tracks that were found, in order; a sequence of matches.

    `notes`: sentences for people, e.g. which track was taken if the words match several. `spec`:
    what the vectors were made with, if it is known.
    """

    matches: tuple[Match, ...]
    query: Query
    notes: tuple[str, ...] = ()
    spec: IndexSpec | None = field(default=None, repr=False)
    library: MusicFolder = field(default=MusicFolder(None), repr=False)

    @property
    def encoder(self) -> str:
        """Name of the encoder that made the vectors; empty if that is not known."""
        return self.spec.recipe.encoder if self.spec else ""

    def to_pandas(self) -> pd.DataFrame:
        """One row per match, with its fields as columns."""
        import pandas as pd

        columns = [f.name for f in fields(self.matches[0] if self.matches else Match)]
        return pd.DataFrame([asdict(m) for m in self.matches], columns=columns)

    def to_m3u(self, file: str | Path) -> list[str]:
        """Write a playlist with paths relative to it; returns a note for each track left out.

        Raises:
            LibraryUnavailable: the library is not there.
            ConfigurationError: the file has the name of an audio file.
            EmbedAssetsError: the file cannot be written.
        """
        return write_m3u(Path(file), self.library, self.matches)

    def __len__(self) -> int:
        return len(self.matches)

    @overload
    def __getitem__(self, index: int) -> Match: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Match, ...]: ...

    def __getitem__(self, index: int | slice) -> Match | tuple[Match, ...]:
        return self.matches[index]


@dataclass(frozen=True)
class Drift:
    """A radio: continues until all matching tracks were played, and computes one at a time."""

    matches: Iterator[Match]
    result: Result
    """The query and the notes, without matches."""

    def __iter__(self) -> Iterator[Match]:
        return self.matches

    def take(self, n: int | None) -> Result:
        """The next `n` tracks; None: all that remain."""
        result = self.result
        query = Query(result.query.seeds, n, result.query.filters)
        return Result(
            tuple(islice(self.matches, n)), query, result.notes, result.spec, result.library
        )
