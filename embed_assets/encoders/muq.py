"""MuQ, the product's encoder, on torch: frames of the last hidden state, and statistics over them.

Zhu et al., "MuQ: Self-Supervised Music Representation Learning with Mel Residual Vector
Quantization" (2025), through the authors' package `muq`. Everything that package or the hub's
loader does silently is made loud here.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embed_assets.encoders import EncoderInfo
from embed_assets.encoders import weights as weights_
from embed_assets.errors import ConfigurationError, Reason, TrackRejected

if TYPE_CHECKING:
    import torch

SAMPLE_RATE = 24_000
MIN_SAMPLES = 1025
"""The mel spectrogram reflects 1024 samples at each end, and needs one more than that."""

FRAME_STATS = ("mean", "iqr", "diff")
IQR_TO_SIGMA = 1.349
"""The interquartile range of a normal distribution, in standard deviations."""

NOTE = (
    "MuQ, a self-supervised music model by Tencent AI Lab; its weights are CC-BY-NC 4.0: not for "
    "commercial use"
)

# The parts that make a vector; heads for pre-training (linear, quantizer, rvq) do not.
_PARTS = ("model.conv.", "model.conformer.")
# Of these, what is computed or never run, and differs between versions of torch and transformers.
_UNUSED = ("inv_freq", "num_batches_tracked", "pos_conv_embed")


@dataclass(frozen=True)
class MuqEncoder:
    """MuQ in evaluation mode on one device. `info`, `device`, `engine`, `dtype` as in Encoder.

    `model` is the `muq.MuQ` module itself. On a GPU torch runs fp32 convolutions in TF32 unless
    told otherwise.
    """

    info: EncoderInfo
    model: torch.nn.Module
    device: str
    engine: str = "torch"
    dtype: str = "float32"

    def encode(self, windows: np.ndarray) -> np.ndarray:
        """Encode windows of one length: float32 [B, T] at 24 kHz mono -> float32 [B, 3, dim].

        Axis 1 holds, over the window's frames (25 a second): the mean, IQR / 1.349, and the mean
        difference from one frame to the next. T is at least 1025; nothing is ever padded. Raises
        TrackRejected for shorter windows and for vectors that are not finite, whichever window of
        the batch it was.
        """
        import torch

        if windows.dtype != np.float32 or windows.ndim != 2 or not len(windows):
            raise ValueError(f"windows must be float32 [B, T]; got {windows.dtype} {windows.shape}")
        if windows.shape[1] < MIN_SAMPLES:
            raise TrackRejected(
                Reason.TOO_SHORT,
                f"{windows.shape[1]} samples at 24 kHz; MuQ needs at least {MIN_SAMPLES}",
            )
        with torch.inference_mode():
            audio = torch.from_numpy(np.ascontiguousarray(windows)).to(self.device)
            frames = self.model(audio).last_hidden_state.float()
            vectors = frame_statistics(frames).cpu().numpy()
        if not np.isfinite(vectors).all():
            raise TrackRejected(Reason.BAD_VECTOR, "MuQ gave NaN or infinity")
        return vectors


def info(model: str, cache: Path) -> EncoderInfo:
    """Describe the MuQ weights `model`; see `embed_assets.encoders.describe`."""
    return _info(weights_.find(model, cache), model)


def load(model: str, device: str, cache: Path) -> MuqEncoder:
    """Load the MuQ weights `model` onto `device`; see `embed_assets.encoders.load`."""
    found = weights_.find(model, cache)
    described = _info(found, model)
    where = resolve_device(device)
    module = _module(found.folder, model).to(where)
    encoder = MuqEncoder(described, module, where)
    try:
        # Some mistakes (a config without `stat`, a transformers that muq cannot live with) show
        # only when the model runs; better here than in the middle of a folder.
        shape = encoder.encode(np.zeros((1, MIN_SAMPLES), np.float32)).shape
    except (TrackRejected, AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ConfigurationError(
            f"EMBED_MODEL is {model!r}: its weights load but do not run "
            f"({type(error).__name__}: {error}). See that {found.folder / weights_.CONFIG} belongs "
            "to them, and that `pip check` is content (muq 0.1.0 needs transformers below 5.16)."
        ) from error
    if shape != (1, len(FRAME_STATS), described.dim):
        raise ConfigurationError(
            f"EMBED_MODEL is {model!r}: it gives vectors of shape {shape[1:]}, not "
            f"{(len(FRAME_STATS), described.dim)} as its {weights_.CONFIG} says."
        )
    return encoder


def frame_statistics(frames: torch.Tensor) -> torch.Tensor:
    """Mean, IQR / 1.349 and mean step over frames: [B, F, dim] -> [B, 3, dim], float32.

    Quantiles are interpolated linearly, as numpy's are; one frame has an IQR and a step of 0.
    """
    import torch

    last = frames.shape[1] - 1
    # torch.quantile refuses more than 16 million values, a few minutes of audio.
    ordered = frames.sort(dim=1).values
    low, high = (
        torch.lerp(
            ordered[:, int(q * last)], ordered[:, min(int(q * last) + 1, last)], q * last % 1
        )
        for q in (0.25, 0.75)
    )
    # The mean of all steps is the way from the first to the last over their number.
    step = (frames[:, -1] - frames[:, 0]) / max(last, 1)
    return torch.stack([frames.mean(dim=1), (high - low) / IQR_TO_SIGMA, step], dim=1)


def _info(found: weights_.Weights, model: str) -> EncoderInfo:
    dim = found.config.get("encoder_dim")
    if not isinstance(dim, int) or dim < 1 or "w2v2_config" not in found.config:
        raise ConfigurationError(
            f"EMBED_MODEL is {model!r}, which is no MuQ model: "
            f"{found.folder / weights_.CONFIG} lacks encoder_dim or w2v2_config. Leave EMBED_MODEL "
            "unset for the default."
        )
    return EncoderInfo(
        name="muq",
        weights=found.digest,
        sample_rate=SAMPLE_RATE,
        dim=dim,
        frame_stats=FRAME_STATS,
        min_seconds=MIN_SAMPLES / SAMPLE_RATE,
        note=NOTE,
    )


def _module(folder: Path, model: str) -> torch.nn.Module:
    """The MuQ module with all its weights, in evaluation mode, on the CPU."""
    from safetensors import SafetensorError, safe_open

    MuQ = _muq()
    try:
        with safe_open(folder / weights_.WEIGHTS, "pt") as file:
            there = set(file.keys())
        with _quiet():
            module = MuQ.from_pretrained(str(folder)).eval()
    except (SafetensorError, OSError) as error:
        raise ConfigurationError(
            f"EMBED_MODEL is {model!r}, but {folder / weights_.WEIGHTS} is damaged or cut off: "
            f"{error}. Delete it and fetch it again."
        ) from error
    except (AttributeError, ImportError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ConfigurationError(
            f"EMBED_MODEL is {model!r}: {folder / weights_.CONFIG} and {weights_.WEIGHTS} do not "
            f"make a MuQ model ({type(error).__name__}: {error}). Fetch both again."
        ) from error
    _check_keys(there, set(module.state_dict()), folder, model)
    return module


def _muq() -> Any:
    """The class muq.MuQ."""
    try:
        with _quiet():
            from muq import MuQ
    except (ImportError, OSError, RuntimeError) as error:
        raise ConfigurationError(
            f"EMBED_ENCODER is 'muq', but the package muq cannot be imported ({error}). torch, "
            "torchaudio and transformers must be the versions that embed_assets asks for: "
            "`make install`, or `pip install --force-reinstall embed_assets`."
        ) from error
    return MuQ


def _check_keys(there: set[str], expected: set[str], folder: Path, model: str) -> None:
    """Refuse weights that the hub's loader would leave random, or drop, without a word."""

    def of_a_vector(keys: set[str]) -> set[str]:
        return {k for k in keys if k.startswith(_PARTS) and not any(u in k for u in _UNUSED)}

    missing = sorted(of_a_vector(expected) - there)
    extra = sorted(of_a_vector(there) - expected)
    if missing or extra:
        faults = [
            f"{len(keys)} {what} (the first is {keys[0]})"
            for what, keys in (("missing", missing), ("not in the model", extra))
            if keys
        ]
        raise ConfigurationError(
            f"EMBED_MODEL is {model!r}: {folder / weights_.WEIGHTS} does not fit its "
            f"{weights_.CONFIG}; of its tensors {' and '.join(faults)}. Fetch both files again, "
            "from one model."
        )


def resolve_device(wanted: str) -> str:
    """The torch device for a value of EMBED_DEVICE; never another than the one asked for."""
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    kind, _, index = wanted.partition(":")
    match kind:
        case "auto" if not index:
            return "cuda" if gpus else "cpu"
        case "cpu" if not index:
            return "cpu"
        case "cuda" if not index or (index.isascii() and index.isdigit()):
            if int(index or 0) < gpus:
                return wanted
            found = f"torch finds {gpus or 'no'} CUDA device{'' if gpus == 1 else 's'} here"
        case "mps" if not index:
            if torch.backends.mps.is_available():
                return wanted
            found = "torch finds no Apple GPU here"
        case "openvino":
            found = "the OpenVINO engine is not built in yet"
        case _:
            found = "there is no such device"
    raise ConfigurationError(
        f"EMBED_DEVICE is {wanted!r}, but {found}. Set it to auto, cpu, cuda, cuda:N or mps."
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the loader's prints (they would land in --json) and the libraries' chatter away."""
    import transformers

    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers.logging.set_verbosity(before)
