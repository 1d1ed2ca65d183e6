"""MuQ's encoder on OpenVINO: converted once for its weights, checked against torch, kept on disk.

On a CPU it runs at the speed of the cores: twice `muq` in float32, more in bfloat16 where the
instructions are there. The mel spectrogram stays in torch. What is kept needs neither muq nor
transformers to load, which saves each worker seconds and a third of a gigabyte.

A folder `<cache>/openvino/<weights>-<version>` holds the converted model, the torch module's
vectors of some made-up audio, a manifest with sizes and checksums, and a verdict for each
(OpenVINO, device, dtype) that was checked on this machine.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import shutil
import sys
import uuid
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embed_assets.encoders.frames import (
    MIN_SAMPLES,
    N_MELS,
    SAMPLE_RATE,
    frame_statistics,
    mel_spectrogram,
)
from embed_assets.encoders.muq_module import load_module, quiet
from embed_assets.encoders.weights import Weights
from embed_assets.identity import digest

if TYPE_CHECKING:
    import torch

CONVERSION = 1
"""Raised when the conversion, the check audio or what is kept changes: all is made anew."""

SMALLEST_COSINE = {"float32": 0.9999, "bfloat16": 0.9995, "float16": 0.9995}
"""Between a vector of the engine and torch's, below which the engine is refused, by dtype."""

_HINT = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
_CHECK_SECONDS = (10.0, 3.1, MIN_SAMPLES / SAMPLE_RATE)
_FILES = ("model.xml", "model.bin", "reference.npy")


class Refused(Exception):
    """OpenVINO cannot stand in for torch here; the message says why."""


@dataclass(frozen=True)
class Engine:
    """A compiled encoder: `frames` takes float32 [B, T] and gives float32 [B, F, dim], on the CPU.

    Windows go through one by one: a batch gains nothing on a CPU and costs memory.
    """

    frames: Callable[[torch.Tensor], torch.Tensor]
    dtype: str


def load(weights: Weights, model: str, device: str, cache: Path) -> Engine:
    """The engine for these weights on an OpenVINO device, such as CPU or GPU, one thread.

    The first call converts and checks, a minute or so, while other processes wait; later ones take
    seconds. The fastest dtype that gives torch's vectors is taken.

    Raises:
        Refused: OpenVINO cannot be had, fails, or gives other vectors.
        ConfigurationError: the weights do not make a MuQ model.
    """
    from filelock import FileLock

    ov = import_openvino()
    kept = conversion_folder(weights.digest, cache)
    lock = FileLock(kept.with_name(f"{kept.name}.lock"))
    try:
        if not _is_whole(kept):
            kept.parent.mkdir(parents=True, exist_ok=True)
            with lock:
                if not _is_whole(kept):
                    _convert(ov, weights, model, kept)
        spectrogram = mel_spectrogram(weights.config)
        worst = []
        for dtype in _dtypes(device):
            cosine, engine = _checked(ov, kept, device, dtype, spectrogram, lock)
            if cosine >= SMALLEST_COSINE[dtype]:
                return engine or _compile(ov, kept, device, dtype, spectrogram)
            worst.append(f"{cosine:.4f} in {dtype}")
    except OSError as error:
        raise Refused(f"{error.filename or kept}: {error.strerror or error}") from error
    except RuntimeError as error:
        raise Refused(f"{type(error).__name__}: {str(error).strip()[:300]}") from error
    raise Refused(
        f"its vectors differ from torch's (cosine {', '.join(worst)}); OpenVINO"
        f" {ov.__version__.partition('-')[0]}"
    )


def conversion_folder(digest_of_weights: str, cache: Path) -> Path:
    """Where the conversion of these weights lies, whether it is there or not."""
    return cache / "openvino" / f"{digest_of_weights}-{CONVERSION}"


def import_openvino() -> Any:
    """The module openvino; raises Refused where it cannot be imported."""
    # Its telemetry reports each conversion to Google Analytics unless one opts out. Without the
    # package OpenVINO uses a stub of its own.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except (ImportError, OSError) as error:
        raise Refused(f"the package openvino cannot be imported ({error})") from error
    return openvino


def _dtypes(device: str) -> tuple[str, ...]:
    """What to try, the fastest first."""
    if device != "CPU":
        return ("float16", "float32")
    return ("bfloat16", "float32") if cpu_has_bfloat16() else ("float32",)


def cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware; without, it is 2.7 times slower."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    flags = next((x for x in text.splitlines() if x.startswith("flags")), "").split()
    return "avx512_bf16" in flags or "amx_bf16" in flags


# Converting


def _convert(ov: Any, weights: Weights, model: str, folder: Path) -> None:
    """Make `folder`, whole or not at all; the caller holds the lock."""
    for old in folder.parent.glob(f".{folder.name}.*.tmp"):
        shutil.rmtree(old, ignore_errors=True)
    module = load_module(weights, model)
    making = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.tmp")
    try:
        making.mkdir()
        np.save(making / "reference.npy", _vectors(lambda x: module(x).last_hidden_state))
        graph = _graph(ov, module)
        ov.save_model(graph, making / "model.xml", compress_to_fp16=False)
        manifest = {name: [(making / name).stat().st_size, _crc(making / name)] for name in _FILES}
        (making / "manifest.json").write_text(json.dumps(manifest))
        for name in (*_FILES, "manifest.json"):
            with open(making / name, "rb") as file:
                os.fsync(file.fileno())
        shutil.rmtree(folder, ignore_errors=True)
        making.rename(folder)
    finally:
        shutil.rmtree(making, ignore_errors=True)
        # Both models are over a gigabyte: neither may be there when the engine is compiled.
        module = graph = None
        gc.collect()


def _graph(ov: Any, module: torch.nn.Module) -> Any:
    """The OpenVINO model of convolutions and conformer, for any number of frames."""
    import torch

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.conformer = module.model.conv, module.model.conformer

        def forward(self, mel: torch.Tensor) -> torch.Tensor:
            # Kept from an earlier call, they would be traced as a constant of that call's length.
            self.conformer.embed_positions.cached_rotary_positional_embedding = None
            return self.conformer(self.conv(mel))[0]

    with torch.no_grad(), quiet():
        return ov.convert_model(
            Encoder().eval(),
            example_input=torch.zeros(1, N_MELS, 400),
            input=[ov.PartialShape([1, N_MELS, -1])],
        )


def _is_whole(folder: Path) -> bool:
    try:
        manifest = json.loads((folder / "manifest.json").read_bytes())
        files = [(folder / name, *manifest[name]) for name in _FILES]
        return all(path.stat().st_size == size and _crc(path) == crc for path, size, crc in files)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _crc(path: Path) -> int:
    value = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            value = zlib.crc32(block, value)
    return value


# Compiling and checking


def _compile(
    ov: Any, folder: Path, device: str, dtype: str, spectrogram: Callable[..., torch.Tensor]
) -> Engine:
    import torch

    settings = {"INFERENCE_PRECISION_HINT": _HINT[dtype], "NUM_STREAMS": "1"}
    if device == "CPU":
        # Pinned, the workers would all sit on the first core.
        settings |= {"INFERENCE_NUM_THREADS": "1", "ENABLE_CPU_PINNING": "NO"}
    request = ov.Core().compile_model(folder / "model.xml", device, settings).create_infer_request()

    def frames(audio: torch.Tensor) -> torch.Tensor:
        each = [request.infer([spectrogram(window[None]).numpy()])[0] for window in audio]
        return torch.from_numpy(np.concatenate(each))

    return Engine(frames, dtype)


def _checked(
    ov: Any,
    folder: Path,
    device: str,
    dtype: str,
    spectrogram: Callable[..., torch.Tensor],
    lock: Any,
) -> tuple[float, Engine | None]:
    """Smallest cosine to torch's vectors, known or measured now; the engine if it was measured."""
    name = ov.Core().get_property(device, "FULL_DEVICE_NAME")
    what = {"openvino": ov.__version__, "device": f"{device} {name}", "dtype": dtype}
    verdict = folder / f"check-{digest(*what.values(), size=8)}.json"
    if (known := _read_cosine(verdict)) is not None:
        return known, None
    with lock:
        if (known := _read_cosine(verdict)) is not None:
            return known, None
        engine = _compile(ov, folder, device, dtype, spectrogram)
        cosine = _smallest_cosine(_vectors(engine.frames), np.load(folder / "reference.npy"))
        making = verdict.with_suffix(f".{uuid.uuid4().hex}.tmp")
        making.write_text(json.dumps(what | {"cosine": cosine}))
        making.replace(verdict)
        return cosine, engine


def _read_cosine(verdict: Path) -> float | None:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return float(json.loads(verdict.read_bytes())["cosine"])
    return None


def _vectors(frames: Callable[[torch.Tensor], torch.Tensor]) -> np.ndarray:
    """Statistics over frames of the check audio: float32 [n, 3, dim]."""
    import torch

    with torch.inference_mode():
        each = [frame_statistics(frames(torch.from_numpy(x))) for x in _check_audio()]
        return torch.cat(each).numpy()


def _check_audio() -> list[np.ndarray]:
    """Something like music, of several lengths down to the shortest: float32 [1, T] each."""
    random = np.random.default_rng(0)
    t = np.arange(round(max(_CHECK_SECONDS) * SAMPLE_RATE)) / SAMPLE_RATE
    beat = np.exp(-6 * (t % 0.5))
    roots = 110 * 2 ** (random.integers(0, 12, 32) / 12)
    pitch = roots[(t // 0.5).astype(int) % len(roots)]
    chord = sum(np.sin(2 * np.pi * pitch * k * t) / k for k in (1, 2, 3, 5, 8))
    audio = 0.1 * chord * (0.3 + beat) + 0.05 * beat * random.standard_normal(len(t))
    lengths = [round(s * SAMPLE_RATE) for s in _CHECK_SECONDS]
    return [audio[None, :n].astype(np.float32) for n in lengths]


def _smallest_cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Over the windows, of their means and of all their statistics; NaN counts as -1."""
    if a.shape != b.shape:
        return -1.0
    cosines = [
        np.sum(x * y, axis=1) / (np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1))
        for x, y in ((a[:, 0], b[:, 0]), (a.reshape(len(a), -1), b.reshape(len(b), -1)))
    ]
    return float(np.nan_to_num(np.min(cosines), nan=-1.0))
