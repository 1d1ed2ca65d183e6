"""Turns windows of audio into vectors; the only place that knows torch, muq and librosa's features.

Here stands what the rest of the project sees of an encoder: what it is (`describe`, cheap enough
for a sensor that asks every few seconds) and the thing itself (`load`, seconds). Nothing heavy is
imported before `load` is called.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Protocol

from embed_assets.errors import ConfigurationError

if TYPE_CHECKING:
    import numpy as np

ENCODERS = ("muq", "muq-int8", "acoustic")
"""The values of EMBED_ENCODER."""

_MUQ = ("muq", "muq-int8")


@dataclass(frozen=True)
class EncoderInfo:
    """What an encoder is, without loading it: all that a recipe needs, and a line for people.

    `weights` is a digest of everything learned or fitted that decides a vector, `sample_rate` in
    Hz of the mono float32 audio that it takes, `frame_stats` the order of axis 1 of what it
    returns (its first is always "mean"), `min_seconds` the shortest window that it can encode.
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
        """What runs it: openvino, torch or numpy."""
        ...

    @property
    def dtype(self) -> str:
        """The type that it computes in, such as float32."""
        ...

    @property
    def warning(self) -> str:
        """Why it is not the engine that one would expect here; else empty."""
        ...

    def encode(self, windows: np.ndarray) -> np.ndarray:
        """Encode windows of one length: float32 [B, T] -> float32 [B, S, dim].

        T is in samples at `info.sample_rate`, S is `len(info.frame_stats)`. A window's vector does
        not depend on the others of its batch. Raises TrackRejected when a window is shorter than
        `info.min_seconds` or a vector is not finite.
        """
        ...


def describe(name: str, model: str, cache: Path) -> EncoderInfo:
    """Say what the encoder `name` with the weights `model` is, without loading or downloading.

    `cache` is the folder of downloaded models and of their digests. Raises ConfigurationError when
    there is no such encoder, or its weights are not on this machine.
    """
    match name:
        case "muq":
            from embed_assets.encoders import muq

            return muq.info(model, cache)
        case "muq-int8":
            from embed_assets.encoders import muq

            return muq.info_int8(model, cache)
        case "acoustic":
            from embed_assets.encoders import acoustic

            return acoustic.info()
        case _:
            _unknown(name)


def fetch(name: str, model: str, cache: Path, tell: Callable[[str], None]) -> None:
    """Download what the encoder `name` needs and is not here, with a progress bar; tells of it.

    Raises ConfigurationError when it cannot be had, TransientError when the disk is full.
    """
    if name in _MUQ:
        from embed_assets.encoders import muq, weights

        weights.fetch(model, cache, lambda: tell(f"downloading {model}: {muq.NOTE}"))


def load(name: str, model: str, device: str, cache: Path) -> Encoder:
    """Load the encoder `name` onto `device` (a value of EMBED_DEVICE); takes seconds.

    Never touches the network. Raises ConfigurationError for an unknown encoder, for weights that
    are absent, damaged or of another architecture, and for a device that is not there.
    """
    match name:
        case "muq":
            from embed_assets.encoders import muq

            return muq.load(model, device, cache)
        case "muq-int8":
            from embed_assets.encoders import muq

            return muq.load_int8(model, device, cache)
        case "acoustic":
            from embed_assets.encoders import acoustic

            require_device(name, device)
            return acoustic.load()
        case _:
            _unknown(name)


def room(shape: tuple[int, ...], device: str) -> np.ndarray:
    """Memory for windows on their way to an `Encoder.device`, float32, not initialised.

    For CUDA it is pinned, from which the GPU fetches by itself, as long as there is some.
    """
    import numpy as np

    if device.startswith("cuda"):
        import torch

        with suppress(RuntimeError):
            return torch.empty(shape, dtype=torch.float32, pin_memory=True).numpy()
    return np.empty(shape, np.float32)


def one_process(name: str, device: str) -> bool:
    """Whether one process does all that the device can; else one a core; imports nothing heavy."""
    from embed_assets.encoders import devices

    return name == "muq" and devices.one_process(device)


def on_nvidia(name: str, device: str) -> bool:
    """Whether a GPU does the work that is fast enough for its runs' starts to count."""
    from embed_assets.encoders import devices

    return devices.one_process(device) and name == "muq" and device[:4] in ("auto", "cuda")


def at_once(name: str, device: str) -> int:
    """How many runs may embed at the same time on this machine: one, or one for each of its GPUs.

    Imports nothing heavy.
    """
    from embed_assets.encoders import devices

    return devices.at_once(device) if name == "muq" else 1


def is_quick(name: str) -> bool:
    """Whether an encoder needs only minutes for thousands of tracks, on any machine."""
    return name == "acoustic"


def require_device(name: str, device: str) -> None:
    """Fail where an encoder cannot run on that device: before weights are fetched.

    Imports no more than OpenVINO, where that is asked for; what else may be wrong with a device is
    found out by `load`.
    """
    if name == "muq":
        from embed_assets.encoders import devices

        devices.require(device)
    if name == "muq-int8":
        from embed_assets.encoders import muq_int8

        muq_int8.require(device)
    if name == "acoustic" and device not in ("auto", "cpu", "openvino:CPU"):
        raise ConfigurationError(
            f"EMBED_ENCODER=acoustic runs on CPUs only, but EMBED_DEVICE is {device!r}. Set"
            " EMBED_DEVICE=cpu; or EMBED_ENCODER=muq, for which a GPU is of use."
        )


def require(name: str, model: str, device: str, cache: Path) -> None:
    """Fail before any work where `load` is bound to fail; loads no model, and no torch.

    Raises:
        ConfigurationError: as `describe` and `require_device`.
    """
    require_device(name, device)
    describe(name, model, cache)


def must_make_int8(model: str, device: str, cache: Path) -> bool:
    """Whether the model of `muq-int8` is still to be made, which takes minutes.

    Raises:
        ConfigurationError: it cannot be made, or cannot run on that device.
    """
    from embed_assets.encoders import muq_int8, weights

    muq_int8.require(device)
    if muq_int8.conversion(weights.find(model, cache).digest, cache).is_whole():
        return False
    muq_int8.require_maker()
    return True


def unused_copies(in_use: Collection[str], model: str, cache: Path) -> list[Path]:
    """Converted models that neither EMBED_MODEL nor what is in use needs, and stopped downloads.

    `in_use`: values of `EncoderInfo.weights`. Each can be had again.
    """
    from embed_assets.encoders import download, muq_int8, weights

    try:
        configured = weights.find(model, cache).digest
    except ConfigurationError:
        configured = None
    stopped = download.stopped(weights.hub_cache(cache))
    return [*muq_int8.unused(in_use, configured, cache), *stopped]


def preparation(info: EncoderInfo, device: str, cache: Path) -> str:
    """What the first load of an encoder will spend a minute on, for people; empty for nothing."""
    from embed_assets.encoders import devices, muq_openvino

    on_torch = not device.startswith("openvino:") and devices.one_process(device)
    if info.name != "muq" or on_torch:
        return ""
    if muq_openvino.conversion(info.weights, cache).folder.is_dir():
        return ""
    return (
        "MuQ is converted for OpenVINO and checked against torch, once for these weights: a minute"
        " or two before the first track"
    )


def _unknown(name: str) -> NoReturn:
    raise ConfigurationError(
        f"EMBED_ENCODER is {name!r}: there is no such encoder. Set it to one of: "
        f"{', '.join(ENCODERS)}."
    )
