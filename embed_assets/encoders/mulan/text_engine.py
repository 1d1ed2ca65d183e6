"""MuQ-MuLan's text tower on OpenVINO: converted once, checked against torch, kept on disk.

Its word table is half of it, of which a phrase needs a few rows: it stays in a file that is mapped,
outside of the converted graph, which begins at the words' vectors. A text goes through alone:
upstream's mean counts the padding, so that a text beside a longer one gets another vector (cosine
.82 was seen).
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embed_assets.encoders.mulan import weights
from embed_assets.encoders.mulan.card import MUQ_MULAN
from embed_assets.encoders.mulan.module import require_unlike, text_module
from embed_assets.encoders.mulan.weights import TOKENIZER, MulanWeights
from embed_assets.encoders.muq.converted import (
    GRAPH,
    MODEL,
    REFERENCE,
    ConvertedModelCache,
)
from embed_assets.encoders.muq.module import quiet
from embed_assets.encoders.muq.openvino_engine import first_words, save, version
from embed_assets.encoders.muq.parity_check import SMALLEST_COSINE
from embed_assets.encoders.openvino_runtime import Refused, import_openvino
from embed_assets.errors import ConfigurationError

if TYPE_CHECKING:
    import torch

    from embed_assets.encoders.mulan.module import TextModule

TEXT_CONVERSION = 1
"""Raised when the conversion, the check texts or what is kept changes: all is made anew."""

TABLE = "words.npy"
LIMIT = "longest.npy"

CHECK_TEXTS = ("calm piano", "loud guitars and drums", "a woman singing", "欢快的电子舞曲", "rain")


@dataclass(frozen=True)
class TextEngine:
    """The text tower: a phrase to float32 [dim], of length 1. `engine`: what runs it."""

    vector: Callable[[str], np.ndarray]
    engine: str


def load(found: MulanWeights, model: str, cache: Path) -> TextEngine:
    """The text tower on the CPU in float32; the first call converts and checks it.

    By torch where OpenVINO cannot run it. Raises ConfigurationError: the weights are damaged, or
    were not trained.
    """
    try:
        ov = convert_once(found, model, cache)
        return TextEngine(_checked(ov, conversion(found.digest, cache)), "openvino")
    except Refused:
        tower = on_torch(found, model)
        require_trained(tower, found, model)
        return tower


def on_torch(found: MulanWeights, model: str) -> TextEngine:
    """The plain module: what OpenVINO's vectors are held against. Raises ConfigurationError."""
    return TextEngine(_by_torch(text_module(found, model), _tokenizer(found.tokenizer)), "torch")


def require_trained(tower: TextEngine, found: MulanWeights, model: str) -> np.ndarray:
    """The vectors of the check texts, [n, dim]; raises ConfigurationError if they are alike."""
    texts = np.stack([tower.vector(text) for text in CHECK_TEXTS])
    require_unlike(texts, "texts", found, model)
    return texts


def conversion(digest: str, cache: Path) -> ConvertedModelCache:
    """The conversion of the text tower of these weights, whether it is there or not."""
    folder = cache / MUQ_MULAN.name / f"{digest}-text-{TEXT_CONVERSION}"
    return ConvertedModelCache(folder, (*GRAPH, REFERENCE, LIMIT, TOKENIZER), (TABLE,))


def convert_once(found: MulanWeights, model: str, cache: Path) -> Any:
    """Have the conversion there and whole; returns the module openvino.

    Raises:
        Refused: OpenVINO cannot be had, or fails.
        ConfigurationError: as `load`.
    """
    ov = import_openvino()
    kept = conversion(found.digest, cache)
    try:
        kept.ensure(partial(_convert, ov, found, model))
    except OSError as error:
        raise Refused(f"{error.filename or kept.folder}: {error.strerror or error}") from error
    except RuntimeError as error:
        raise Refused(first_words(error)) from error
    return ov


def _convert(ov: Any, found: MulanWeights, model: str, folder: Path) -> None:
    """Write what the conversion has into `folder`; raises OSError, RuntimeError."""
    weights.check(found, model)
    module = text_module(found, model)
    plain = TextEngine(_by_torch(module, _tokenizer(found.tokenizer)), "torch")
    np.save(folder / REFERENCE, require_trained(plain, found, model))
    np.save(folder / TABLE, module.table.numpy())
    np.save(folder / LIMIT, np.array(module.longest))
    shutil.copyfile(found.tokenizer, folder / TOKENIZER)
    save(ov, _graph(ov, module), folder / MODEL)
    # Over a gigabyte, which may not be there when the engine is compiled.
    del module, plain
    gc.collect()


def _graph(ov: Any, module: TextModule) -> Any:
    """The OpenVINO model from the words' vectors on, for any number of words."""
    import torch

    class Tower(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = torch.nn.ModuleList(module.modules)

        def forward(self, words: torch.Tensor) -> torch.Tensor:
            return module.from_words(words)

    width = module.table.shape[1]
    with torch.no_grad(), quiet():
        return ov.convert_model(
            Tower().eval(),
            example_input=torch.zeros(1, 8, width),
            input=[ov.PartialShape([1, -1, width])],
        )


def _checked(ov: Any, kept: ConvertedModelCache) -> Callable[[str], np.ndarray]:
    """The compiled tower, held against torch's vectors once on this machine; raises Refused."""
    table = np.load(kept.folder / TABLE, mmap_mode="r")
    longest = int(np.load(kept.folder / LIMIT))
    tokens = _tokenizer(kept.folder / TOKENIZER)
    try:
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": "1",
            "ENABLE_CPU_PINNING": "NO",
        }
        request = ov.Core().compile_model(kept.model, "CPU", settings).create_infer_request()

        def vector(text: str) -> np.ndarray:
            words = np.asarray(table[tokens(text, longest)], np.float32)[None]
            return np.array(request.infer([words])[0][0])

        def measure() -> float:
            theirs = np.load(kept.reference)
            ours = np.stack([vector(text) for text in CHECK_TEXTS])
            return float(np.nan_to_num(np.min(np.sum(ours * theirs, axis=1)), nan=-1.0))

        name = f"CPU {ov.Core().get_property('CPU', 'FULL_DEVICE_NAME')}"
        what = {"openvino": ov.__version__, "device": name, "dtype": "float32"}
        cosine = kept.cosine(what, measure)
    except (OSError, RuntimeError) as error:
        raise Refused(first_words(error)) from error
    if cosine < SMALLEST_COSINE["float32"]:
        raise Refused(
            f"its vectors of texts differ from torch's (cosine {cosine:.4f}); OpenVINO"
            f" {version(ov)}"
        )
    return vector


def _by_torch(
    module: TextModule, tokens: Callable[[str, int], list[int]]
) -> Callable[[str], np.ndarray]:
    import torch

    @torch.inference_mode()
    def vector(text: str) -> np.ndarray:
        words = module.table[tokens(text, module.longest)]
        return module.from_words(words[None])[0].numpy()

    return vector


def _tokenizer(file: Path) -> Callable[[str, int], list[int]]:
    """What turns a text into numbers of tokens, at most so many."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing more special
        raise ConfigurationError(
            f"the tokenizer {file} of MuQ-MuLan cannot be read ({error}): download it again"
        ) from error
    tokenizer.no_padding()
    tokenizer.no_truncation()

    def tokens(text: str, longest: int) -> list[int]:
        ids = tokenizer.encode(text).ids
        if len(ids) > longest:
            raise ConfigurationError(
                f"a phrase is too long ({len(ids) - 2} pieces of words, at most {longest - 2}):"
                " two to four short phrases find more than a long text"
            )
        return ids

    return tokens
