"""Makes a full-size MuQ checkpoint of random weights, for what MuQ costs where its weights are not.

    python benchmarks/full_muq.py FOLDER [--music DIR] [--uneven] [--json]

Its batch norms are calibrated on music, so that nothing degenerates: frames differ in time, and
tracks from each other. With --uneven the weights have heavier tails, and rows, columns and norms of
unlike size, as those of trained models do more or less: 8 bits find that harder. Its vectors mean
nothing. The other benchmarks make one for themselves unless --model names a folder, this one's or
real weights.
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common

CONFIG = {
    "conv_dim": 512,
    "encoder_dim": 1024,
    "encoder_depth": 12,
    "codebook_dim": 16,
    "codebook_size": 8192,
    "w2v2_config": {
        "hidden_size": 1024,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "conv_depthwise_kernel_size": 31,
    },
}

SECONDS = 3.0


def main(argv: Sequence[str] | None = None) -> int:
    parser = common.parser(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--music", type=Path, help="a folder of real music to calibrate on")
    parser.add_argument("--uneven", action="store_true", help="weights of unlike size")
    args = common.parse(parser, argv)
    common.prepare()
    made = make(args.folder, args.music, args.small, args.uneven)
    common.show({"benchmark": "full_muq", **made}, args)
    return 0


def make(
    folder: Path, music: Path | None = None, small: bool = False, uneven: bool = False
) -> dict[str, Any]:
    """Write config.json and model.safetensors; how much frames and tracks differ.

    `small`: a model of the same architecture with a thousandth of the weights. `uneven`: with
    weights of unlike size.
    """
    import numpy as np
    import torch

    from embed_assets_tests import small_muq, synth

    left_out: Counter[str] = Counter()
    if music:
        paths = common.tracks_in(music)
        windows = common.middles(paths[:: max(1, len(paths) // 8)], SECONDS, left_out)
    else:
        made = [synth.music(SECONDS, seed, 24_000, 1) for seed in range(8)]
        windows = [np.asarray(m, np.float32).reshape(-1) for m in made]
    audio = torch.from_numpy(np.stack(windows))
    with contextlib.redirect_stdout(io.StringIO()):
        module = small_muq.build(0, **({} if small else CONFIG))
    if uneven:
        make_uneven(module)
    norms = [m for m in module.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = None
        norm.reset_running_stats()
        norm.train()
    with torch.no_grad():
        module(audio)
        module.eval()
        frames = module(audio).last_hidden_state
        with contextlib.redirect_stdout(io.StringIO()):
            module.save_pretrained(folder)
    means = frames.mean(dim=1)
    return {
        "spread_over_frames": round(frames.std(dim=1).mean().item(), 3),
        "spread_over_tracks": round(means.std(dim=0).mean().item(), 3),
        "parameters": sum(p.numel() for p in module.parameters()),
        "left_out": left_out,
    }


def make_uneven(module: Any) -> None:
    """Give weights heavier tails, rows and columns of unlike size, and norms of unlike gain.

    Four channels of each layer norm have three times their gain, and batch norms leave few
    activations above zero.
    """
    import torch

    random = torch.Generator().manual_seed(7)

    def factors(spread: float, *shape: int) -> torch.Tensor:
        return torch.exp(spread * torch.randn(shape, generator=random))

    with torch.no_grad():
        for name, weights in module.state_dict().items():
            if not name.startswith(("model.conv.", "model.conformer.")) or "inv_freq" in name:
                continue
            batch_norm = ".bn" in name or "batch_norm" in name
            if weights.ndim > 1:
                weights.mul_(factors(0.25, *weights.shape))
                for axis in (0, 1) if weights.shape[1] > 1 else (0,):
                    shape = [-1 if i == axis else 1 for i in range(weights.ndim)]
                    weights.mul_(factors(0.3, weights.shape[axis]).reshape(shape))
            elif weights.is_floating_point() and name.endswith("weight"):
                weights.copy_(factors(0.3, len(weights)))
                if not batch_norm:
                    weights[torch.randperm(len(weights), generator=random)[:4]] *= 3
            elif ".bn" in name and name.endswith("bias"):
                weights.copy_(-0.3 + 0.3 * torch.randn(len(weights), generator=random))


if __name__ == "__main__":
    sys.exit(main())
