"""MuQ's encoder on OpenVINO: converted once for its weights, checked against torch, kept on disk.

On a CPU it runs at the speed of the cores: twice `muq` in float32, more in bfloat16 where the
instructions are there. What is kept needs neither torch nor muq to load, which saves each worker
seconds and half a gigabyte.
"""

from __future__ import annotations

import errno
import gc
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embed_assets.encoders.muq import eight_bits, parity_check, torch_engine
from embed_assets.encoders.muq.converted import MODEL, REFERENCE, ConvertedModelCache
from embed_assets.encoders.muq.frames import N_MELS, mel_spectrogram
from embed_assets.encoders.muq.module import quiet
from embed_assets.encoders.openvino_runtime import Refused, import_openvino

if TYPE_CHECKING:
    import torch

    from embed_assets.encoders.muq.checkpoint import AudioModule, Checkpoint

CONVERSION = 4
"""Raised when the conversion, the check audio or what is kept changes: all is made anew."""

FULL_BYTES = 1 << 20
"""A disk with less is full."""

MIXED = "float32_int8"
"""Float32, with large products in 8 bits (`eight_bits`): what a mixed engine computes in."""

HINT = {"float32": "f32", "bfloat16": "bf16", "float16": "f16", MIXED: "f32"}
"""OpenVINO's names of the types."""

BFLOAT16 = ("avx512_bf16", "amx_bf16")
"""Instructions without which bfloat16 is 2.7 times slower than float32."""

EIGHT_BITS = ("avx512_vnni", "avx_vnni", "amx_int8")
"""Instructions of which one makes products in 8 bits fast."""

ONE_FRAME = 4
"""Columns of the spectrogram, 50 ms at most, of which MuQ makes a single frame.

OpenVINO 2026.4 gives other values for it in bfloat16 on a CPU with AMX: it is done in float32. And
a model whose first window is one gives wrong vectors for all others (cosine .4): it has a model of
its own.
"""


@dataclass(frozen=True)
class Engine:
    """A compiled encoder: `frames` takes float32 [B, T] and gives float32 [B, F, dim].

    `mel` is what it computes before the model: float32 [T] -> [128, frames].

    Windows go through one by one: a batch gains nothing on a CPU and costs memory. `warning`: why
    it is not in the fastest dtype.
    """

    frames: Callable[[np.ndarray], np.ndarray]
    mel: Callable[[np.ndarray], np.ndarray]
    dtype: str
    warning: str = ""


def load(checkpoint: Checkpoint, device: str, dtypes: tuple[str, ...] | None = None) -> Engine:
    """The engine for these weights on an OpenVINO device, such as CPU or GPU, one thread.

    The first call converts and checks, a minute or so, while other processes wait; later ones take
    seconds. Of `dtypes`, all that may be fast here if not given, the first is taken that gives
    torch's vectors.

    Raises:
        Refused: OpenVINO cannot be had, fails, or gives other vectors.
        ConfigurationError: the weights are damaged, or do not make a model.
    """
    ov = import_openvino()
    kept = checkpoint.conversion
    worst: list[str] = []
    try:
        kept.ensure(partial(convert, ov, checkpoint))
        for dtype in dtypes or _dtypes(device):
            checked = check(ov, kept, device, dtype, checkpoint.muq_config)
            if checked.cosine >= parity_check.SMALLEST_COSINE[dtype]:
                return replace(checked.engine(), warning=parity_check.refused(worst, dtype))
            worst.append(f"{checked.cosine:.4f} in {dtype}")
    except OSError as error:
        raise Refused(f"{error.filename or kept.folder}: {error.strerror or error}") from error
    except RuntimeError as error:
        raise Refused(first_words(error)) from error
    raise Refused(
        f"its vectors differ from torch's (cosine {', '.join(worst)}); OpenVINO {version(ov)}"
    )


def conversion(digest_of_weights: str, cache: Path) -> ConvertedModelCache:
    """The conversion of these weights, whether it is there or not."""
    return ConvertedModelCache(cache / "openvino" / f"{digest_of_weights}-{CONVERSION}")


def version(ov: Any) -> str:
    """Which OpenVINO it is, for people."""
    return ov.__version__.partition("-")[0]


def first_words(error: Exception) -> str:
    """An error of OpenVINO for people, which may be pages long."""
    return f"{type(error).__name__}: {str(error).strip()[:300]}"


def _dtypes(device: str) -> tuple[str, ...]:
    """What to try, the fastest first."""
    if device != "CPU":
        return ("float16", "float32")
    return ("bfloat16", "float32") if cpu_has(*BFLOAT16) else ("float32",)


def cpu_has(*wanted: str) -> bool:
    """Whether this CPU has one of these sets of instructions, by Linux' names for x86."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    flags = next((x for x in text.splitlines() if x.startswith("flags")), "").split()
    return not set(wanted).isdisjoint(flags)


# Converting


def convert(ov: Any, checkpoint: Checkpoint, folder: Path, *, minimal: bool = True) -> None:
    """Write what a ConvertedModelCache has into `folder`; raises OSError, RuntimeError.

    `minimal`: with fewer multiplications, which 8 bits are not enough for.
    """
    from torch.nn import Identity

    from embed_assets.encoders.muq.winograd import STRIDES, minimal_conv

    checkpoint.check()
    module: Any = checkpoint.load()
    try:
        np.save(folder / REFERENCE, parity_check.vectors(torch_engine.one_by_one(module)))
        first, second = module.muq.conv.conv
        # What takes the spectrogram itself has one channel, and nothing to save.
        large = ((first, 2), (second, 1), (second, 2), (second, 3))
        for block, number in large if minimal else ():
            conv, norm = getattr(block, f"conv{number}"), getattr(block, f"bn{number}")
            # With 50 frames a second the second block halves the frequency alone.
            if conv.stride in STRIDES:
                setattr(block, f"conv{number}", minimal_conv(conv, norm))
                setattr(block, f"bn{number}", Identity())
        graph = _graph(ov, module)
        save(ov, graph, folder / MODEL)
    finally:
        # Both models are over a gigabyte: neither may be there when the engine is compiled.
        module = graph = None
        gc.collect()


def save(ov: Any, graph: Any, file: Path) -> None:
    """Write a model in full precision; raises OSError where the disk is full, else RuntimeError."""
    try:
        ov.save_model(graph, file, compress_to_fp16=False)
    except RuntimeError as error:
        # OpenVINO says no more than "iostream error".
        if shutil.disk_usage(file.parent).free < FULL_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file)) from error
        raise


def _graph(ov: Any, module: AudioModule) -> Any:
    """The OpenVINO model of all that follows the spectrogram, for any number of frames."""
    import torch

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = torch.nn.ModuleList(module.modules)

        def forward(self, mel: torch.Tensor) -> torch.Tensor:
            # Kept from an earlier call, they would be traced as a constant of that call's length.
            module.muq.conformer.embed_positions.cached_rotary_positional_embedding = None
            return module.after_spectrogram(mel)

    with torch.no_grad(), quiet():
        graph = ov.convert_model(
            Encoder().eval(),
            example_input=torch.zeros(1, N_MELS, 400),
            input=[ov.PartialShape([1, N_MELS, -1])],
        )
    scale_weights(ov, graph)
    return graph


def scale_weights(ov: Any, graph: Any) -> None:
    """Multiply weights once by what their products are multiplied by, as Conformer's halves.

    OpenVINO does so by itself, for a second at each loading.
    """
    for scaling in graph.get_ordered_ops():
        if scaling.get_type_name() != "Multiply":
            continue
        product, factor = (scaling.input_value(i).get_node() for i in (0, 1))
        if product.get_type_name() != "MatMul" or factor.get_type_name() != "Constant":
            continue
        weights = product.input_value(1).get_node()
        uses = [len(node.output(0).get_target_inputs()) for node in (product, weights)]
        if weights.get_type_name() == "Constant" and factor.data.size == 1 and uses == [1, 1]:
            scaled = ov.opset13.constant(weights.data * factor.data.item())
            product.input(1).replace_source_output(scaled.output(0))
            scaling.output(0).replace(product.output(0))


# Compiling and checking


@dataclass(frozen=True)
class Checked:
    """An engine's smallest cosine to torch's vectors, known or measured now."""

    cosine: float
    engine: Callable[[], Engine]


def check(
    ov: Any, kept: ConvertedModelCache, device: str, dtype: str, muq_config: Mapping[str, Any]
) -> Checked:
    """Hold a conversion's engine against torch's vectors; it is compiled once, here or later."""
    made: list[Engine] = []

    def engine() -> Engine:
        if not made:
            made.append(compiled(ov, kept.model, device, dtype, muq_config))
        return made[0]

    def measure() -> float:
        theirs = np.load(kept.reference)
        return parity_check.smallest_cosine(parity_check.vectors(engine().frames), theirs)

    return Checked(kept.cosine(identity(ov, device, dtype), measure), engine)


def identity(ov: Any, device: str, dtype: str) -> dict[str, str]:
    """What tells an engine of a conversion from others, for `ConvertedModelCache.cosine`."""
    name = f"{device} {ov.Core().get_property(device, 'FULL_DEVICE_NAME')}"
    what = {"openvino": ov.__version__, "device": name, "dtype": dtype}
    if dtype == "bfloat16":
        what["one_frame"] = "float32"
    return what


def compiled(
    ov: Any, model: Path, device: str, dtype: str, muq_config: Mapping[str, Any]
) -> Engine:
    """The engine of a converted model; raises RuntimeError where OpenVINO fails."""
    spectrogram, hop = mel_spectrogram(muq_config), muq_config.get("hop_length", 240)
    # What is not quantised in a model in int8 is computed in the fastest of the others.
    float_ = dtype
    if dtype == "int8":
        float_ = "bfloat16" if "bfloat16" in _dtypes(device) else "float32"

    def request_in(float_: str) -> Any:
        settings = {"INFERENCE_PRECISION_HINT": HINT[float_], "NUM_STREAMS": "1"}
        if dtype == MIXED:
            settings |= eight_bits.SETTINGS
        if device == "CPU":
            # Pinned, the workers would all sit on the first core.
            settings |= {"INFERENCE_NUM_THREADS": "1", "ENABLE_CPU_PINNING": "NO"}
        return ov.Core().compile_model(model, device, settings).create_infer_request()

    usual = request_in(float_)

    def frames(audio: np.ndarray) -> np.ndarray:
        alone = audio.shape[1] // hop <= ONE_FRAME
        # Not kept: such a window is too rare to hold a second model for.
        request = request_in("float32" if float_ == "bfloat16" else float_) if alone else usual
        return np.concatenate([request.infer([spectrogram(x)[None]])[0] for x in audio])

    return Engine(frames, spectrogram, dtype)
