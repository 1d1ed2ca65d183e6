"""The `muq.MuQ` module on torch, with all its weights or not at all: the reference of every engine.

Zhu et al., "MuQ: Self-Supervised Music Representation Learning with Mel Residual Vector
Quantization" (2025), through the authors' package `muq`. Everything that package or the hub's
loader does silently is made loud here.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embed_assets.encoders.muq.checkpoint import AudioModule
from embed_assets.encoders.muq.frames import MIN_SAMPLES
from embed_assets.encoders.weights import CONFIG, WEIGHTS, Weights
from embed_assets.errors import ConfigurationError

if TYPE_CHECKING:
    import torch

# The parts that make a vector; heads for pre-training (linear, quantizer, rvq) do not.
MUQ_PARTS = ("model.conv.", "model.conformer.")
# Of these, what is computed or never run, and differs between versions of torch and transformers.
_UNUSED = ("inv_freq", "num_batches_tracked", "pos_conv_embed")


def audio_module(weights: Weights, model: str) -> AudioModule:
    """MuQ for the engines; raises what `load_module` does."""
    module = load_module(weights, model)
    return AudioModule(lambda audio: module(audio).last_hidden_state, (module,), module.model)


def load_module(weights: Weights, model: str) -> torch.nn.Module:
    """The MuQ module with all its weights, in evaluation mode, on the CPU; seconds.

    `model` is EMBED_MODEL, for messages. Raises ConfigurationError when the weights are damaged, do
    not fit their config, or do not run.
    """
    from safetensors import safe_open

    folder = weights.folder
    muq = _muq()
    with explained(folder, model, "MuQ"), quiet():
        with safe_open(folder / WEIGHTS, "pt") as file:
            there = set(file.keys())
        module = muq.from_pretrained(str(folder)).eval()
    check_keys(there, set(module.state_dict()), MUQ_PARTS, folder, model)
    _check_run(module, weights, model)
    return module


@contextlib.contextmanager
def explained(folder: Path, model: str, name: str) -> Iterator[None]:
    """Turn what goes wrong when weights are loaded into a ConfigurationError for people."""
    from safetensors import SafetensorError

    try:
        yield
    except (SafetensorError, OSError) as error:
        raise ConfigurationError(
            f"EMBED_MODEL is {model!r}, but {folder / WEIGHTS} is damaged or incomplete: {error}."
            " Delete it and download it again."
        ) from error
    except (AttributeError, ImportError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ConfigurationError(
            f"EMBED_MODEL is {model!r}: {folder / CONFIG} and {WEIGHTS} do not make a {name} model"
            f" ({type(error).__name__}: {error}). Download both again."
        ) from error


def _check_run(module: torch.nn.Module, weights: Weights, model: str) -> None:
    """Refuse what shows only when the model runs, such as a config without `stat`."""
    import torch

    config = weights.folder / CONFIG
    try:
        with torch.inference_mode():
            frames = module(torch.zeros(1, MIN_SAMPLES)).last_hidden_state
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ConfigurationError(
            f"EMBED_MODEL is {model!r}: its weights load but do not run ({type(error).__name__}:"
            f" {error}). Check that {config} belongs to them, and that `pip check` finds nothing"
            " (muq 0.1.0 needs transformers below 5.16)."
        ) from error
    if not torch.isfinite(frames).all():
        raise ConfigurationError(
            f"EMBED_MODEL is {model!r}: its weights give NaN or infinity even for silence:"
            f" {weights.folder / WEIGHTS} is damaged, or was saved in too small a type. Download"
            " it again."
        )
    width = frames.shape[-1]
    if width != weights.config.get("encoder_dim"):
        raise ConfigurationError(
            f"EMBED_MODEL is {model!r}: it gives vectors of width {width}, not "
            f"{weights.config.get('encoder_dim')} as {config} says."
        )


def _muq() -> Any:
    """The class muq.MuQ."""
    try:
        with quiet():
            from muq import MuQ
    except (ImportError, OSError, RuntimeError) as error:
        raise ConfigurationError(
            f"EMBED_ENCODER is 'muq', but the package muq cannot be imported ({error}). torch,"
            " torchaudio and transformers must have the versions that embed_assets requires:"
            " `make install`, or `pip install --force-reinstall embed_assets`."
        ) from error
    return MuQ


def check_keys(
    there: set[str], expected: set[str], parts: tuple[str, ...], folder: Path, model: str
) -> None:
    """Refuse weights that the hub's loader would leave random, or drop, without a word.

    `parts`: beginnings of the names that count. Raises ConfigurationError.
    """

    def of_a_vector(keys: set[str]) -> set[str]:
        return {k for k in keys if k.startswith(parts) and not any(u in k for u in _UNUSED)}

    missing = sorted(of_a_vector(expected) - there)
    extra = sorted(of_a_vector(there) - expected)
    if missing or extra:
        faults = [
            f"{len(keys)} {what} (the first is {keys[0]})"
            for what, keys in (("missing", missing), ("not in the model", extra))
            if keys
        ]
        raise ConfigurationError(
            f"EMBED_MODEL is {model!r}: {folder / WEIGHTS} does not fit its {CONFIG}; of its"
            f" tensors {' and '.join(faults)}. Download both files again, from one model."
        )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
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
