"""What each encoder has: a card, a description, and the interface of a loaded encoder."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np


@dataclass(frozen=True)
class EncoderCard:
    """What is known about an encoder before anything is loaded; plain data.

    Functions are named as "module:function", so that a card costs no import. `call` calls them.

    name: the value of EMBED_ENCODER; part of the recipe.
    summary: a few words behind the name, in the list of encoders.
    note: one sentence for people: what it is, and what its licence forbids.
    licence, commercial_use: of the weights; without weights, of this software.
    space: encoders with the same space may be compared by cosine, if one model made both vectors.
    sample_rate: Hz of the mono float32 audio that it takes.
    engines: what can run it.
    describe: (model, cache) -> EncoderInfo, without loading; `embed_assets.encoders.describe`.
    load: (model, device, cache) -> Encoder; `embed_assets.encoders.load`.
    dim: width of a vector; None if it depends on the weights.
    window_seconds: length of a window that suits it.
    default_model: hub id of its weights; empty for an encoder without weights.
    download_size: of these weights, for people.
    instead: the encoder to suggest if the weights cannot be downloaded; empty: none.
    only_this_window: whether it knows no other length of a window.
    wraps_short_windows: whether what a window lacks at the end of a track is filled with the
        track's beginning; otherwise the last window ends where the track does.
    fetch: (model, cache, begin) -> None, downloads its weights; empty: config and weights of one
        model. `begin` is called before a download.
    load_words: (model, cache) -> Words, its text side; empty: it turns only music into vectors.
    runs_on_gpu: whether EMBED_DEVICE may be more than the CPU.
    is_quick: whether thousands of tracks take only minutes, on any machine.
    worker_bytes, worker_bytes_per_second: memory of a process that has loaded it, and for each
        second of a window; 0: too little to count.
    same_recording_cosine: the cosine from which two tracks of one length may be one recording.
    require: (device) -> None, raises ConfigurationError where it cannot run on this machine.
    load_exact: (model, cache) -> Encoder, in float32 on the CPU, which others are compared with.
    first_load_notice: (info, device, cache) -> str, what the first load spends minutes on.
    unused_files: (in_use, model, cache) -> list[Path]; `embed_assets.encoders.unused_files`.
    features: (Encoder, window float32 [T]) -> float32 array: what it computes from a window before
        its model, such as a mel spectrogram; the canary then tells a change of it from others.
    """

    name: str
    summary: str
    note: str
    licence: str
    commercial_use: bool
    space: str
    sample_rate: int
    engines: tuple[str, ...]
    describe: str
    load: str
    dim: int | None = None
    window_seconds: float = 10.0
    default_model: str = ""
    download_size: str = ""
    instead: str = ""
    only_this_window: bool = False
    wraps_short_windows: bool = False
    fetch: str = ""
    load_words: str = ""
    runs_on_gpu: bool = False
    is_quick: bool = False
    worker_bytes: int = 0
    worker_bytes_per_second: int = 0
    # High for want of measurements: only what is all but equal is suggested.
    same_recording_cosine: float = 0.995
    require: str = ""
    load_exact: str = ""
    first_load_notice: str = ""
    unused_files: str = ""
    features: str = ""

    @property
    def has_words(self) -> bool:
        """Whether it also turns words into vectors, for `embed-assets find`."""
        return bool(self.load_words)


def call(function: str, *arguments: Any) -> Any:
    """Import and call a function that a card names."""
    module, _, name = function.partition(":")
    return getattr(import_module(module), name)(*arguments)


@dataclass(frozen=True)
class EncoderInfo:
    """An encoder with its weights, without loading it: all that a recipe needs.

    `weights` is a digest of everything learned or fitted that decides a vector, `sample_rate` in
    Hz of the mono float32 audio that it takes, `frame_stats` the order of axis 1 of what it
    returns (its first is always "mean"), `min_seconds` the shortest window that it can encode,
    `note` a sentence for people.
    """

    name: str
    weights: str
    sample_rate: int
    dim: int
    frame_stats: tuple[str, ...]
    min_seconds: float
    note: str


class Encoder(Protocol):
    """A loaded encoder; `device`, `engine` and `dtype` are lineage, not part of the recipe."""

    @property
    def info(self) -> EncoderInfo:
        """What it is."""
        ...

    @property
    def device(self) -> str:
        """Where it runs: cpu, cuda, cuda:N, mps or openvino:NAME; never `auto`."""
        ...

    @property
    def engine(self) -> str:
        """What runs it, one of its card's engines."""
        ...

    @property
    def dtype(self) -> str:
        """The type that it computes in, such as float32."""
        ...

    @property
    def warning(self) -> str:
        """Why another engine than the expected one is used; else empty."""
        ...

    def encode(self, windows: np.ndarray) -> np.ndarray:
        """Encode windows of one length: float32 [B, T] -> float32 [B, S, dim].

        T is in samples at `info.sample_rate`, S is `len(info.frame_stats)`. A window's vector does
        not depend on the others of its batch. Raises TrackRejected when a window is shorter than
        `info.min_seconds` or a vector is not finite.
        """
        ...


class Words(Protocol):
    """The loaded text side of an encoder: its vectors may be compared with those of music."""

    def vectors(self, phrases: Sequence[str]) -> np.ndarray:
        """float32 [n, dim], each of length 1; a phrase's vector does not depend on the others.

        Raises ConfigurationError for a phrase that is empty or too long.
        """
        ...
