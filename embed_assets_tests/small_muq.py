"""Makes a small checkpoint of the real MuQ architecture, for tests that need a model but no GB.

Its weights are drawn from a fixed seed, so its vectors are the same everywhere, within rounding.
"""

from __future__ import annotations

import contextlib
import io
import random
from pathlib import Path
from typing import Any

DIM = 64
"""Width of its vectors."""


def config(**changes: Any) -> dict[str, Any]:
    """The small model's config; dropout is on, so that training mode cannot go unnoticed."""
    return {
        "label_rate": 25,
        "num_codebooks": 1,
        "codebook_dim": 4,
        "codebook_size": 16,
        "features": ["melspec_2048"],
        "hop_length": 240,
        "n_mels": 128,
        "conv_dim": 8,
        "encoder_dim": DIM,
        "encoder_depth": 2,
        "is_flash": False,
        "stat": {"melspec_2048_mean": 6.768444971712967, "melspec_2048_std": 18.417922652295623},
        "w2v2_config": {
            "hidden_size": DIM,
            "num_attention_heads": 4,
            "intermediate_size": 128,
            "hidden_act": "swish",
            "activation_dropout": 0.1,
            "attention_dropout": 0.1,
            "hidden_dropout": 0.1,
            "layerdrop": 0.0,
            "layer_norm_eps": 1e-5,
            "position_embeddings_type": "rotary",
            "rotary_embedding_base": 10000,
            "max_source_positions": 5000,
            "conv_depthwise_kernel_size": 31,
            "conformer_conv_dropout": 0.1,
            "num_conv_pos_embeddings": 16,
            "num_conv_pos_embedding_groups": 4,
            "feat_extract_activation": "gelu",
            **changes.pop("w2v2_config", {}),
        },
        **changes,
    }


def build(seed: int = 0, **changes: Any) -> Any:
    """The model in memory, a `muq.MuQ` in evaluation mode, with the weights of `seed`."""
    import torch
    from muq import MuQ, MuQConfig

    python_state, torch_state = random.getstate(), torch.get_rng_state()
    try:
        model = MuQ(MuQConfig(**config(**changes)))
        # MuQ seeds torch itself while it is built; and fresh batch norms would be no-ops.
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                if not tensor.is_floating_point() or name.endswith("inv_freq"):
                    continue
                noise = torch.randn(tensor.shape, generator=generator)
                if name.endswith("running_var"):
                    tensor.copy_(1 + noise.abs())
                elif tensor.ndim == 1 and name.endswith("weight"):
                    tensor.copy_(1 + 0.1 * noise)
                else:
                    tensor.copy_(noise * 0.7 / max(tensor[0].numel(), 4) ** 0.5)
        return model.eval()
    finally:
        random.setstate(python_state)
        torch.set_rng_state(torch_state)


def save(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """Write the model as config.json and model.safetensors into `folder`, as the hub does."""
    with contextlib.redirect_stdout(io.StringIO()):
        build(seed, **changes).save_pretrained(folder)
    return folder
