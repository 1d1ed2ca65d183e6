"""Makes a small checkpoint of the real MuQ-MuLan architecture, as upstream and the hub have it.

Upstream's own classes build and save it. All its weights are moved a little afterwards, as MuLan's
training moved those of the models inside: a loader that took theirs would give other vectors.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from embed_assets_tests import small_muq

DIM = 512
"""Width of its vectors, as the real one's."""

TEXTS = (
    "calm piano",
    "rain",
    "fast heavy metal with distorted guitars",
    "une chanson triste",
    "欢快的电子舞曲",
)
MUQ, XLM_R = "muq", "xlm-roberta"
"""The folders of the models inside, whose names upstream looks for in those of the config."""


@dataclass(frozen=True)
class Size:
    """How large a model is: changes to MuQ's config, XLM-R's config, a tower, and the words."""

    muq: dict[str, Any] = field(default_factory=dict)
    text: dict[str, Any] = field(default_factory=dict)
    tower: dict[str, Any] = field(default_factory=dict)
    pieces: int = 0
    """Pieces of words without a meaning that the tokenizer has besides those of TEXTS."""


SMALL = Size()


def save(folder: Path, seed: int = 0, size: Size = SMALL) -> Path:
    """Write the five files: MuLan's two, and what is needed of the models inside in two folders."""
    whole = folder.with_name(f"{folder.name}-upstream")
    small_muq.save(whole / MUQ, seed + 100, **size.muq)
    _save_text(whole / XLM_R, seed, size)
    model = _build(config(whole, size), seed)
    with contextlib.redirect_stdout(io.StringIO()):
        model.save_pretrained(whole, config=config(whole, size))
    files = ("config.json", "model.safetensors", f"{MUQ}/config.json")
    for name in (*files, f"{XLM_R}/config.json", f"{XLM_R}/tokenizer.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.link(whole / name, folder / name)
    return folder


def upstream(folder: Path) -> Any:
    """The model of `save` by upstream's own loader, in evaluation mode."""
    from muq import MuQMuLan

    with contextlib.redirect_stdout(io.StringIO()):
        return MuQMuLan.from_pretrained(str(folder.with_name(f"{folder.name}-upstream"))).eval()


def config(nested: Path, size: Size = SMALL) -> dict[str, Any]:
    """MuLan's config, of the models in this folder; dropout is on, as in `small_muq`."""
    tower = {"dim": 48, "tf_depth": 2, "heads": 2, "dim_head": 16, "attn_dropout": 0.1}
    tower |= {"ff_dropout": 0.1, "ff_mult": 4, **size.tower}
    return {
        "mulan": {
            "sr": 24000,
            "clip_secs": 10,
            "dim_latent": DIM,
            "decoupled_contrastive_learning": True,
            "hierarchical_contrastive_loss": False,
            "hierarchical_contrastive_loss_layers": None,
            "sigmoid_contrastive_loss": False,
            "rank_contrast": True,
        },
        "audio_model": {
            "name": str(nested / MUQ),
            "model_dim": size.muq.get("encoder_dim", small_muq.DIM),
            "use_layer_idx": -1,
        },
        "text_model": {
            "name": str(nested / XLM_R),
            "model_dim": size.text.get("hidden_size", 64),
            "use_layer_idx": -1,
        },
        "audio_transformer": tower,
        "text_transformer": tower | {"max_seq_len": 1024},
    }


def _build(config: dict[str, Any], seed: int) -> Any:
    import torch
    from muq import MuQMuLan

    with contextlib.redirect_stdout(io.StringIO()):
        model = MuQMuLan(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if not tensor.is_floating_point() or name.endswith("inv_freq"):
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            if name.startswith("mulan.audio.model."):
                # Near what it was, or batch norms would no longer fit.
                tensor.mul_(1 + 0.05 * noise)
            elif tensor.ndim == 1:
                tensor.copy_((1 if "bias" not in name else 0) + 0.1 * noise)
            else:
                tensor.copy_(noise * 1.2 / tensor[0].numel() ** 0.5)
        # Random weights give all sounds nearly one vector: what they have in common is taken off.
        mulan = model.eval().mulan
        sounds = torch.stack([torch.from_numpy(sound(2.0, seed)) for seed in range(6)])
        norms = [m for m in mulan.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
        for norm in norms:
            norm.momentum = None
            norm.reset_running_stats()
            norm.train()
        mulan.audio(sounds)
        mulan.eval()
        common = mulan.audio(sounds).mean(dim=0)
        mulan.audio_to_latents.bias.copy_(-mulan.audio_to_latents.weight @ common)
    return model


def _save_text(folder: Path, seed: int, size: Size) -> None:
    import torch
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import XLMRobertaConfig, XLMRobertaModel

    letters = sorted({letter for text in TEXTS for letter in text if letter != " "})
    pieces = [("▁", -3.0), *((letter, -6.0) for letter in letters)]
    pieces += [(f"▁{word}", -4.0) for word in ("calm", "piano", "rain", "guitars", "metal")]
    pieces += [(f"▁x{number}", -12.0) for number in range(size.pieces)]
    special = ("<s>", "<pad>", "</s>", "<unk>")
    tokenizer = Tokenizer(models.Unigram([*((s, 0.0) for s in special), *pieces], unk_id=3))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    ends = [("<s>", 0), ("</s>", 2)]
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", None, ends)
    tokenizer.add_special_tokens(list(special))
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = ("bos_token", "pad_token", "eos_token", "unk_token")
    written = {"tokenizer_class": "PreTrainedTokenizerFast"} | dict(
        zip(names, special, strict=True)
    )
    (folder / "tokenizer_config.json").write_text(json.dumps(written))
    state = torch.get_rng_state()
    try:
        torch.manual_seed(seed)
        settings = {
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 128,
            "max_position_embeddings": 66,
            **size.text,
        }
        settings |= {"vocab_size": tokenizer.get_vocab_size(), "type_vocab_size": 1}
        settings |= {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
        model = XLMRobertaModel(XLMRobertaConfig(**settings))
        model.save_pretrained(folder)
    finally:
        torch.set_rng_state(state)


def sound(seconds: float, seed: int = 0) -> np.ndarray:
    """Something like music at 24 kHz that changes all the time: float32 [T]."""
    random = np.random.default_rng(seed)
    t = np.arange(round(seconds * 24_000)) / 24_000
    pitch = 110 * 2 ** (random.integers(0, 24, 64) / 12)[(t / 0.4).astype(int) % 64]
    tone = np.sin(2 * np.pi * pitch * t) * (0.3 + np.exp(-5 * (t % 0.4)))
    return (0.3 * tone + 0.02 * random.standard_normal(len(t))).astype(np.float32)
