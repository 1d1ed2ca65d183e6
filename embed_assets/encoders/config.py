"""The encoder of the settings, and how it uses this machine; loads nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from embed_assets import encoders
from embed_assets.encoders import devices
from embed_assets.encoders.base import Encoder, EncoderCard, call
from embed_assets.encoders.cards import card_of
from embed_assets.errors import ConfigurationError
from embed_assets.identity import IndexSpec, Recipe
from embed_assets.workers import cpu_count

if TYPE_CHECKING:
    import numpy as np

_CGROUP_MEMORY = (
    ("/sys/fs/cgroup", "memory.max", "memory.current"),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
)
"""Limit and use of a container's memory, in versions 2 and 1 of control groups."""


@dataclass(frozen=True)
class EncoderConfig:
    """The values of EMBED_ENCODER, EMBED_MODEL, EMBED_DEVICE, and the folder of models.

    Methods raise ConfigurationError when there is no such encoder.
    """

    name: str
    model: str
    device: str
    cache: Path

    @property
    def card(self) -> EncoderCard:
        """What is known of the encoder."""
        return card_of(self.name)

    def recipe(self, window_seconds: float, windows: int) -> Recipe:
        """The recipe of this encoder with a window policy; loads nothing.

        Raises:
            ConfigurationError: no such encoder, its weights are not on this machine, or it knows
                no windows of this length.
        """
        self.require_window(window_seconds)
        info = encoders.describe(self.name, self.model, self.cache)
        return Recipe(
            encoder=info.name,
            weights=info.weights,
            sample_rate=info.sample_rate,
            dim=info.dim,
            window_seconds=window_seconds,
            windows=windows,
            frame_stats=info.frame_stats,
        )

    def require_window(self, seconds: float) -> None:
        """Refuse a length of windows that the encoder does not know.

        Raises:
            ConfigurationError: says which it knows.
        """
        card = self.card
        if card.only_this_window and seconds != card.window_seconds:
            raise ConfigurationError(
                f"EMBED_WINDOW_SECONDS is {seconds:g}, but EMBED_ENCODER={self.name} knows only"
                f" windows of {card.window_seconds:g} s: leave EMBED_WINDOW_SECONDS unset"
            )

    def require(self) -> None:
        """Fail before any work if the encoder cannot be loaded; loads nothing.

        Raises:
            ConfigurationError: says what to do.
        """
        encoders.require(self.name, self.model, self.device, self.cache)

    def load(self) -> Encoder:
        """The encoder, loaded; see `embed_assets.encoders.load`."""
        return encoders.load(self.name, self.model, self.device, self.cache)

    def phrase_vectors(self, phrases: Sequence[str]) -> np.ndarray:
        """Vectors of phrases, float32 [n, dim] of length 1, to be compared with those of music.

        Raises:
            ConfigurationError: the encoder knows no words, cannot be loaded, or a phrase is empty
                or too long.
        """
        from embed_assets.encoders.phrases import phrases_of

        return phrases_of(self.name, self.model, self.cache).vectors(phrases)

    def uses_single_device(self) -> bool:
        """Whether one process uses the whole device, while others decode for it."""
        return self.card.runs_on_gpu and devices.is_single(self.device)

    def uses_nvidia(self) -> bool:
        """Whether an NVIDIA GPU does the work; it is so fast that the start of a run counts."""
        return self.uses_single_device() and self.device[:4] in ("auto", "cuda")

    def device_slots(self) -> int:
        """How many runs may embed at the same time: one, or one per GPU."""
        return devices.slots(self.device) if self.card.runs_on_gpu else 1

    def first_load_notice(self) -> str:
        """What the first track has to wait for, in a sentence; empty if nothing."""
        if not self.card.first_load_notice:
            return ""
        info = encoders.describe(self.name, self.model, self.cache)
        return call(self.card.first_load_notice, info, self.device, self.cache)

    def workers(self, window_seconds: float = 10.0) -> int:
        """Number of processes with a model: one per core, limited by memory, or one for a GPU."""
        if self.uses_single_device():
            return 1
        seconds = round(window_seconds * self.card.worker_bytes_per_second)
        each = self.card.worker_bytes + seconds
        if not each:
            return cpu_count()
        return max(1, min(cpu_count(), _available_bytes(each) // each))


_WITHOUT_DOWNLOAD = re.compile(r"EMBED_ENCODER=\w+, which needs no download")


@dataclass(frozen=True)
class VectorConfig:
    """Which vectors the settings ask for: encoders, windows and pooling.

    `tracks`: the encoder for searches by sound. `words`: the one that answers `find` beside it;
    None: no other does.
    """

    tracks: EncoderConfig
    window_seconds: float
    windows: int
    pooling: str
    parts: bool = False
    words: EncoderConfig | None = None

    def spec(self) -> IndexSpec:
        """The index spec that all folders should have.

        It is without words while `words_missing` says why: searches by sound do not wait for them.

        Raises:
            ConfigurationError: no such encoder of tracks, or its weights are not on this machine.
        """
        recipe = self.tracks.recipe(self.window_seconds, self.windows)
        return self.with_words(IndexSpec(recipe, self.pooling, parts=self.parts))

    def with_words(self, alone: IndexSpec) -> IndexSpec:
        """A spec of tracks with the collection for `find` beside it, if the settings want one."""
        if self.words is None or self.words_missing():
            return alone
        both = replace(alone, words=self._words_recipe(self.words))
        names = {one.collection for one in both.every_collection}
        # The encoder of tracks may know words itself.
        return both if len(names) == len(both.every_collection) else alone

    def words_missing(self) -> str:
        """Why no music can be embedded for `find` here, in a sentence that names the setting.

        Empty if it can be, or is not wanted. E.g. the weights were not downloaded, or were moved.
        """
        if self.words in (None, self.tracks):
            return ""
        try:
            self._words_recipe(self.words)
        except ConfigurationError as error:
            return str(error)
        return ""

    def _words_recipe(self, words: EncoderConfig) -> Recipe:
        """Windows for words have the length that their encoder knows, and are as many."""
        with self.settings_named(words):
            return words.recipe(words.card.window_seconds, self.windows)

    def encoders(self) -> tuple[EncoderConfig, ...]:
        """The encoders that are used, that of tracks first."""
        return (self.tracks,) if self.words in (None, self.tracks) else (self.tracks, self.words)

    @contextmanager
    def settings_named(self, encoder: EncoderConfig) -> Iterator[None]:
        """Have errors about one of the encoders name the settings that choose it."""
        try:
            yield
        except ConfigurationError as error:
            if encoder == self.tracks:
                raise
            text = _WITHOUT_DOWNLOAD.sub("EMBED_WORDS=false", str(error))
            raise type(error)(text.replace("EMBED_MODEL", "EMBED_WORDS_MODEL")) from error

    def passes(self, spec: IndexSpec) -> tuple[tuple[Recipe, EncoderConfig], ...]:
        """Each recipe of a `spec` of this, with the encoder that makes its vectors."""
        words = self.words or self.tracks
        return tuple((r, self.tracks if r == spec.recipe else words) for r in spec.recipes)

    def device_slots(self) -> int:
        """How many runs may embed at the same time."""
        return min(one.device_slots() for one in self.encoders())


def _available_bytes(unknown: int) -> int:
    """Available memory, by the kernel's estimate and the cgroup's limit; else `unknown`."""
    figures = []
    try:
        with open("/proc/meminfo") as lines:
            figures += [int(x.split()[1]) * 1024 for x in lines if x.startswith("MemAvailable")]
    except (OSError, ValueError):
        pass
    for folder, limit, used in _CGROUP_MEMORY:
        try:
            left = int(Path(folder, limit).read_text()) - int(Path(folder, used).read_text())
            stat = Path(folder, "memory.stat").read_text().splitlines()
        except (OSError, ValueError):  # no such file, or "max"
            continue
        # The page cache counts as used, and music that was read fills it; the kernel gives it back.
        cached = [int(x.split()[1]) for x in stat if x.startswith(("inactive_file", "active_file"))]
        figures.append(left + sum(cached))
    return min(figures, default=unknown)
